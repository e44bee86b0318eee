# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an image's content comes from: opened once, looked at, proved, and compared through that same open file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from .._core.errors import BadInput, LifecycleError, Refused
from .._core.wait import Deadline, check_reader
from . import usage
from .header import Header, inspect
from .identity import identity_of
from .model import Format, ImageInfo, Source, SourceIdentity, SourceSeen
from .tool import Node, QemuImg, pair

HASH_BLOCK_BYTES = 1024 * 1024
_ADVICE = "Get the source anew, or correct source_format."
DECRYPT = (
    "qemu-img convert --object secret,id=key,file=KEYFILE "
    "--image-opts driver=qcow2,encrypt.key-secret=key,file.filename=IMAGE -O raw NEW"
)


class OpenSource:
    """A source that was opened and found fit.

    Reading goes through ``node``; ``refuse_if_changed`` tells whether it was left alone meanwhile.
    """

    def __init__(
        self, source: Source, descriptor: int, node: Node, info: ImageInfo, header_format: Format | None
    ) -> None:
        self._source = source
        self._descriptor = descriptor
        self.node = node
        self.virtual_size_bytes = info.virtual_size_bytes
        self._dirty = info.dirty
        self._header_format = header_format
        self.identity = identity_of(source, os.fstat(descriptor))
        self._file = _file_of(os.fstat(descriptor))

    @property
    def seen(self) -> SourceSeen:
        return SourceSeen(self.identity, self.node.format, self.virtual_size_bytes, self._header_format, self._dirty)

    def prove(self, deadline: Deadline) -> None:
        """Compare the open file with the declared checksum. Raises BadInput when they differ."""
        refuse_other_checksum(self._source, self._descriptor, deadline)

    def refuse_if_changed(self, since: SourceIdentity | None = None) -> None:
        """Raise Refused when somebody wrote to it, or put another in its place, since it was opened or had the
        identity ``since``: what was read is then of no known state.
        """
        if identity_of(self._source, os.fstat(self._descriptor)) != (since or self.identity) or self._is_exchanged():
            raise Refused(
                "use %s" % self._source.shown,
                "while it was read it was written to, its name, owner or mode was changed, or another took its place",
                "Wait until whoever does that has ended, then run the task again",
            )

    def _is_exchanged(self) -> bool:
        """Whether its name meant another file meanwhile, for what can only be read by its name."""
        if not self.node.is_by_name:
            return False
        try:
            return _file_of(os.stat(self.node.path)) != self._file
        except OSError:
            return True


def _file_of(status: os.stat_result) -> tuple[int, int, int]:
    """A file that got another name for a while, and its own again, has another time of change."""
    return status.st_dev, status.st_ino, status.st_ctime_ns


@contextmanager
def opened(source: Source, qemu_img: QemuImg, fetched: str = "") -> Iterator[OpenSource]:
    """Open a local source, or the file ``fetched`` into which a URL was downloaded.

    Raises BadInput or Refused for what must not be read. Its checksum is proved by :meth:`OpenSource.prove`.
    """
    if source.is_url and not fetched:
        raise LifecycleError("%s has not been fetched yet." % source.shown)
    path = fetched or source.location
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        header = inspect(descriptor)
        node = _fit_node(source, path, descriptor, header)
        usage.refuse_written(path, "read %s" % source.shown)
        info = qemu_img.info(node, trusted=source.allow_references, advice=_ADVICE)
        if info.encrypted:
            raise BadInput(
                "source",
                "%s is encrypted, and its passphrase isn't known here" % source.shown,
                "Decrypt it first: %s" % DECRYPT,
            )
        yield OpenSource(source, descriptor, node, info, shown_format(header))
    finally:
        os.close(descriptor)


def shown_format(header: Header) -> Format | None:
    """What a source is read as if no format is declared; None where that would be refused."""
    return None if header.unfit else header.format or Format.RAW


def _fit_node(source: Source, path: str, descriptor: int, header: Header) -> Node:
    if header.unfit and source.format is not Format.RAW:
        raise BadInput(
            "source",
            "%s is %s" % (source.shown, header.unfit),
            "Unpack or convert it first; if it really is a raw disk, say source_format: raw",
        )
    image_format = source.format or header.format or Format.RAW
    if image_format is not Format.RAW and header.format is not image_format:
        raise BadInput(
            "source_format",
            "%s isn't %s; it looks like %s"
            % (source.shown, image_format.value, header.format.value if header.format else "raw"),
            "Correct it, or leave it out",
        )
    if image_format is Format.RAW or not header.references:
        return Node(path, image_format, descriptor, alone=True)
    if not source.allow_references:
        raise Refused(
            "read %s" % source.shown,
            "it names other files of this host, whose content would come along: %s" % ", ".join(header.references),
            "If you trust whoever made it, use allow_references: true",
            references=list(header.references),
        )
    return Node(path, image_format)  # the names in it start where it lies: see `OpenSource.refuse_if_changed`


def refuse_other_checksum(source: Source, descriptor: int, deadline: Deadline) -> None:
    """Raise BadInput unless an open file has the declared checksum, if one is declared; TimedOut, Stopped."""
    if source.checksum is None:
        return
    algorithm, expected = source.checksum
    digest = hashlib.new(algorithm, usedforsecurity=False)
    offset = 0
    while True:
        deadline.check("the checksum of %s" % source.shown)
        check_reader()
        piece = os.pread(descriptor, HASH_BLOCK_BYTES, offset)
        if not piece:
            break
        digest.update(piece)
        offset += len(piece)
    if digest.hexdigest() != expected:
        raise BadInput(
            "checksum",
            "%s has %s:%s, not %s:%s" % (source.shown, algorithm, digest.hexdigest(), algorithm, expected),
            "Nothing was written. Fetch the source again, or correct the checksum if the source was renewed",
        )


def has_content_of(
    target: Node, source: OpenSource, target_size_bytes: int, least_bytes: int | None, qemu_img: QemuImg
) -> bool:
    """Whether the target shows the source's content, perhaps followed by zeros; a target of ``least_bytes`` may show
    its beginning only (see `Desired.least_bytes`).
    """
    node = source.node
    if target_size_bytes < source.virtual_size_bytes:
        if least_bytes is None or target_size_bytes < least_bytes:
            return False
        node = node._replace(size_bytes=target_size_bytes)
    words = ["compare", "-U", *pair(node, target)]
    # Not strict: another size passes (we looked at it above), and so does other allocation.
    done = qemu_img.run(words, "comparing %s with %s" % (target.path, node.path), [node, target], ok=(0, 1))
    return done.rc == 0
