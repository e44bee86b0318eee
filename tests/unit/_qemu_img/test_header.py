# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Headers, honest and crafted: what a file is, and every other file that it names."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.header import Header, inspect, may_wait
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.model import Format

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
SECRET = "/etc/secret"


def look(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        return inspect(descriptor)
    finally:
        os.close(descriptor)


def qcow2(version=3, backing=b"", incompatible=0, extensions=b"", length=104, backing_at=None):
    at = backing_at if backing_at is not None else (512 if backing else 0)
    head = b"QFI\xfb" + struct.pack(">IQI", version, at, len(backing))
    head = head.ljust(72, b"\0") + struct.pack(">QQQII", incompatible, 0, 0, 4, length)
    return (head[:length].ljust(length, b"\0") + extensions).ljust(512, b"\0") + backing.ljust(65024, b"\0")


def extension(kind, data):
    return struct.pack(">II", kind, len(data)) + data.ljust((len(data) + 7) // 8 * 8, b"\0")


def vmdk_text(*lines):
    head = (
        b"# Disk DescriptorFile",
        b"version=1",
        b"CID=fffffffe",
        b"parentCID=ffffffff",
        b'createType="monolithicFlat"',
    )
    return b"\n".join((*head, *lines)) + b"\n"


def vmdk_sparse(text, capacity=2048, at=1, length=20):
    head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, capacity, 128, at, length)
    return head.ljust(512, b"\0") + text


FLAT = b'RW 128 FLAT "/etc/secret" 0'
DATA_FILE_NAME = extension(0x44415441, b"/etc/secret")

CASES = {
    "empty": (b"", Header(None, (), "")),
    "shorter than any header": (b"Q", Header(None, (), "")),
    "zeros": (bytes(8192), Header(None, (), "")),
    "text": (b"version? what version\n", Header(None, (), "")),
    # qcow2
    "qcow2": (qcow2(), Header(Format.QCOW2, (), "")),
    "qcow2 of version 2": (qcow2(version=2), Header(Format.QCOW2, (), "")),
    "version 2 has no features: those bytes are something else": (
        qcow2(version=2, incompatible=DATA_FILE | 1 << 60),
        Header(Format.QCOW2, (), ""),
    ),
    "backing file": (qcow2(backing=b"/etc/secret"), Header(Format.QCOW2, (SECRET,), "")),
    "backing file of version 2": (qcow2(version=2, backing=b"/etc/secret"), Header(Format.QCOW2, (SECRET,), "")),
    "backing file that is no UTF-8": (qcow2(backing=b"/\xff"), Header(Format.QCOW2, ("/\ufffd",), "")),
    "backing file far behind the end": (qcow2(backing_at=2**64 - 1), Header(Format.QCOW2, ("",), "")),
    "features of today": (qcow2(incompatible=DIRTY | COMPRESSION | EXTENDED_L2), Header(Format.QCOW2, (), "")),
    "features of tomorrow": (
        qcow2(incompatible=1 << 5),
        Header(Format.QCOW2, (), "made with qcow2 features that are not known here"),
    ),
    "data file by name": (
        qcow2(incompatible=DATA_FILE, extensions=DATA_FILE_NAME),
        Header(Format.QCOW2, (SECRET,), ""),
    ),
    "data file named behind another extension": (
        qcow2(incompatible=DATA_FILE, extensions=extension(0x6803F857, b"12345") + DATA_FILE_NAME),
        Header(Format.QCOW2, (SECRET,), ""),
    ),
    "data file named behind a longer header": (
        qcow2(incompatible=DATA_FILE, extensions=DATA_FILE_NAME, length=112),
        Header(Format.QCOW2, (SECRET,), ""),
    ),
    "data file without a name": (
        qcow2(incompatible=DATA_FILE),
        Header(Format.QCOW2, ("an external data file without a name",), ""),
    ),
    "data file's name behind the end of the extensions": (
        qcow2(incompatible=DATA_FILE, extensions=extension(0, b"") + DATA_FILE_NAME),
        Header(Format.QCOW2, ("an external data file without a name",), ""),
    ),
    "backing file and data file": (
        qcow2(backing=b"/base", incompatible=DATA_FILE, extensions=DATA_FILE_NAME),
        Header(Format.QCOW2, ("/base", SECRET), ""),
    ),
    "qcow": (
        qcow2(version=1),
        Header(None, (), "a qcow (version 1) image, which QEMU only reads for old guests"),
    ),
    "qcow2 cut off": (qcow2()[:71], Header(Format.QCOW2, (), "cut off within its header")),
    # VMDK
    "descriptor of nothing": (vmdk_text(), Header(Format.VMDK, (), "")),
    "descriptor that begins with its version": (b"version=1\n" + FLAT, Header(Format.VMDK, (SECRET,), "")),
    "extent": (vmdk_text(FLAT), Header(Format.VMDK, (SECRET,), "")),
    "extents": (
        vmdk_text(FLAT, b'RW 1 SPARSE "s001.vmdk"', b'RW 9 VMFS "v.vmdk" 5'),
        Header(Format.VMDK, (SECRET, "s001.vmdk", "v.vmdk"), ""),
    ),
    "extent that is only read": (vmdk_text(b'RDONLY 1 FLAT "/etc/secret"'), Header(Format.VMDK, (SECRET,), "")),
    "extent of zeros": (vmdk_text(b"RW 128 ZERO"), Header(Format.VMDK, (), "")),
    "extent after white space": (vmdk_text(b"  \t" + FLAT), Header(Format.VMDK, (SECRET,), "")),
    "extent over lines": (vmdk_text(FLAT.replace(b" ", b"\n")), Header(Format.VMDK, (SECRET,), "")),
    "extent over a carriage return": (vmdk_text(FLAT.replace(b" ", b"\r")), Header(Format.VMDK, (SECRET,), "")),
    "extent with tabs": (vmdk_text(FLAT.replace(b" ", b"\t")), Header(Format.VMDK, (SECRET,), "")),
    "extent without a space": (vmdk_text(b'RW 128FLAT "/etc/secret" 0'), Header(Format.VMDK, (SECRET,), "")),
    "extent with a signed size": (vmdk_text(b'RW +128 FLAT "/etc/secret"'), Header(Format.VMDK, (SECRET,), "")),
    "extent name with spaces": (vmdk_text(b'RW 1 FLAT "/a b"'), Header(Format.VMDK, ("/a b",), "")),
    "extent behind the text's end": (vmdk_text(b"\0") + FLAT, Header(Format.VMDK, (), "")),
    "parent": (vmdk_text(b'parentFileNameHint="/etc/secret"'), Header(Format.VMDK, (SECRET,), "")),
    "one file": (
        vmdk_sparse(vmdk_text(b'RW 2048 SPARSE "disk.vmdk"').ljust(10240, b"\0")),
        Header(Format.VMDK, (), ""),
    ),
    "one file with a parent": (
        vmdk_sparse(vmdk_text(b'parentFileNameHint="/etc/secret"')),
        Header(Format.VMDK, (SECRET,), ""),
    ),
    "one file that claims another extent": (vmdk_sparse(vmdk_text(FLAT)), Header(Format.VMDK, (SECRET,), "")),
    "no capacity: the embedded text rules": (
        vmdk_sparse(vmdk_text(b'RW 1 SPARSE "/etc/secret"'), capacity=0),
        Header(Format.VMDK, (SECRET,), ""),
    ),
    "an embedded text whose length is denied": (
        vmdk_sparse(vmdk_text(FLAT), capacity=0, length=0),
        Header(Format.VMDK, (SECRET,), ""),
    ),
    "an embedded text at a place that wraps around": (
        vmdk_sparse(vmdk_text(FLAT), capacity=0, at=2**55 + 1),
        Header(Format.VMDK, (SECRET,), ""),
    ),
    "an embedded text far behind the end": (vmdk_sparse(b"", at=2**62), Header(Format.VMDK, (), "")),
    "VMDK cut off": (b"KDMV" + bytes(100), Header(Format.VMDK, (), "cut off within its header")),
    # the others
    "VHDX": (b"vhdxfile" + bytes(100), Header(Format.VHDX, (), "")),
    "VDI": (bytes(64) + struct.pack("<I", 0xBEDA107F) + bytes(444), Header(Format.VDI, (), "")),
    "VHD, dynamic": (b"conectix" + bytes(2000), Header(Format.VPC, (), "")),
    "VHD, fixed: only at its end": (bytes(4096) + b"conectix" + bytes(504), Header(Format.VPC, (), "")),
    "the word elsewhere": (bytes(4000) + b"conectix" + bytes(504 + 96), Header(None, (), "")),
    # what is no disk image
    "gzip": (b"\x1f\x8b\x08" + bytes(600), Header(None, (), "compressed with gzip")),
    "xz": (b"\xfd7zXZ\0" + bytes(600), Header(None, (), "compressed with xz")),
    "bzip2": (b"BZh9" + bytes(600), Header(None, (), "compressed with bzip2")),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), Header(None, (), "compressed with zstd")),
    "zip": (b"PK\3\4" + bytes(600), Header(None, (), "a zip archive")),
    "LUKS": (b"LUKS\xba\xbe" + bytes(600), Header(None, (), "a LUKS container")),
    "QED": (b"QED\0" + bytes(600), Header(None, (), "a QED image, which QEMU only reads for old guests")),
}


@pytest.mark.parametrize("case", CASES)
def test_headers(case, tmp_path):
    content, expected = CASES[case]
    found = look(tmp_path, content)
    assert found._replace(parts=()) == expected
    assert set(found.parts) <= set(found.references)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (qcow2(backing=b"/etc/secret"), ()),
        (CASES["backing file and data file"][0], (SECRET,)),
        (CASES["extent"][0], (SECRET,)),
    ],
    ids=["backing file", "data file", "extent"],
)
def test_what_qemu_opens_with_an_image_is_told_apart(tmp_path, content, parts):
    assert look(tmp_path, content).parts == parts


@pytest.mark.parametrize("gap", [b"", b" ", b"\t", b"\n", b"\r", b"\v", b"\f", b" \n "])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_whatever_qemu_takes_for_an_extent_is_seen(tmp_path, gap, place):
    """QEMU itself is the judge: where it copies the other file, we must have named that file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"TOP SECRET".ljust(65536, b"\n"))
    words = [b"RW", b"128", b"FLAT", b'"%s" 0' % bytes(secret)]
    gaps = [b" ", b" ", b" ", b""]
    gaps[place] = gap
    descriptor = vmdk_text(b"".join(word + space for word, space in zip(words, gaps)))
    named = look(tmp_path, descriptor).references
    out = tmp_path / "out"
    convert = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(tmp_path / "file"), str(out)]
    subprocess.run(convert, capture_output=True, check=False)
    leaked = out.exists() and b"TOP SECRET" in out.read_bytes()
    assert leaked <= (str(secret) in named)
    if gap == b" ":
        assert leaked, "an honest descriptor must work, else this shows nothing"


@pytest.mark.parametrize(
    "options",
    [
        *(
            ["-f", "qcow2", "-o", option]
            for option in ("compat=0.10", "compat=1.1", "extended_l2=on", "compression_type=zstd", "lazy_refcounts=on")
        ),
        ["-f", "raw"],
        ["-f", "vdi"],
        ["-f", "vdi", "-o", "static=on"],
        ["-f", "vhdx"],
        ["-f", "vhdx", "-o", "subformat=fixed"],
        ["-f", "vpc"],
        ["-f", "vpc", "-o", "subformat=fixed"],
        ["-f", "vmdk"],
        ["-f", "vmdk", "-o", "subformat=streamOptimized"],
    ],
    ids=" ".join,
)
def test_what_qemu_makes_is_known_and_names_nothing(tmp_path, options):
    path = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", *options, str(path), "8M"], check=True)
    expected = None if options[1] == "raw" else Format(options[1])
    assert look(tmp_path, path.read_bytes()) == Header(expected, (), "")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["-f", "qcow2", "-b", "base.raw", "-F", "raw"], ("base.raw",)),
        (["-f", "qcow2", "-o", "data_file=image.data"], ("image.data",)),
        (["-f", "qcow2", "-o", "data_file=image.data,data_file_raw=on"], ("image.data",)),
        (["-f", "vmdk", "-o", "subformat=monolithicFlat"], ("image-flat.vmdk",)),
        (["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"], ("image-s001.vmdk",)),
    ],
    ids=str,
)
def test_the_other_files_of_what_qemu_makes_are_named(tmp_path, options, named):
    (tmp_path / "base.raw").write_bytes(bytes(1 << 20))
    subprocess.run(["qemu-img", "create", "-q", *options, "image.vmdk", "8M"], check=True, cwd=str(tmp_path))
    assert look(tmp_path, (tmp_path / "image.vmdk").read_bytes()).references == named


MAGICS = [b"QFI\xfb", b"KDMV", b"COWD", b"vhdxfile", b"conectix", b"# Disk DescriptorFile\n", b"version=1\n", b""]


@settings(max_examples=300)
@given(st.sampled_from(MAGICS), st.binary(max_size=700))
@example(b"QFI\xfb", struct.pack(">IQI", 3, 2**63 - 1, 1023) + bytes(600))
@example(b"QFI\xfb", struct.pack(">IQI", 3, 8, 2**32 - 1) + b"\xff" * 600)
@example(b"KDMV", b"\xff" * 600)
def test_no_bytes_whatever_end_in_an_error(tmp_path_factory, magic, rest):
    folder = tmp_path_factory.getbasetemp() / "any-bytes"
    folder.mkdir(exist_ok=True)
    header = look(folder, magic + rest)
    assert all(isinstance(name, str) for name in header.references)


def test_a_hostile_descriptor_is_read_in_no_time(tmp_path):
    """Long runs of what a pattern could try in many ways; unbounded work would not end in this test's lifetime."""
    for filling in (b"RW 1 " + b" " * 900_000, b"RW 1" * 220_000, b"RW " + b"1" * 900_000, b'RW 1 FLAT "' * 80_000):
        assert look(tmp_path, vmdk_text(filling)).format is Format.VMDK


@pytest.mark.parametrize(("platform", "waits"), [("linux", True), ("freebsd14", False)])
def test_disks_are_character_devices_on_other_systems(monkeypatch, platform, waits):
    monkeypatch.setattr("sys.platform", platform)
    assert may_wait(os.stat("/dev/null").st_mode) is waits


def test_nobody_waits_for_a_file_or_a_directory(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(str(tmp_path / "fifo"))
    assert not may_wait((tmp_path / "file").stat().st_mode)
    assert not may_wait(tmp_path.stat().st_mode)
    assert may_wait((tmp_path / "fifo").stat().st_mode)
