# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much room an image's content really takes, for the case that `qemu-img measure` asks for too much: it counts
zeros that were written as data, and a conversion leaves them out; and a commit needs none where data is replaced.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from .._core.wait import Deadline, check_reader
from .model import Format
from .parse import MapReader
from .tool import Node, QemuImg

BLOCK_BYTES = 4096  # the least that a conversion leaves out, and that a file system gives
_PIECE_BYTES = 256 * BLOCK_BYTES
_ZEROS = bytes(_PIECE_BYTES)
_ZERO_BLOCK = bytes(BLOCK_BYTES)


def data_bytes(node: Node, qemu_img: QemuImg) -> int:
    """Bytes in blocks of an image that hold anything but zeros. Data that is compressed or encrypted counts whole.

    Reads all of the image's data. Raises OSError, TimedOut, CommandFailed.
    """
    if node.format is Format.VHDX:  # QEMU doesn't tell where its data is; its file has little else
        found = data_bytes(node._replace(format=Format.RAW, size_bytes=None), qemu_img)
        return found if node.size_bytes is None else min(found, node.size_bytes)
    with _opened(node) as descriptor:
        counter = _Counter(descriptor, qemu_img.deadline, "counting the data of %s" % node.path)
        words = ["map", "-U", "--output=json", *node.arguments()]
        qemu_img.run(words, "mapping %s" % node.path, [node], on_output=counter.feed)
        counter.finish()
        return counter.found


@contextmanager
def _opened(node: Node) -> Iterator[int]:
    """The file that qemu-img reads, whatever its name means by now."""
    if node.descriptor >= 0:
        yield node.descriptor
        return
    descriptor = os.open(node.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Added(NamedTuple):
    """Bytes by which a commit makes its backing file grow: surely, and at most."""

    sure: int = 0
    most: int = 0


def data_side_by_side(overlay: Node, base: Node, qemu_img: QemuImg) -> tuple[int, int]:
    """Bytes of an overlay's own data where the image below holds none, and bytes that the image below holds.

    Raises TimedOut, CommandFailed.
    """
    below = _Extents()
    _map(base, below, qemu_img)
    above = _Overlap(below)
    _map(overlay._replace(alone=True), above, qemu_img)
    return above.total - above.both, below.total


def _map(node: Node, reader: MapReader, qemu_img: QemuImg) -> None:
    words = ["map", "-U", "--output=json", *node.arguments()]
    qemu_img.run(words, "mapping %s" % node.path, [node], on_output=reader.feed)
    reader.finish()


class _Data(MapReader):
    """The data of the image itself, counted while it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def take(self, extent: Mapping[str, Any]) -> None:
        """See MapReader."""
        if extent["depth"] or extent["zero"] or not extent["data"]:
            return
        length = int(extent["length"])
        self.total += length
        self.add(int(extent["start"]), int(extent["start"]) + length)

    def add(self, start: int, end: int) -> None:
        """A piece of it; they come in order."""
        raise NotImplementedError


class _Extents(_Data):
    """Where they begin and end, what adjoins as one: 16 bytes each, as a fragmented image has millions."""

    def __init__(self) -> None:
        super().__init__()
        self.starts, self.ends = array("q"), array("q")

    def add(self, start: int, end: int) -> None:
        """See _Data."""
        if self.ends and self.ends[-1] == start:
            self.ends[-1] = end
            return
        self.starts.append(start)
        self.ends.append(end)


class _Overlap(_Data):
    """How many bytes of it lie where the image ``below`` has data too."""

    def __init__(self, below: _Extents) -> None:
        super().__init__()
        self.both = 0
        self._below = below
        self._at = 0

    def add(self, start: int, end: int) -> None:
        """See _Data."""
        starts, ends = self._below.starts, self._below.ends
        while self._at < len(ends) and ends[self._at] <= start:
            self._at += 1
        other = self._at
        while other < len(ends) and starts[other] < end:
            self.both += min(end, ends[other]) - max(start, starts[other])
            other += 1


class _Counter(MapReader):
    def __init__(self, descriptor: int, deadline: Deadline, doing: str) -> None:
        super().__init__()
        self.found = 0
        self._descriptor = descriptor
        self._deadline = deadline
        self._doing = doing

    def take(self, extent: Mapping[str, Any]) -> None:
        """See MapReader."""
        if not extent["data"] or extent["zero"]:
            return
        length = int(extent["length"])
        self.found += self._count(int(extent["offset"]), length) if "offset" in extent else length

    def _count(self, offset: int, length: int) -> int:
        found = 0
        end = offset + length
        while offset < end:
            self._deadline.check(self._doing)
            check_reader()
            piece = os.pread(self._descriptor, min(_PIECE_BYTES, end - offset), offset)
            if not piece:
                break  # what lies behind a file's end reads as zeros
            found += _data_in(piece)
            offset += len(piece)
        return found


def _data_in(piece: bytes) -> int:
    if piece == _ZEROS:
        return 0
    blocks = (piece[at : at + BLOCK_BYTES] for at in range(0, len(piece), BLOCK_BYTES))
    return sum(len(block) for block in blocks if block != _ZERO_BLOCK[: len(block)])
