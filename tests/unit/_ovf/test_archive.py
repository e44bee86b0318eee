# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of an OVA against what Python's tarfile writes and reads, and all that it refuses."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf import archive as archives
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.archive import Archive
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.source import LocalFile, read_all

KEEP = {".ovf": 100_000, ".mf": 1000}
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
LONG = "%s/%s.vmdk" % ("folder" * 20, "disk" * 20)


class InMemory:
    """A file without a disk, which remembers what was read of it."""

    shown = "x.ova"

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)
        self.read: list[tuple[int, int]] = []

    def read_at(self, offset, length):
        self.read.append((offset, length))
        return self._content[offset : offset + length]

    def reader(self, offset, length):
        return Span(self._content[offset : offset + length])

    def close(self):
        pass


class Span(io.BytesIO):
    """A reader."""


def header(name="a", kind=tarfile.REGTYPE, size=0, **more) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def packed(*members, tar_format=tarfile.GNU_FORMAT, end=True) -> bytes:
    """An archive of headers, each with the content that follows it."""
    whole = [info.tobuf(tar_format) + body + bytes(-len(body) % 512) for info, body in members]
    return b"".join([*whole, bytes(1024 * end)])


def plain(name, body=b"x") -> tuple[tarfile.TarInfo, bytes]:
    return header(name, size=len(body)), body


def contents(content: bytes) -> dict[str, bytes]:
    archive = Archive(InMemory(content), KEEP)
    return {name: read_all(archive.reader(member), member.size_bytes) for name, member in archive.members().items()}


# what is read

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\", categories=["L", "N"]), min_size=1, max_size=120)


@given(files=st.dictionaries(NAMES, st.binary(max_size=3000), max_size=6), tar_format=st.sampled_from(FORMATS))
@QUICK
def test_all_that_tarfile_writes_comes_back(files, tar_format):
    if tar_format == tarfile.USTAR_FORMAT:
        files = {name[:20]: content for name, content in files.items()}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        for name, body in files.items():
            archive.addfile(header(name, size=len(body)), io.BytesIO(body))
    assert contents(stream.getvalue()) == files


@pytest.mark.parametrize("tar_format", FORMATS)
def test_a_long_name(tar_format):
    assert contents(packed(plain(LONG, b"abc"), tar_format=tar_format)) == {LONG: b"abc"}


def test_folders_and_labels_are_no_files_and_names_begin_below_them():
    content = packed(
        (header("label", b"V"), b""), (header("./", tarfile.DIRTYPE), b""), plain("./web.ovf"), plain("web.mf")
    )
    assert list(contents(content)) == ["web.ovf", "web.mf"]


@pytest.mark.parametrize("tail", [b"", bytes(512), bytes(1024) + b"rubbish", bytes(50_000)])
def test_any_tail_is_passed_over(tail):
    assert contents(packed(plain("a"), end=False) + tail) == {"a": b"x"}


def test_a_name_of_the_pax_header_and_a_size_count_for_more():
    content = packed((header("short", size=3, pax_headers={"path": "other"}), b"abc"), tar_format=tarfile.PAX_FORMAT)
    assert contents(content) == {"other": b"abc"}


def test_a_size_in_binary():
    info = header("a", size=3)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + (3).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert contents(bytes(block) + b"abc".ljust(512, b"\0")) == {"a": b"abc"}


def test_bodies_are_passed_over_and_reading_goes_forward():
    body = bytes(4 << 20)
    source = InMemory(packed(plain("web.ovf", b"<x/>" * 100), *(plain("%d" % number, body) for number in range(5))))
    archive = Archive(source, KEEP)
    assert archive.find(".ovf").kept == b"<x/>" * 100
    assert len(source.read) == 1
    assert len(archive.members()) == 6
    assert sum(length for _offset, length in source.read) < 8 * archives.WINDOW_BYTES
    ends = [offset + length for offset, length in source.read]
    assert all(start >= end for (start, _length), end in zip(source.read[1:], ends))


def test_what_is_kept_of_a_member():
    members = Archive(
        InMemory(
            packed(
                plain("web.ovf", b"o" * 5000),
                plain("disk", b"d" * 5000),
                plain("disk.000000000", b"c" * 5000),
                plain("disk.000000001", b"c" * 5000),
                plain("large.mf", b"m" * 5000),
            )
        ),
        KEEP,
    ).members()
    kept = {name: len(member.kept) for name, member in members.items()}
    assert kept == {"web.ovf": 5000, "disk": 1024, "disk.000000000": 1024, "disk.000000001": 0, "large.mf": 1024}


# sparse files: what is stored of each is "AB" and "C", at 512 and 2048 of 4096 bytes

HOLES = bytes(512) + b"A" * 512 + bytes(1024) + b"C" * 5 + bytes(4096 - 2053)
STORED = b"A" * 512 + b"C" * 5
PAX_SPARSE = [
    {"GNU.sparse.size": "4096", "GNU.sparse.map": "512,512,2048,5"},
    {"GNU.sparse.realsize": "4096", "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"},
]


def pax(records: list[tuple[str, str]]) -> bytes:
    """A pax header of these records, in this order."""
    body = b""
    for keyword, value in records:
        rest = len(keyword) + len(value) + 3
        length = rest + len(str(rest))
        length = rest + len(str(length))
        body += b"%d %s=%s\n" % (length, keyword.encode(), value.encode())
    return packed((header("pax", tarfile.XHDTYPE, len(body)), body), end=False)


def sparse_1_0(pairs=((512, 512), (2048, 5)), count=None) -> bytes:
    numbers = [len(pairs) if count is None else count, *(number for pair in pairs for number in pair)]
    listed = "".join("%d\n" % number for number in numbers).encode()
    body = listed + bytes(-len(listed) % 512) + STORED
    return pax(list(PAX_SPARSE[1].items())) + packed((header("a", size=len(body)), body))


def old_sparse(pairs, size=4096, stored=STORED) -> bytes:
    """As GNU writes them: four in the header, then 21 in each block after it."""
    block = bytearray(header("a", b"S", len(stored)).tobuf(tarfile.GNU_FORMAT))
    numbers = b"".join(b"%011o\0%011o\0" % pair for pair in pairs)
    block[386:482] = numbers[:96].ljust(96, b"\0")
    block[482] = len(pairs) > 4
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    content = bytes(block)
    rest = numbers[96:]
    while rest:
        content += rest[:504].ljust(504, b"\0") + bytes([len(rest) > 504]) + bytes(7)
        rest = rest[504:]
    return content + stored + bytes(-len(stored) % 512 + 1024)


def test_sparse_files_are_read_as_what_they_unpack_to():
    numbers = [("GNU.sparse.size", "4096"), ("GNU.sparse.numblocks", "2")]
    for pair in ("512", "512"), ("2048", "5"):
        numbers += [("GNU.sparse.offset", pair[0]), ("GNU.sparse.numbytes", pair[1])]
    body = packed((header("a", size=len(STORED)), STORED))
    for content in (
        pax(numbers) + body,
        pax(list(PAX_SPARSE[0].items())) + body,
        sparse_1_0(),
        old_sparse([(512, 512), (2048, 5)]),
    ):
        assert contents(content) == {"a": HOLES}


def test_a_sparse_file_of_many_parts():
    pairs = [(1000 * number, 1) for number in range(100)]
    expected = bytearray(100_000)
    for number in range(100):
        expected[1000 * number] = 65
    assert contents(old_sparse(pairs, 100_000, b"A" * 100)) == {"a": bytes(expected)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (old_sparse([(2048, 5), (512, 512)]), "isn't in order"),
        (old_sparse([(512, 512), (1000, 5)]), "isn't in order"),
        (old_sparse([(512, 512), (4095, 5)]), "leads out of it"),
        (old_sparse([(512, 511), (2048, 5)]), "is for 516 bytes, and 517 are stored"),
        (old_sparse([(10 * number, 1) for number in range(10_001)], 10**6, b"A" * 10_001), "more than 10000 parts"),
        (sparse_1_0(count=99_999_999), "more than 10000 parts"),
        (sparse_1_0(count=500), "the map of a sparse file isn't whole|a sparse map of"),
        (pax([("GNU.sparse.size", "1"), ("GNU.sparse.map", "1,2,3")]) + packed(plain("a")), "ends within a pair"),
        (pax([("GNU.sparse.size", "1"), ("GNU.sparse.major", "2")]) + packed(plain("a")), "isn't known here"),
    ],
)
def test_broken_sparse_files(content, told):
    with pytest.raises(BadInput, match=told):
        contents(content)


# what is refused

GOOD = plain("good")


def damaged() -> bytes:
    content = bytearray(packed(GOOD, plain("b")))
    content[1024 + 20] ^= 1
    return bytes(content)


REFUSED = {
    "symbolic link": (packed(GOOD, (header("a", tarfile.SYMTYPE, linkname="/etc/passwd"), b"")), "a is a symbolic lin"),
    "hard link": (packed(GOOD, (header("a", tarfile.LNKTYPE, linkname="good"), b"")), "a is a hard link"),
    "device": (packed((header("a", tarfile.BLKTYPE), b"")), "a is a block device"),
    "character device": (packed((header("a", tarfile.CHRTYPE), b"")), "a is a character device"),
    "pipe": (packed((header("a", tarfile.FIFOTYPE), b"")), "a is a named pipe"),
    "unknown type": (packed((header("a", b"~"), b"")), "a is of the unknown type '~'"),
    "absolute": (packed(plain("/etc/passwd")), "/etc/passwd leads out of the package"),
    "parent": (packed(plain("a/../../b")), "a/../../b leads out of the package"),
    "parent in a long name": (packed(plain("../" * 60 + "b")), "leads out of the package"),
    "parent in a pax name": (pax([("path", "../b")]) + packed(GOOD), "leads out of the package"),
    "backslash": (packed(plain("..\\b")), "leads out of the package"),
    "control characters": (packed(plain("a\x1b[2J")), "can't|isn't one that can be printed"),
    "no name": (packed(plain("")), "without a name"),
    "twice": (packed(GOOD, plain("b"), GOOD), "good is there twice"),
    "twice, the same place by another name": (packed(GOOD, plain("./good")), "good is there twice"),
    "larger than the archive": (packed((header("a", size=10**9), b"")), "a is said to have 1000000000 bytes"),
    "cut in a body": (packed(plain("a", b"x" * 5000))[:3000], "the archive ends after 2488 of them"),
    "cut in a header": (packed(GOOD, plain("b"))[:1100], "at byte 1024 the archive ends within a header"),
    "damaged header": (damaged(), "at byte 1024 there is no tar header"),
    "negative size": (packed((header("a", size=-5), b"")), "negative"),
    "pax without a length": (packed((header("a", tarfile.XHDTYPE, 5), b"hello")), "a record without a length"),
    "pax that isn't whole": (packed((header("a", tarfile.XHDTYPE, 9), b"99 path=a")), "a record that isn't whole"),
    "pax record of length 0": (packed((header("a", tarfile.XHDTYPE, 7), b"0 a=bc\n")), "isn't whole"),
    "pax size": (pax([("size", "-1")]) + packed(GOOD), "a pax header has a size of '-1'"),
    "large pax header": (packed((header("a", tarfile.XHDTYPE, 2 << 20), bytes(2 << 20))), "larger than 1048576 bytes"),
    "many pax headers": (pax([("comment", "x" * 600_000)]) * 2 + packed(GOOD), "larger than 1048576 bytes"),
    "global name": (
        packed((header("g", tarfile.XGLTYPE, 10), b"10 path=a\n"), GOOD),
        "a global pax header sets path",
    ),
    "many members": (packed(*(plain("%d" % number, b"") for number in range(10_001))), "more than 10000 members"),
}


@pytest.mark.parametrize("case", REFUSED, ids=list(REFUSED))
def test_what_is_refused(case):
    content, told = REFUSED[case]
    with pytest.raises(BadInput, match=told) as caught:
        contents(content)
    assert str(caught.value).startswith("source: x.ova: ")


def test_a_header_of_very_many_records_takes_no_time():
    records = packed((header("a", tarfile.XHDTYPE, 1_000_000), b"5 a=\n" * 200_000), end=False)
    began_s = time.process_time()
    assert contents(records + packed(GOOD)) == contents(packed(GOOD))
    assert time.process_time() - began_s < 4


@given(data=st.data())
@QUICK
def test_whatever_is_changed_ends_in_an_archive_or_a_refusal(data):
    content = bytearray(packed(GOOD, plain(LONG, b"y" * 600)) + sparse_1_0())
    for _change in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        contents(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except BadInput:
        pass


def test_a_local_archive(tmp_path: Path):
    path = tmp_path / "x.ova"
    path.write_bytes(packed(plain("web.ovf", b"o" * 70_000), plain("disk", b"d" * 1000)))
    archive = Archive(LocalFile(str(path)), KEEP)
    assert archive.find(".ovf").kept == b"o" * 70_000
    assert archive.find(".nothing") is None
    reader = archive.reader(archive.members()["disk"])
    assert read_all(reader, 1000) == b"d" * 1000
    reader.close()
