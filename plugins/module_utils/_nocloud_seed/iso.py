# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An ISO 9660 image of a few small files, written without any tool. Pure: the same files give the same bytes, always.

The names are there three times: in the primary tree as ISO 9660 allows them, beside those as Rock Ridge has them (read
by Linux and the BSDs), and in a Joliet tree (read by Windows). Numbers of sections below are those of ECMA-119, SUSP
1.12 and RRIP 1.12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

SECTOR = 2048
SYSTEM_SECTORS = 16  # ECMA-119 6.2.1: left to the system, here zeros
# One moment for everything, so that equal content makes equal images: 2000-01-01 00:00:00 UTC.
_SHORT_TIME = bytes([100, 1, 1, 0, 0, 0, 0])  # 9.1.5
_LONG_TIME = b"2000010100000000\0"  # 8.4.26.1
_NO_TIME = b"0000000000000000\0"
_FLAT, _FOLDER = 0, 2  # 9.1.6
_FILE_MODE, _FOLDER_MODE = 0o100444, 0o040555
_JOLIET_LEVEL_3 = b"%/E"


class Tree(NamedTuple):
    """One of the two directory trees: how it writes names, and where its parts lie."""

    joliet: bool
    path_table_little: int
    path_table_big: int
    root: int


def iso_image(label: str, files: Mapping[str, bytes]) -> bytes:
    """The image of a volume called ``label`` that holds ``files`` in its root.

    ``label`` is at most 16 ASCII characters. The names, of letters and dashes, differ in their first eight characters,
    and there are few enough to fit in one sector: a seed has no more than four.
    """
    names = sorted(files)
    places = _places(names, files)
    trees = (Tree(False, 19, 20, 23), Tree(True, 21, 22, 24))
    sectors = places[-1][1] + _sectors(places[-1][2]) if places else 25
    image = bytearray(sectors * SECTOR)
    _put(image, 16, _descriptor(1, label, sectors, trees[0]))
    _put(image, 17, _descriptor(2, label, sectors, trees[1]))
    _put(image, 18, b"\xffCD001\x01")
    for tree in trees:
        _put(image, tree.path_table_little, _path_table("<", tree.root))
        _put(image, tree.path_table_big, _path_table(">", tree.root))
        _put(image, tree.root, _directory(tree, places))
    for name, sector, _size in places:
        _put(image, sector, files[name])
    return bytes(image)


def _places(names: Sequence[str], files: Mapping[str, bytes]) -> list[tuple[str, int, int]]:
    """Name, first sector and size of each file, one after the other behind the directories."""
    found, sector = [], 25
    for name in names:
        found.append((name, sector, len(files[name])))
        sector += _sectors(len(files[name]))
    return found


def _sectors(size: int) -> int:
    return max(1, -(-size // SECTOR))


def _put(image: bytearray, sector: int, content: bytes) -> None:
    image[sector * SECTOR : sector * SECTOR + len(content)] = content


def _both(layout: str, number: int) -> bytes:
    """A number in both byte orders (7.2.3, 7.3.3)."""
    return struct.pack("<" + layout, number) + struct.pack(">" + layout, number)


def _text(joliet: bool, text: str, length: int) -> bytes:
    """A field of the descriptor, padded with spaces; in Joliet two bytes a character, a zero byte if one is over."""
    if joliet:
        return text.ljust(length // 2).encode("utf-16-be").ljust(length, b"\0")
    return text.encode("ascii").ljust(length)


def _descriptor(kind: int, label: str, sectors: int, tree: Tree) -> bytes:
    """The volume descriptor of one tree (8.4, 8.5)."""
    joliet = tree.joliet
    escape = _JOLIET_LEVEL_3 if joliet else b""
    return b"".join(
        (
            struct.pack("B5sBB", kind, b"CD001", 1, 0),
            _text(joliet, "", 32),
            _text(joliet, label, 32),
            bytes(8),
            _both("I", sectors),
            escape.ljust(32, b"\0"),
            _both("H", 1),
            _both("H", 1),
            _both("H", SECTOR),
            _both("I", len(_path_table("<", tree.root))),
            struct.pack("<II", tree.path_table_little, 0),
            struct.pack(">II", tree.path_table_big, 0),
            _record(b"\0", tree.root, SECTOR, _FOLDER),
            *(_text(joliet, "", length) for length in (128, 128, 128, 128, 37, 37, 37)),
            _LONG_TIME * 2,
            _NO_TIME * 2,
            b"\1",
        )
    )


def _path_table(order: str, root: int) -> bytes:
    """The root alone (9.4)."""
    return struct.pack(order + "BBIH", 1, 0, root, 1) + b"\0\0"


def _directory(tree: Tree, places: Iterable[tuple[str, int, int]]) -> bytes:
    """The root directory: itself, its parent (itself again), and the files."""
    rock = not tree.joliet
    first = _sharing() + _posix(_FOLDER_MODE, 2) + _times() + _extension() if rock else b""
    second = _posix(_FOLDER_MODE, 2) + _times() if rock else b""
    parts = [_record(b"\0", tree.root, SECTOR, _FOLDER, first), _record(b"\1", tree.root, SECTOR, _FOLDER, second)]
    for name, sector, size in places:
        if rock:
            extra = _posix(_FILE_MODE, 1) + _times() + _name(name)
            parts.append(_record(_plain(name), sector, size, _FLAT, extra))
        else:
            parts.append(_record(name.encode("utf-16-be"), sector, size, _FLAT))
    return b"".join(parts)


def _plain(name: str) -> bytes:
    """What ISO 9660 allows of a name (7.5): eight capital letters, digits and underscores."""
    return name[:8].upper().replace("-", "_").encode("ascii") + b".;1"


def _record(identifier: bytes, sector: int, size: int, flags: int, extra: bytes = b"") -> bytes:
    """A directory record (9.1), its system use area filled with ``extra``."""
    body = b"".join(
        (
            _both("I", sector),
            _both("I", size),
            _SHORT_TIME,
            struct.pack("BBB", flags, 0, 0),
            _both("H", 1),
            struct.pack("B", len(identifier)),
            identifier,
            b"" if len(identifier) % 2 else b"\0",
            extra,
            b"\0" if len(extra) % 2 else b"",
        )
    )
    return struct.pack("BB", len(body) + 2, 0) + body


def _sharing() -> bytes:
    """SP: this directory's records carry Rock Ridge (SUSP 5.3)."""
    return b"SP\x07\x01\xbe\xef\0"


def _extension() -> bytes:
    """ER: what is used is Rock Ridge (SUSP 5.5); its describing texts are left empty."""
    identifier = b"RRIP_1991A"
    return b"ER" + struct.pack("BBBBBB", 8 + len(identifier), 1, len(identifier), 0, 0, 1) + identifier


def _posix(mode: int, links: int) -> bytes:
    """PX: mode, links, owner and group root (RRIP 4.1.1)."""
    return b"PX\x24\x01" + _both("I", mode) + _both("I", links) + _both("I", 0) * 2


def _times() -> bytes:
    """TF: modification, access and attribute time (RRIP 4.1.6)."""
    return b"TF\x1a\x01\x0e" + _SHORT_TIME * 3


def _name(name: str) -> bytes:
    """NM: the name (RRIP 4.1.4)."""
    encoded = name.encode("utf-8")
    return b"NM" + struct.pack("BBB", 5 + len(encoded), 1, 0) + encoded
