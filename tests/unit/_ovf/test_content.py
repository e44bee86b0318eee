# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Local files that are changed while they are read, disks' headers, and files that are packed or in chunks."""

from __future__ import annotations

import gzip
import os
import stat
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput, StorageFailed
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf import vmdk
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.content import (
    Content,
    unpacked_head,
    unpacked_size,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.source import (
    LocalFile,
    NotThere,
    SourceFailed,
    is_url,
    kind_of,
    read_all,
)
from tests.unit._ovf.test_archive import Span

# local files


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.vmdk"
    path.write_bytes(b"0123456789" * 1000)
    return path


def test_a_span_and_a_place(file):
    source = LocalFile(str(file))
    reader = source.reader(5, 10)
    buffer = memoryview(bytearray(100))
    assert (reader.readinto(buffer), bytes(buffer[:10])) == (10, b"5678901234")
    assert reader.readinto(buffer) == 0
    reader.close()
    reader.close()
    assert source.read_at(9998, 50) == b"89"
    assert source.read_at(20_000, 50) == b""


def truncate(file: Path) -> None:
    os.truncate(file, 4000)


def write(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"x")
    os.utime(file, ns=(1, 1))  # clocks of file systems are coarse


def replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.rename(file)


@pytest.mark.parametrize(
    ("change", "told"),
    [(truncate, "was truncated from 10000 to 4000 bytes"), (write, "was written to"), (replace, "was replaced")],
)
def test_a_changed_file_is_found_by_the_next_reader(file, change, told):
    source = LocalFile(str(file))
    change(file)
    with pytest.raises(SourceFailed, match="%s %s" % (file, told)):
        source.reader(0, 10)


@pytest.mark.parametrize(
    ("change", "told"), [(truncate, "was truncated from 10000 to 4000 bytes"), (write, "was written to")]
)
def test_a_file_that_changes_while_it_is_read(file, change, told):
    reader = LocalFile(str(file)).reader(0, 10_000)
    buffer = memoryview(bytearray(3000))
    assert reader.readinto(buffer) == 3000
    change(file)
    with pytest.raises(SourceFailed, match="%s %s" % (file, told)):
        read_all(reader, 7000)
    reader.close()


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, kind in ((".", "a directory"), ("pipe", "a named pipe")):
        with pytest.raises(BadInput, match="is %s" % kind):
            LocalFile(str(tmp_path / name))
    with pytest.raises(NotThere, match="There is no file"):
        LocalFile(str(tmp_path / "nowhere"))
    with pytest.raises(StorageFailed):
        LocalFile(str(tmp_path / "pipe" / "below"))
    assert kind_of(stat.S_IFBLK) == "a device"


def test_what_is_a_url():
    assert is_url("https://host/x.ova")
    assert is_url("HTTP://host/x.ova")
    assert not is_url("/srv/x.ova")
    assert not is_url("a b://c")
    with pytest.raises(BadInput, match="ftp:// isn't read here"):
        is_url("ftp://host/x.ova")


# disks


def sparse(flags=0x30001, compression=1, capacity=16384) -> bytes:
    return (struct.pack("<4sIIQ", b"KDMV", 3, flags, capacity).ljust(77, b"\0") + struct.pack("<H", compression)).ljust(
        512, b"\0"
    )


@pytest.mark.parametrize(
    ("head", "unfit", "source_format"),
    [
        (sparse(), "", ""),
        (sparse(flags=3, compression=0), "monolithicSparse", "vmdk"),
        (sparse(compression=0), "monolithicSparse", "vmdk"),
        (sparse()[:300], "cut off within its header", ""),
        (b"# Disk DescriptorFile\nversion=1\n", "only the text of a VMDK", "vmdk"),
        (b"COWD".ljust(512, b"\0"), "vmfsSparse", "vmdk"),
        (b"QFI\xfb".ljust(512, b"\0"), "a qcow2 image", "qcow2"),
        (b"conectix".ljust(512, b"\0"), "a VHD image", "vpc"),
        (b"vhdxfile".ljust(512, b"\0"), "a VHDX image", "vhdx"),
        (bytes(64) + struct.pack("<I", 0xBEDA107F) + bytes(444), "a VDI image", "vdi"),
        (b"\x1f\x8b\x08".ljust(512, b"\0"), "packed by gzip, which the descriptor doesn't say", ""),
        (bytes(512), "no VMDK", "raw"),
        (b"", "no VMDK", "raw"),
    ],
)
def test_what_a_disk_is(head, unfit, source_format):
    found = vmdk.inspect(head)
    assert unfit in found.unfit
    assert bool(unfit) == bool(found.unfit)
    assert found.source_format == source_format
    remedy = vmdk.remedy(found, "disk.img")
    assert ("qemu-img convert -f %s " % source_format in remedy) == bool(source_format)


def test_a_disks_capacity():
    assert vmdk.inspect(sparse(capacity=16384)).capacity_bytes == 8 << 20


# contents


class Files(dict):
    """Files by their names; how they are opened."""

    def __call__(self, name: str) -> Span:
        return Span(self[name])


def read(content: Content, step: int = 70_000) -> bytes:
    buffer = memoryview(bytearray(step))
    whole = b""
    with content:
        done = content.readinto(buffer)
        while done:
            whole += buffer[:done]
            done = content.readinto(buffer)
        assert content.readinto(buffer) == 0
    return whole


def no_tick(_count: int) -> None:
    pass


@given(pieces=st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=4), step=st.integers(1, 700))
@settings(max_examples=50)
def test_chunks_are_joined_and_told_as_they_are(pieces, step):
    files = Files(("a.%09d" % number, piece) for number, piece in enumerate(pieces))
    told: list[tuple[str, bytes]] = []
    content = Content(
        list(files), files, len(b"".join(pieces)), False, lambda name, view: told.append((name, bytes(view)))
    )
    assert read(content, step) == b"".join(pieces)
    assert [name for name, _view in told] == sorted(name for name, _view in told)
    assert {name: b"".join(view for other, view in told if other == name) for name in files} == files


@given(
    contents=st.lists(st.binary(max_size=3000), min_size=1, max_size=3),
    zeros=st.sampled_from([0, 1, 700]),
    cut=st.integers(1, 3000),
    step=st.integers(1, 700),
)
@settings(max_examples=50)
def test_packed_files_are_unpacked(contents, zeros, cut, step):
    packed = b"".join(gzip.compress(content) for content in contents) + bytes(zeros)
    files = Files({"a.000000000": packed[:cut], "a.000000001": packed[cut:]})
    whole = b"".join(contents)
    assert unpacked_size(list(files), files, None, no_tick) == len(whole)
    told = []
    content = Content(list(files), files, len(whole), True, lambda _name, view: told.append(view))
    assert read(content, step) == whole
    assert b"".join(told) == packed  # all of it, and unchanged by what was read later


def test_a_thousand_empty_parts_are_no_harm():
    files = Files({"a": (gzip.compress(b"") * 1000 + gzip.compress(b"x")) * 3 + bytes(1 << 20)})
    assert read(Content(["a"], files, 3, True, None)) == b"xxx"


def test_more_than_one_buffer_of_packed_bytes():
    whole = os.urandom(1_000_000)
    files = Files({"a": gzip.compress(whole)})
    assert unpacked_size(["a"], files, len(whole), no_tick) == len(whole)
    assert read(Content(["a"], files, len(whole), True, None)) == whole


PACKED = gzip.compress(b"some content " * 100)
BROKEN = {
    "cut in its end": (PACKED[:-1], "it ends within its packed data"),
    "cut": (PACKED[:30], "it ends within its packed data"),
    "nothing": (b"", "it ends within its packed data"),
    "rubbish after it": (PACKED + b"rubbish", "it can't be unpacked"),
    "another one cut after it": (PACKED + PACKED[:30], "it ends within its packed data"),
    "another checksum": (PACKED[:-8] + bytes(4) + PACKED[-4:], "it can't be unpacked"),
    "another format": (zlib.compress(b"x"), "it can't be unpacked"),
    "a bomb": (gzip.compress(bytes(10_000_000)), "larger than 5000 bytes"),
    "nothing, again and again": (gzip.compress(b"") * 1001, "more than 1000 of its packed parts in a row are empty"),
    "zeros without an end": (PACKED + bytes((1 << 20) + 1), "more than 1048576 zeros follow its packed data"),
    "zeros between": ((PACKED + bytes(1 << 19)) * 3, "more than 1048576 zeros follow its packed data"),
}


@pytest.mark.parametrize("case", BROKEN, ids=list(BROKEN))
def test_what_can_not_be_unpacked(case):
    packed, told = BROKEN[case]
    with pytest.raises(SourceFailed, match="a: .*%s" % told):
        unpacked_size(["a"], Files({"a": packed}), 5000, no_tick)


@pytest.mark.parametrize("size", [9, 11])
@pytest.mark.parametrize("packed", [False, True])
def test_another_size_than_was_told(size, packed):
    files = Files({"a": gzip.compress(b"x" * 10) if packed else b"x" * 10})
    with pytest.raises(SourceFailed, match=r"^a(:| had) "):
        read(Content(["a"], files, size, packed, None))


def test_the_beginning_of_a_packed_file():
    packed = gzip.compress(b"header" + os.urandom(100_000))
    assert unpacked_head(packed[:1024], 6) == b"header"
    assert unpacked_head(b"rubbish", 6) == b""
