# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A package: its descriptor, and the files that belong to it, wherever they lie."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from .._core.errors import BadInput
from .._core.wait import Deadline
from . import manifest as manifests
from . import tar
from .archive import HEAD_BYTES, Archive
from .content import Content, OnRaw, beginning, unpacked_head, unpacked_size
from .descriptor import MAX_DESCRIPTOR_BYTES, parse
from .manifest import MAX_MANIFEST_BYTES
from .model import Digest, Envelope, File, Problem
from .preflight import IF_PRESENT, Verdict, problems, verdicts
from .source import Access, Source, is_url, open_source, pause
from .store import ArchiveStore, FolderStore, Store, chunk_names, decoded

if TYPE_CHECKING:
    from .signature import Signed

MAX_CERTIFICATE_BYTES = 1024 * 1024  # a signature and some certificates
_KEEP = {".ovf": MAX_DESCRIPTOR_BYTES, ".mf": MAX_MANIFEST_BYTES, ".cert": MAX_CERTIFICATE_BYTES}
_MARKS = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"  # what may stand before the first < of XML in UTF-8 or UTF-16
_SPARE_BYTES = 64 * 1024 * 1024
_OTHERS = {
    b"\x1f\x8b": "packed by gzip: unpack it first",
    b"\xfd7zXZ\x00": "packed by xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"KDMV": "a VMDK, so only a disk of a package",
    b"QFI\xfb": "a qcow2 image, so only a disk",
}


class Descriptor(NamedTuple):
    """The descriptor's file."""

    name: str
    text: bytes


class Package:
    """A package that is open. Only its descriptor has been read when it is made; more is read when it is asked for.

    ``location`` is where it is, without secrets. ``kind`` is ``ovf`` for a descriptor with files beside it, ``ova`` for
    an archive. Reading raises BadInput for a broken package, SourceFailed, StorageFailed, TimedOut.
    """

    def __init__(
        self, location: str, kind: str, descriptor: Descriptor, envelope: Envelope, store: Store, deadline: Deadline
    ) -> None:
        self.location = location
        self.kind = kind
        self.descriptor_name = descriptor.name
        self.descriptor = descriptor.text
        self.envelope = envelope
        self.store = store
        self.deadline = deadline
        self._lock = threading.RLock()
        self._members: Mapping[str, int] | None = None
        self._sizes: dict[str, int] = {}
        self._manifest: Mapping[str, Digest] | None = None
        self._signed: Signed | None = None

    @property
    def descriptor_text(self) -> str:
        """The descriptor as it is sent to others: in UTF-8, whatever it is in here."""
        from .encoding import decoded

        return decoded(self.descriptor, self.descriptor_name)

    @property
    def members(self) -> Mapping[str, int]:
        """Bytes of each file that is there, by its name: all of an archive's, of a folder those of the package."""
        with self._lock:
            if self._members is None:
                self._members = {self.descriptor_name: len(self.descriptor), **self.store.sizes()}
            return self._members

    @property
    def manifest_name(self) -> str | None:
        """The manifest's name, None without one."""
        return self._companion(".mf")

    @property
    def manifest_text(self) -> bytes | None:
        """The manifest as it is."""
        return self._small(self.manifest_name, MAX_MANIFEST_BYTES)

    @property
    def manifest(self) -> Mapping[str, Digest] | None:
        """The digests by the files' names. Raises BadInput for a manifest that can't be read."""
        text = self.manifest_text
        if text is not None and self._manifest is None:
            self._manifest = manifests.parse(text, self.manifest_name or "")
        return self._manifest

    @property
    def certificate_name(self) -> str | None:
        """The name of the certificate's file, None without one."""
        return self._companion(".cert")

    @property
    def certificate(self) -> bytes | None:
        """The certificate's file as it is."""
        return self._small(self.certificate_name, MAX_CERTIFICATE_BYTES)

    @property
    def signed(self) -> Signed | None:
        """What that file is worth, None without one. It is looked at once."""
        if self.certificate_name is not None and self._signed is None:
            from .signature import signed

            self._signed = signed(self)
        return self._signed

    def _companion(self, suffix: str) -> str | None:
        """The file with the descriptor's name and another suffix, else the only one with that suffix."""
        named = companion(self.descriptor_name, suffix)
        if named in self.members:
            return named
        others = [name for name in self.members if name.lower().endswith(suffix)]
        return others[0] if len(others) == 1 else None

    def _small(self, name: str | None, limit_bytes: int) -> bytes | None:
        return None if name is None else self.store.small(name, limit_bytes)

    def parts(self, file: File) -> tuple[str, ...]:
        """The names under which a file is in the package: its chunks if it has some. Of those that aren't there the
        first one is among them.
        """
        found: list[str] = []
        for name in chunk_names(file):
            if name not in self.members and decoded(name) in self.members:
                name = decoded(name)
            there = name in self.members
            if there or not found or file.size_bytes is not None:
                found.append(name)
            if not there:
                break
        return tuple(found)

    def name_of(self, file: File) -> str:
        """The name under which the package and its manifest have a file that isn't chunked; else its first chunk's."""
        return self.parts(file)[0]

    def size_of(self, file: File) -> int:
        """How many bytes of content a file has: of a packed one when it is unpacked, which is counted once.

        Raises SourceFailed for one that can't be unpacked or is larger than the descriptor allows.
        """
        parts = self.parts(file)
        if file.compression == "identity":
            return sum(self._size(name) for name in parts)
        with self._lock:
            if file.id not in self._sizes:
                self._sizes[file.id] = unpacked_size(
                    parts,
                    self.store.reader,
                    self._limit(file),
                    lambda count: self._tick("the unpacking of %s" % file.href, count),
                )
            return self._sizes[file.id]

    def _tick(self, doing: str, count: int) -> None:
        self.deadline.check(doing, "%d bytes" % count)
        pause()

    def _size(self, name: str) -> int:
        if name not in self.members:
            raise BadInput("source", "%s has no %s" % (self.location, name), "Get the package anew")
        return self.members[name]

    def _limit(self, file: File) -> int | None:
        """What a disk may take as a streamOptimized VMDK at most: all its data, badly compressed, and its tables."""
        capacities = [disk.capacity_bytes for disk in self.envelope.disks if disk.file_id == file.id]
        if not capacities or capacities[0] is None:
            return None
        return capacities[0] + capacities[0] // 16 + _SPARE_BYTES

    def content(self, file: File, on_raw: OnRaw | None = None) -> Content:
        """A file as it is to be used: chunks joined, unpacked. Several may be read at once. See Content and OnRaw."""
        size_bytes = self.size_of(file)
        return Content(self.parts(file), self.store.reader, size_bytes, file.compression != "identity", on_raw)

    def head(self, file: File, length: int) -> bytes:
        """The first bytes of a file's content, at most 512 of them. It must be there."""
        parts, packed = self.parts(file), file.compression != "identity"
        head = self.store.head(parts[0])
        if len(parts) > 1 and len(head) < HEAD_BYTES:  # chunks that are smaller than what is at hand of each
            return beginning(parts, self.store.reader, packed, length)
        return unpacked_head(head, length) if packed else head[:length]

    def problems(self, verify: str = IF_PRESENT) -> list[Problem]:
        """All that is wrong with it as far as headers and sizes tell; ``verify`` as in `preflight.VERIFY`."""
        return problems(self, verify)

    def verify(self, verify: str, deadline: Deadline) -> list[Verdict]:
        """Read all files and compare them with the manifest; see `preflight.verdicts`."""
        return verdicts(self, verify, deadline)

    def close(self) -> None:
        """Give back what it holds."""
        self.store.close()

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def open_package(location: str, access: Access, deadline: Deadline) -> Package:
    """The package at a path or URL of its .ovf or .ova; which of them it is, its content tells.

    Raises BadInput for what is no package or a broken one, SourceFailed, StorageFailed, TimedOut.
    """
    source = open_source(location, access, deadline)
    try:
        head = source.read_at(0, tar.BLOCK_BYTES)
        if _is_archive(head):
            return _of_archive(source, deadline)
        _refuse_others(source, head)
        return _of_folder(source, location, access, deadline)
    except BaseException:
        source.close()
        raise


def companion(descriptor_name: str, suffix: str) -> str:
    """The name that goes with a descriptor's: of its manifest or certificate."""
    return posixpath.splitext(descriptor_name)[0] + suffix


def _is_archive(head: bytes) -> bool:
    try:
        return len(head) == tar.BLOCK_BYTES and tar.parse_header(head) is not None
    except tar.TarFault:
        return False


def _refuse_others(source: Source, head: bytes) -> None:
    """Raise BadInput for what doesn't even begin like XML: none of it is read then."""
    if head.lstrip(_MARKS)[:1] == b"<":
        return
    what = "neither an OVF descriptor nor an OVA archive"
    if not head:
        what = "empty"
    elif head[257:262] == b"ustar":
        what = "a tar archive whose first header is damaged"
    for magic, other in _OTHERS.items():
        if head.startswith(magic):
            what = other
    raise BadInput("source", "%s is %s" % (source.shown, what), "Name the .ovf or .ova file of a package")


def _of_archive(source: Source, deadline: Deadline) -> Package:
    archive = Archive(source, _KEEP)
    member = archive.find(".ovf")
    if member is None:
        raise BadInput(
            "source", "%s is a tar archive without a descriptor (.ovf)" % source.shown, "Name an OVA, or make it anew"
        )
    _refuse_large("%s of %s" % (member.name, source.shown), member.size_bytes)
    envelope = parse(member.kept, "%s, %s" % (source.shown, member.name))
    descriptor = Descriptor(member.name, member.kept)
    return Package(source.shown, "ova", descriptor, envelope, ArchiveStore(archive, source), deadline)


def _of_folder(source: Source, location: str, access: Access, deadline: Deadline) -> Package:
    path = unquote(urlsplit(location).path) if is_url(location) else location
    name = posixpath.basename(path)
    _refuse_large(source.shown, source.size_bytes)
    descriptor = Descriptor(name, source.read_at(0, source.size_bytes))
    source.close()
    envelope = parse(descriptor.text, source.shown)
    others = [companion(name, suffix) for suffix in (".mf", ".cert")]
    store = FolderStore(location, envelope.files, others, access, deadline)
    return Package(source.shown, "ovf", descriptor, envelope, store, deadline)


def _refuse_large(name: str, size_bytes: int) -> None:
    if size_bytes > MAX_DESCRIPTOR_BYTES:
        raise BadInput(
            "source",
            "the descriptor %s has %d bytes, and at most %d are read" % (name, size_bytes, MAX_DESCRIPTOR_BYTES),
            "Honest descriptors are far smaller: get the package anew",
        )
