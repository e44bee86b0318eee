# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The index of an OVA: a tar archive whose headers are read, and whose bodies are passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .._core.errors import BadInput
from . import tar
from .href import plain
from .source import Reader, Source
from .tar import BLOCK_BYTES, Extent, TarFault

MEMBERS_LIMIT = 10_000  # a disk in chunks may well have some hundreds
HEADER_BYTES_LIMIT = 1024 * 1024  # long names and pax headers, of one member
HEAD_BYTES = 1024  # what is kept of a member, for who wants to know what it is
WINDOW_BYTES = 16 * 1024
_LATER_CHUNK = re.compile(r"\.(?!0{9}$)\d{9}$")
_ANEW = "Get the package anew, or make it anew with its .ovf first and plain files only"


class Member(NamedTuple):
    """A file in the archive. ``size_bytes`` is that of the file; ``extents`` are the parts of it that aren't zeros, and
    ``kept`` is its beginning.
    """

    name: str
    size_bytes: int
    extents: tuple[Extent, ...]
    kept: bytes

    @property
    def is_plain(self) -> bool:
        """Whether it is stored in one piece."""
        return not self.size_bytes or self.extents[:1] == (
            Extent(0, self.size_bytes, self.extents[0].stored_at if self.extents else 0),
        )


class Archive:
    """The members of an archive, read as far as they are asked for. ``keep`` are suffixes of names, and how many bytes
    of such a member are kept if it has no more.

    All raise BadInput for a broken archive and for what must not be in a package, and what sources raise.
    """

    def __init__(self, source: Source, keep: Mapping[str, int]) -> None:
        self._source = source
        self._keep = keep
        self._window = b""
        self._window_at = 0
        self._walk = self._members()
        self._found: dict[str, Member] = {}

    def find(self, suffix: str) -> Member | None:
        """The first member with such a name. Reads no further than to it."""
        for member in self._found.values():
            if member.name.lower().endswith(suffix):
                return member
        for member in self._walk:
            self._found[member.name] = member
            if member.name.lower().endswith(suffix):
                return member
        return None

    def members(self) -> Mapping[str, Member]:
        """All of them, in their order."""
        for member in self._walk:
            self._found[member.name] = member
        self._source.close()  # nobody looks at it again
        return self._found

    def reader(self, member: Member) -> Reader:
        """Its content."""
        if member.is_plain:
            return self._source.reader(member.extents[0].stored_at if member.extents else 0, member.size_bytes)
        return _SparseReader(self._source, member)

    def _members(self) -> Iterator[Member]:
        at = 0
        while at < self._source.size_bytes:
            start = at
            try:
                header = tar.parse_header(self._bytes(at, BLOCK_BYTES, "a header"))
                if header is None:
                    return  # what follows the end may be anything: programs pad
                member, at = self._member(header, at)
            except TarFault as fault:
                raise self._bad("at byte %d %s" % (start, fault)) from None
            if member is None:
                continue
            if member.name in self._found:
                raise self._bad("%s is there twice" % member.name)
            if len(self._found) == MEMBERS_LIMIT:
                raise self._bad("it has more than %d members" % MEMBERS_LIMIT)
            yield member

    def _member(self, header: tar.Header, at: int) -> tuple[Member | None, int]:
        """The member whose first header is at ``at``, None for what is no file, and where the next header is."""
        name, records = "", []  # type: str, list[tuple[str, str]]
        total = 0
        while header.type in (tar.LONG_NAME, tar.LONG_LINK, tar.PAX, tar.PAX_GLOBAL):
            total += header.size_bytes + BLOCK_BYTES
            if total > HEADER_BYTES_LIMIT:
                raise TarFault("the headers of one member are larger than %d bytes" % HEADER_BYTES_LIMIT)
            data = self._bytes(at + BLOCK_BYTES, header.size_bytes, "a header")
            if header.type == tar.LONG_NAME:
                name = tar.long_name(data)
            elif header.type == tar.PAX:
                records += tar.parse_pax(data)
            elif header.type == tar.PAX_GLOBAL:
                tar.refuse_global(tar.parse_pax(data))
            at += BLOCK_BYTES + _padded(header.size_bytes)
            following = tar.parse_header(self._bytes(at, BLOCK_BYTES, "a header"))
            if following is None:
                return None, at
            header = following
        last = dict(records)
        size = tar.decimal(last["size"], "size") if "size" in last else header.size_bytes
        name = last.get("GNU.sparse.name") or last.get("path") or name or header.name
        return self._file(header._replace(name=name, size_bytes=size), at, records)

    def _file(self, header: tar.Header, at: int, records: list[tuple[str, str]]) -> tuple[Member | None, int]:
        body = at + BLOCK_BYTES
        if header.type == tar.LABEL:
            return None, body
        name = _checked_name(header.name)
        if header.type == tar.DIRECTORY or (name.endswith("/") and not header.size_bytes):
            return None, body
        if not name:
            raise TarFault("there is a file without a name")
        if header.type not in (*tar.REGULAR, tar.SPARSE):
            raise TarFault("%s is %s" % (name, tar.strangeness(header.type)))
        stored, size, pairs = header.size_bytes, header.size_bytes, None
        if header.type == tar.SPARSE:
            pairs, size, body = self._old_sparse(at)
        elif any(keyword.startswith("GNU.sparse.") for keyword, _value in records):
            pairs, size, taken = self._pax_sparse(records, body, stored)
            body += taken
            stored -= taken
        if body + stored > self._source.size_bytes:
            raise TarFault(
                "%s is said to have %d bytes, but the archive ends after %d of them (it has %d bytes)"
                % (name, stored, max(0, self._source.size_bytes - body), self._source.size_bytes)
            )
        extents = tar.extents([(0, size)] if pairs is None else pairs, size, stored)
        extents = tuple(extent._replace(stored_at=body + extent.stored_at) for extent in extents)
        member = Member(name, size, extents, b"")
        return member._replace(kept=self._beginning(member)), body + _padded(stored)

    def _old_sparse(self, at: int) -> tuple[list[tuple[int, int]], int, int]:
        """By GNU's own header: the extents, the file's size, and where the body begins."""
        pairs, more, size = tar.old_extents(self._bytes(at, BLOCK_BYTES, "a header"))
        at += BLOCK_BYTES
        while more:
            if len(pairs) > tar.EXTENTS_LIMIT:
                break  # `tar.extents` refuses it
            found, more = tar.more_extents(self._bytes(at, BLOCK_BYTES, "a header"))
            pairs += found
            at += BLOCK_BYTES
        return pairs, size, at

    def _pax_sparse(
        self, records: list[tuple[str, str]], body: int, stored: int
    ) -> tuple[list[tuple[int, int]], int, int]:
        """By a pax header: the extents, the file's size, and how much of the body is a list of extents."""
        last = dict(records)
        size_text = last.get("GNU.sparse.realsize", last.get("GNU.sparse.size", ""))
        size = tar.decimal(size_text, "sparse size")
        pairs = tar.pax_extents(records)
        if pairs is not None:
            return pairs, size, 0
        if not tar.has_map_in_body(last):
            raise TarFault("there is a sparse file of a kind that isn't known here")
        length = min(stored, BLOCK_BYTES)
        while True:
            found = tar.body_map(self._bytes(body, length, "a sparse map"))
            if found is not None:
                return found[0], size, found[1]
            if length >= min(stored, HEADER_BYTES_LIMIT):
                raise TarFault("the map of a sparse file isn't whole")
            length = min(stored, 2 * length, HEADER_BYTES_LIMIT)

    def _beginning(self, member: Member) -> bytes:
        if _LATER_CHUNK.search(member.name):
            return b""
        size = min(member.size_bytes, HEAD_BYTES)
        for suffix, limit in self._keep.items():
            if member.name.lower().endswith(suffix) and member.size_bytes <= limit:
                size = member.size_bytes
        kept = bytearray(size)
        for extent in member.extents:
            length = min(extent.size_bytes, size - extent.offset)
            if length > 0:
                kept[extent.offset : extent.offset + length] = self._bytes(extent.stored_at, length, member.name)
        return bytes(kept)

    def _bytes(self, offset: int, length: int, what: str) -> bytes:
        """Bytes of the archive, through a window, since headers lie close together. Raises TarFault where it ends."""
        if offset + length > self._source.size_bytes:
            raise TarFault("the archive ends within %s" % what)
        end = self._window_at + len(self._window)
        if not self._window_at <= offset <= end:
            self._window_at = end = offset
            self._window = b""
        if offset + length > end:
            # only forward: a server without ranges would have to begin anew
            missing = offset + length - end
            self._window = self._window[offset - self._window_at :] + self._source.read_at(
                end, max(missing, WINDOW_BYTES)
            )
            self._window_at = offset
        return self._window[offset - self._window_at :][:length]

    def _bad(self, problem: str) -> BadInput:
        return BadInput("source", "%s: %s" % (self._source.shown, problem), _ANEW)


class _SparseReader:
    """See `source.Reader`."""

    def __init__(self, source: Source, member: Member) -> None:
        self._source = source
        self._size = member.size_bytes
        self._extents = list(member.extents)
        self._position = 0
        self._part: Reader | None = None

    def readinto(self, buffer: memoryview) -> int:
        if self._part is None:
            data_at = self._extents[0].offset if self._extents else self._size
            if self._position < data_at:
                return self._zeros(buffer, data_at)
            if not self._extents:
                return 0
            self._part = self._source.reader(self._extents[0].stored_at, self._extents[0].size_bytes)
        done = self._part.readinto(buffer)
        self._position += done
        if done:
            return done
        self.close()
        self._extents.pop(0)
        return self.readinto(buffer)

    def _zeros(self, buffer: memoryview, end: int) -> int:
        length = min(len(buffer), end - self._position)
        buffer[:length] = bytes(length)
        self._position += length
        return length

    def close(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.close()


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _checked_name(name: str) -> str:
    """A member's name without the beginning that means the same folder. Raises TarFault for one that leads elsewhere,
    or that no file of a package has.
    """
    name = plain(name)
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        raise TarFault("the name %s leads out of the package" % name)
    if not all(character.isprintable() for character in name):
        raise TarFault("the name %r isn't one that can be printed" % name)
    return name
