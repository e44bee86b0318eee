# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The headers of tar archives (POSIX.1-2001 ustar and pax, and GNU's), as values. Pure: nothing is read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

BLOCK_BYTES = 512
EXTENTS_LIMIT = 10_000  # parts of one sparse file; a package's files have few, if any

REGULAR = (b"0", b"\0", b"7")  # 7 is a file that some systems would store in one piece
SPARSE = b"S"
LONG_NAME = b"L"
LONG_LINK = b"K"
PAX = b"x"
PAX_GLOBAL = b"g"
DIRECTORY = b"5"
LABEL = b"V"
_STRANGE = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"M": "the rest of a file from another archive",
}
# of the ustar header
_NAME, _SIZE, _CHECKSUM, _TYPE = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)
_MAGIC, _PREFIX = slice(257, 263), slice(345, 500)
# of GNU's header for sparse files: four extents, whether more follow, and the size of the whole
_OLD_EXTENTS, _OLD_MORE, _OLD_SIZE = slice(386, 482), 482, slice(483, 495)
# of the blocks that go on with them
_MORE_EXTENTS, _MORE_MORE = slice(0, 504), 504
_NUMBER_BYTES = 12


class TarFault(Exception):
    """What is wrong with an archive, in words that follow the archive's name and the place."""


class Extent(NamedTuple):
    """A part of a file that is stored, the rest being zeros: where it is in the file, its size, where it is in the
    archive (or, as long as that isn't known, among the stored bytes).
    """

    offset: int
    size_bytes: int
    stored_at: int


class Header(NamedTuple):
    """One header. ``size_bytes`` is what is stored after it."""

    name: str
    type: bytes
    size_bytes: int


def parse_header(block: bytes) -> Header | None:
    """What a block of 512 bytes says; None for the zeros that end an archive. Raises TarFault."""
    if not any(block):
        return None
    stated = _octal(block[_CHECKSUM])
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    # some old programs added the bytes up as signed ones
    if stated not in (sum(rest), sum(byte - 256 if byte > 127 else byte for byte in rest)):
        raise TarFault("there is no tar header")
    name = _text(block[_NAME])
    # GNU's magic goes on with a space, and what it has in the prefix's place is something else
    if block[_MAGIC] == b"ustar\0" and block[_PREFIX.start]:
        name = "%s/%s" % (_text(block[_PREFIX]), name)
    return Header(name, block[_TYPE], parse_number(block[_SIZE]))


def strangeness(kind: bytes) -> str:
    """What a member of this type is, for types that a package can't have."""
    return _STRANGE.get(kind) or "of the unknown type %r" % kind.decode("latin-1")


def parse_number(field: bytes) -> int:
    """A number in octal digits, or by GNU's way for large ones in binary. Raises TarFault."""
    if field[:1] == b"\x80":
        number = int.from_bytes(field[1:], "big")
    elif field[:1] == b"\xff":
        raise TarFault("a number in the header is negative")
    else:
        number = _octal(field)
        if number < 0:
            raise TarFault("a number in the header isn't one")
    if number >= 2**63:
        raise TarFault("a number in the header is larger than any file")
    return number


def _octal(field: bytes) -> int:
    """-1 for what is none."""
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else -1
    except ValueError:
        return -1


def long_name(data: bytes) -> str:
    """The name that GNU stores as the body of a member of its own."""
    return _text(data)


def parse_pax(data: bytes) -> list[tuple[str, str]]:
    """The records of a pax header, in order: keywords may come more than once. Raises TarFault."""
    records = []
    at, end = 0, len(data.rstrip(b"\0"))
    while at < end:
        length_text, space, _rest = data[at : at + 21].partition(b" ")
        if not space or not length_text.isdigit():
            raise TarFault("a pax header has a record without a length")
        begin, at = at + len(length_text) + 1, at + int(length_text)
        keyword, equals, value = data[begin:at].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise TarFault("a pax header has a record that isn't whole")
        records.append((keyword.decode("utf-8", "replace"), value[:-1].decode("utf-8", "replace")))
    return records


def refuse_global(records: Sequence[tuple[str, str]]) -> None:
    """Raise TarFault for records that would change all members that follow: nobody writes them."""
    for keyword, _value in records:
        if keyword in ("path", "size") or keyword.startswith("GNU.sparse."):
            raise TarFault("a global pax header sets %s" % keyword)


def decimal(text: str, what: str) -> int:
    """A number as pax writes it. Raises TarFault."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) >= 2**63:
        raise TarFault("a pax header has a %s of %.30r" % (what, text))
    return int(text)


# sparse files


def old_extents(block: bytes) -> tuple[list[tuple[int, int]], bool, int]:
    """Of GNU's own header: the first extents (offset, size), whether more follow, the size of the whole file."""
    return _pairs(block[_OLD_EXTENTS]), bool(block[_OLD_MORE]), parse_number(block[_OLD_SIZE])


def more_extents(block: bytes) -> tuple[list[tuple[int, int]], bool]:
    """Of a block that goes on with them, and whether another follows."""
    return _pairs(block[_MORE_EXTENTS]), bool(block[_MORE_MORE])


def _pairs(field: bytes) -> list[tuple[int, int]]:
    numbers = [field[at : at + _NUMBER_BYTES] for at in range(0, len(field), _NUMBER_BYTES)]
    return [
        (parse_number(offset), parse_number(size)) for offset, size in zip(numbers[::2], numbers[1::2]) if offset[0]
    ]


def pax_extents(records: Sequence[tuple[str, str]]) -> list[tuple[int, int]] | None:
    """Those that a pax header lists (versions 0.0 and 0.1 of GNU's way). None where it lists none."""
    last = dict(records)
    if "GNU.sparse.map" in last:
        numbers = [decimal(word, "sparse map") for word in last["GNU.sparse.map"].split(",") if word]
        return _paired(numbers)
    if "GNU.sparse.numblocks" not in last:
        return None
    parts = ("GNU.sparse.offset", "GNU.sparse.numbytes")
    return _paired([decimal(value, keyword) for keyword, value in records if keyword in parts])


def has_map_in_body(records: Mapping[str, str]) -> bool:
    """Whether the list of extents is at the beginning of the body (version 1.0)."""
    return records.get("GNU.sparse.major") == "1" and records.get("GNU.sparse.minor") == "0"


def body_map(data: bytes) -> tuple[list[tuple[int, int]], int] | None:
    """That list, and how many bytes of the body it takes; None where ``data`` ends before it does. Raises TarFault."""
    first, line_end, _rest = data.partition(b"\n")
    if not line_end:
        return None
    count = decimal(_text(first), "sparse map")
    _refuse_many(count)
    lines = data.split(b"\n", 2 * count + 1)
    if len(lines) < 2 * count + 2:
        return None
    used = sum(len(line) + 1 for line in lines[:-1])
    pairs = _paired([decimal(_text(line), "sparse map") for line in lines[1:-1]])
    return pairs, -(-used // BLOCK_BYTES) * BLOCK_BYTES


def _paired(numbers: Sequence[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise TarFault("a sparse map ends within a pair")
    return list(zip(numbers[::2], numbers[1::2]))


def extents(pairs: Sequence[tuple[int, int]], size_bytes: int, stored_bytes: int) -> tuple[Extent, ...]:
    """The parts of a file of ``size_bytes``, of which ``stored_bytes`` are stored. Raises TarFault for a map that isn't
    in order, or doesn't fit these sizes.
    """
    _refuse_many(len(pairs))
    found = []
    end = stored_at = 0
    for offset, size in pairs:
        if offset < end or offset + size > size_bytes:
            raise TarFault("its sparse map isn't in order, or leads out of it")
        end = offset + size
        if size:
            found.append(Extent(offset, size, stored_at))
        stored_at += size
    if stored_at != stored_bytes:
        raise TarFault("its sparse map is for %d bytes, and %d are stored" % (stored_at, stored_bytes))
    return tuple(found)


def _refuse_many(count: int) -> None:
    if count > EXTENTS_LIMIT:
        raise TarFault("it is sparse with more than %d parts" % EXTENTS_LIMIT)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")
