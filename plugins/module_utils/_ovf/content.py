# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One file of a package as it is to be used: its chunks joined, and unpacked where it is packed by gzip."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from .._core.errors import LifecycleError
from .source import Reader, SourceFailed

_GZIP = 16 + zlib.MAX_WBITS
_PACKED_BYTES = 256 * 1024
# Packed data may come in several parts, and zeros may follow it. Neither goes on for ever: nothing comes of it that
# somebody could count, and look at the time.
_EMPTY_PARTS = 1000
_PADDING_BYTES = 1024 * 1024

OnRaw = Callable[[str, memoryview], None]
"""Told what was read of which of the package's files, in their order, as it is there. Of files that aren't packed it is
a part of the caller's own buffer: who keeps it must not read into that buffer before it is done with.
"""


class _Opens(Protocol):
    def __call__(self, name: str) -> Reader:
        """Open one of the package's files from its beginning."""


class Content:
    """A stream of ``size_bytes``, which are known beforehand. One thread reads it; others may read others meanwhile.

    ``parts`` are the names of the package's files that it is in.
    """

    def __init__(
        self, parts: Sequence[str], opens: _Opens, size_bytes: int, packed: bool, on_raw: OnRaw | None
    ) -> None:
        self.size_bytes = size_bytes
        joined = _Joined(parts, opens, on_raw)
        self._reader: Reader = _Unpacked(joined, parts[0], size_bytes) if packed else joined
        self._name = parts[0]
        self._done = 0

    def readinto(self, buffer: memoryview) -> int:
        """Put what comes next into the buffer, as much as is at hand; how many bytes that was, 0 at the end.

        Raises SourceFailed for a file that was changed, truncated or can't be unpacked, StorageFailed, TimedOut.
        """
        done = self._reader.readinto(buffer)
        self._done += done
        if not done and self._done != self.size_bytes:
            raise _changed(self._name, self._done, self.size_bytes)
        return done

    def close(self) -> None:
        """Give back what it holds. A second time does nothing."""
        self._reader.close()

    def __enter__(self) -> Content:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def unpacked_size(parts: Sequence[str], opens: _Opens, limit_bytes: int | None, tick: Callable[[int], None]) -> int:
    """How large a packed file is when it is unpacked, counted. ``tick`` hears the count now and then.

    Raises SourceFailed, also when it is larger than ``limit_bytes``.
    """
    reader = _Unpacked(_Joined(parts, opens, None), parts[0], limit_bytes)
    buffer = memoryview(bytearray(1024 * 1024))
    count = 0
    try:
        while True:
            done = reader.readinto(buffer)
            if not done:
                return count
            count += done
            tick(count)
    finally:
        reader.close()


def beginning(parts: Sequence[str], opens: _Opens, packed: bool, length: int) -> bytes:
    """The first bytes of a content, fewer where it has no more."""
    joined = _Joined(parts, opens, None)
    reader: Reader = _Unpacked(joined, parts[0], None) if packed else joined
    head = b""
    try:
        while len(head) < length:
            buffer = memoryview(bytearray(length - len(head)))
            done = reader.readinto(buffer)
            if not done:
                break
            head += buffer[:done]
    finally:
        reader.close()
    return head


def unpacked_head(head: bytes, length: int) -> bytes:
    """The first bytes of what a packed file holds, as far as its own first bytes tell."""
    try:
        return zlib.decompressobj(_GZIP).decompress(head, length)
    except zlib.error:
        return b""


class _Joined:
    """The parts, one after the other. See `source.Reader`."""

    def __init__(self, parts: Sequence[str], opens: _Opens, on_raw: OnRaw | None) -> None:
        self._left = list(parts)
        self._opens = opens
        self._on_raw = on_raw
        self._reader: Reader | None = None

    def readinto(self, buffer: memoryview) -> int:
        while self._left:
            if self._reader is None:
                self._reader = self._opens(self._left[0])
            done = self._reader.readinto(buffer)
            if done:
                if self._on_raw is not None:
                    self._on_raw(self._left[0], buffer[:done])
                return done
            self.close()
            self._left.pop(0)
        return 0

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


class _Unpacked:
    """What is packed in the parts. See `source.Reader`."""

    def __init__(self, packed: Reader, name: str, limit_bytes: int | None) -> None:
        self._packed = packed
        self._name = name
        self._limit = limit_bytes
        self._count = 0
        self._input = b""
        self._ended = False  # the packed data may end here
        self._part_bytes = 0
        self._empty_parts = 0
        self._padding_bytes = 0
        self._unpack = zlib.decompressobj(_GZIP)

    def readinto(self, buffer: memoryview) -> int:
        while True:
            if not self._input and not self._refill():
                return 0
            self._ended = False
            try:
                piece = self._unpack.decompress(self._input, len(buffer))
            except zlib.error as error:
                raise self._bad("it can't be unpacked: %s" % error) from None
            self._input = self._unpack.unconsumed_tail
            self._part_bytes += len(piece)
            if self._unpack.eof:
                self._end_part()
            if piece:
                return self._given(piece, buffer)

    def _end_part(self) -> None:
        self._empty_parts = 0 if self._part_bytes else self._empty_parts + 1
        if self._empty_parts > _EMPTY_PARTS:
            raise self._bad("more than %d of its packed parts in a row are empty" % _EMPTY_PARTS)
        self._part_bytes = 0
        self._input = self._unpack.unused_data
        self._ended = True
        self._unpack = zlib.decompressobj(_GZIP)
        self._skip_padding()

    def _given(self, piece: bytes, buffer: memoryview) -> int:
        self._count += len(piece)
        if self._limit is not None and self._count > self._limit:
            raise self._bad("unpacked it is larger than %d bytes, more than it may be" % self._limit)
        buffer[: len(piece)] = piece
        return len(piece)

    def _refill(self) -> bool:
        """Whether there is more to unpack."""
        while not self._input:
            # new each time: who hears of what was read may keep it
            fresh = memoryview(bytearray(_PACKED_BYTES))
            done = self._packed.readinto(fresh)
            if not done:
                if self._ended:
                    return False
                raise self._bad("it ends within its packed data")
            self._input = bytes(fresh[:done])
            self._skip_padding()
        return True

    def _skip_padding(self) -> None:
        """Zeros may follow packed data, and so may more of it."""
        if not self._ended:
            return
        before = len(self._input)
        self._input = self._input.lstrip(b"\0")
        self._padding_bytes += before - len(self._input)
        if self._padding_bytes > _PADDING_BYTES:
            raise self._bad("more than %d zeros follow its packed data" % _PADDING_BYTES)

    def _bad(self, problem: str) -> LifecycleError:
        return SourceFailed("%s: %s. Get the package anew." % (self._name, problem), path=self._name)

    def close(self) -> None:
        self._packed.close()


def _changed(name: str, done: int, expected: int) -> LifecycleError:
    return SourceFailed(
        "%s had %d bytes instead of %d when it was read. Wait until whoever writes it has ended, then run the task "
        "again." % (name, done, expected),
        path=name,
    )
