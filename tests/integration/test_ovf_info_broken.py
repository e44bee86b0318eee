# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_info and broken packages: each with file and reason, in bounded memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB
from tests.testbed.looking import look, problems, refused
from tests.testbed.modules import memory_of
from tests.testbed.ovf_packages import DiskSpec, Spec, make_archive, make_package

PACKED = DiskSpec(packed=True)
CHUNKS = DiskSpec(chunk_bytes=50_000)

# with problems

Edit = Callable[[str], str]


def replaced(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


PROBLEMS = {
    "a missing file": (Spec(left_out=("disk1.vmdk",)), {"disk1.vmdk": "has no such file"}),
    "a missing chunk": (
        Spec(disks=(CHUNKS,), left_out=("disk1.vmdk.000000001",)),
        {
            "disk1.vmdk.000000001": "has no such file",
            "disk1.vmdk.000000002": "the descriptor doesn't refer to it",
        },
    ),
    "a file too many": (Spec(added={"notes.txt": b"?"}), {"notes.txt": "the descriptor doesn't refer to it"}),
    "another size": (
        Spec(edit={".ovf": replaced('href="disk1.vmdk" ovf:size="', 'href="disk1.vmdk" ovf:size="1')}),
        {"disk1.vmdk": "and the descriptor says 1"},
    ),
    "a smaller disk": (
        Spec(edit={".ovf": replaced('ovf:capacity="8388608"', 'ovf:capacity="4194304"')}),
        {"disk1.vmdk": "its disk has 8388608 bytes, and that of the descriptor only 4194304"},
    ),
    "monolithicSparse": (Spec(disks=(DiskSpec(subformat="monolithicSparse"),)), {"disk1.vmdk": "monolithicSparse"}),
    "qcow2": (Spec(disks=(DiskSpec(image_format="qcow2"),)), {"disk1.qcow2": "it is a qcow2 image"}),
    "vhd": (Spec(disks=(DiskSpec(image_format="vpc"),)), {"disk1.vpc": "it is a VHD image"}),
    "vhdx": (Spec(disks=(DiskSpec(image_format="vhdx"),)), {"disk1.vhdx": "it is a VHDX image"}),
    "vdi": (Spec(disks=(DiskSpec(image_format="vdi"),)), {"disk1.vdi": "it is a VDI image"}),
    "raw": (Spec(disks=(DiskSpec(image_format="raw"),)), {"disk1.raw": "it is no VMDK"}),
    "packed twice": (
        Spec(disks=(PACKED,), edit={".ovf": replaced(' ovf:compression="gzip"', "")}),
        {"disk1.vmdk.gz": "packed by gzip, which the descriptor doesn't say"},
    ),
    "packed by name only": (
        Spec(edit={".ovf": replaced('ovf:href="disk1.vmdk"', 'ovf:href="disk1.vmdk" ovf:compression="gzip"')}),
        {"disk1.vmdk": "it isn't packed by gzip"},
    ),
    "a manifest of another package": (
        Spec(edit={".mf": lambda text: text.replace("disk1", "other")}),
        {"other.vmdk": "web.mf names it, and the package has no such file"},
    ),
    "a changed descriptor": (
        Spec(edit={".mf": lambda text: text.replace(text[text.index("= ") + 2 :][:8], "00000000")}),
        {"web.ovf": "its content isn't what web.mf says"},
    ),
    "other hardware": (
        Spec(manifest=None, edit={".ovf": replaced("vmx-13", "virtualbox-2.2")}),
        {"descriptor": "its hardware is of the family virtualbox-2.2"},
    ),
    "a system of machines": (
        Spec(
            manifest=None,
            edit={
                ".ovf": lambda text: text.replace(
                    '<VirtualSystem ovf:id="web">',
                    '<VirtualSystemCollection ovf:id="shop"><Info/><VirtualSystem ovf:id="web">',
                ).replace("</VirtualSystem>", "</VirtualSystem></VirtualSystemCollection>")
            },
        ),
        {"descriptor": "it describes a system of 1 machines (web), not one machine"},
    ),
    "a manifest that is none": (Spec(edit={".mf": lambda text: "?\n" + text}), {"web.mf, line 1": "'?' is no line"}),
}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("case", PROBLEMS, ids=list(PROBLEMS))
def test_problems_are_told_with_what_is_there(tmp_path, case, archive):
    spec, expected = PROBLEMS[case]
    found = look(make_package(tmp_path, spec._replace(archive=archive)), checksum=True)
    told = problems(found)
    if not archive:
        expected = {name: problem for name, problem in expected.items() if "doesn't refer to it" not in problem}
    assert set(told) >= set(expected)
    for name, problem in expected.items():
        assert problem in told[name]
    assert found["machines"][0]["name"] == "web"


def test_all_problems_at_once(tmp_path):
    spec = Spec(disks=(DiskSpec(image_format="qcow2"), DiskSpec()), left_out=("disk2.vmdk",), added={"notes": b"?"})
    told = problems(look(make_package(tmp_path, spec._replace(manifest=None)), verify="required"))
    assert set(told) == {"disk1.qcow2", "disk2.vmdk", "notes", str(tmp_path / "web.ova")}


def test_the_command_that_is_told_makes_a_disk_that_fits(tmp_path):
    path = make_package(tmp_path, Spec(archive=False, manifest=None, disks=(DiskSpec(subformat="monolithicSparse"),)))
    (problem,) = look(path)["problems"]
    words = problem["instead"].rpartition("anew: ")[2].split()
    assert words[-1] == "NEW"
    subprocess.run([*words[:-1], "new.vmdk"], cwd=tmp_path, check=True)
    (tmp_path / "new.vmdk").rename(tmp_path / "disk1.vmdk")
    text = (tmp_path / "web.ovf").read_text()
    (tmp_path / "web.ovf").write_text(text.replace('href="disk1.vmdk" ovf:size="', 'href="disk1.vmdk" ovf:x="', 1))
    assert look(path)["problems"] == []


def test_a_content_that_differs_is_found_by_reading_alone(tmp_path):
    path = make_package(tmp_path, Spec(archive=False))
    disk = tmp_path / "disk1.vmdk"
    content = bytearray(disk.read_bytes())
    content[70_000] ^= 1
    disk.write_bytes(content)
    assert look(path)["problems"] == []
    found = look(path, checksum=True)
    assert found["manifest"]["verdict"] == "differs"
    assert hashlib.sha256(content).hexdigest() in problems(found)["disk1.vmdk"]
    assert look(path, checksum=True, verify="ignore")["problems"] == []


# refused


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("disk1.vmdk")
    info.type, info.linkname = kind, target
    return info


def sized(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


OVF = b"<Envelope/>"
ARCHIVES = {
    "a symbolic link": (
        [("web.ovf", OVF), (link(tarfile.SYMTYPE, "/etc/passwd"), b"")],
        "disk1.vmdk is a symbolic link",
    ),
    "a hard link": ([("web.ovf", OVF), (link(tarfile.LNKTYPE, "web.ovf"), b"")], "disk1.vmdk is a hard link"),
    "a device": ([("web.ovf", OVF), (link(tarfile.CHRTYPE, ""), b"")], "disk1.vmdk is a character device"),
    "an absolute name": ([("web.ovf", OVF), ("/etc/cron.d/x", b"")], "the name /etc/cron.d/x leads out of the package"),
    "a name that leads up": ([("web.ovf", OVF), ("../x", b"")], "the name ../x leads out of the package"),
    "a file twice": ([("web.ovf", OVF), ("a", b""), ("a", b"")], "a is there twice"),
    "no descriptor": ([("a", b"")], "without a descriptor"),
    "a large descriptor": ([(sized("web.ovf", 2 << 30), b"")], "the descriptor web.ovf of "),
    "a member larger than the file": ([("web.ovf", OVF), (sized("a", 1 << 40), b"")], "a is said to have"),
}


@pytest.mark.parametrize("case", ARCHIVES, ids=list(ARCHIVES))
def test_archives_that_are_not_read(tmp_path, case):
    members, told = ARCHIVES[case]
    descriptor = make_package(tmp_path / "good", Spec(archive=False, manifest=None)).read_bytes()
    members = [(name, descriptor if content is OVF else content) for name, content in members]
    path = make_archive(tmp_path / "bad.ova", *members, tar_format="gnu")
    if case == "a large descriptor":
        os.truncate(path, (2 << 30) + 4096)
    message = refused(path)
    assert told in message
    assert str(path) in message


@pytest.mark.parametrize("cut", [100, 1000, 10_000, 100_000])
def test_truncated_archives(tmp_path, cut):
    path = make_package(tmp_path, Spec(manifest=None))
    os.truncate(path, cut)
    assert str(path) in refused(path)


DESCRIPTORS: dict[str, tuple[Edit, str]] = {
    "not XML": (lambda _text: "<html><br></html>", ""),
    "an entity bomb": (lambda _text: '<!DOCTYPE a [<!ENTITY b "c">]><Envelope>&b;</Envelope>', ""),
    "another namespace": (lambda text: text.replace("envelope/1", "envelope/9"), "envelope/9"),
    "path traversal": (replaced('href="disk1.vmdk"', 'href="../disk1.vmdk"'), "'../disk1.vmdk' leads out of the pack"),
    "a URL": (replaced('href="disk1.vmdk"', 'href="http://192.0.2.1/disk1.vmdk"'), "lies on a server of its own"),
    "unknown compression": (
        replaced('href="disk1.vmdk"', 'href="disk1.vmdk" ovf:compression="bzip2"'),
        "the compression 'bzip2'",
    ),
}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("case", DESCRIPTORS, ids=list(DESCRIPTORS))
def test_descriptors_that_are_not_read(tmp_path, case, archive):
    edit, told = DESCRIPTORS[case]
    path = make_package(tmp_path, Spec(archive=archive, manifest=None, edit={".ovf": edit}))
    message = refused(path)
    assert told in message
    assert str(path) in message


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a directory" in refused(tmp_path)
    assert "is a named pipe" in refused(tmp_path / "pipe")
    assert "There is no file" in refused(tmp_path / "nowhere")
    assert "ftp:// isn't read here" in refused("ftp://host/x.ova")


# bounds


def measured(source: Path, **arguments: Any) -> tuple[dict[str, Any], int]:
    """The result of a module in a process of its own, and its resident memory at most, in KiB."""
    result, memory = memory_of("ovf_info", {"source": str(source), **arguments})
    return result, memory.own


def test_memory_stays_as_it_is_however_large_a_package_is(tmp_path, in_memory):
    small = make_package(tmp_path / "small", Spec())
    _result, idle = measured(small)
    random = in_memory / "random"
    random.write_bytes(os.urandom(MIB) * 100)
    large = make_package(in_memory, Spec(disks=(DiskSpec(256 * MIB, ("write -s %s 0 100M" % random,)),)))
    result, used = measured(large, checksum=True)
    assert result["ovf"]["manifest"]["verdict"] == "matches"
    assert used < idle + 32 * 1024


def test_hostile_packages_take_no_memory(tmp_path):
    small = make_package(tmp_path / "small", Spec())
    _result, idle = measured(small)
    descriptor = tmp_path / "web.ovf"
    descriptor.write_bytes(b"<Envelope>")
    os.truncate(descriptor, 2 << 30)
    many = make_archive(tmp_path / "many.ova", *(("%d" % number, b"") for number in range(20_000)))
    for source, told in ((descriptor, "2147483648 bytes"), (many, "more than 10000 members")):
        result, used = measured(source)
        assert told in result["msg"]
        assert used < idle + 32 * 1024
