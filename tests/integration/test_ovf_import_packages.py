# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import and packages that are no good: refused with file and reason before a lease begins; and how much memory one
of any size takes.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB
from tests.testbed.importing import NAME, Importing, importing
from tests.testbed.modules import Memory, memory_of
from tests.testbed.ovf_packages import DiskSpec, Spec, make_archive, make_package


@pytest.fixture(scope="module", name="bench")
def _bench(tmp_path_factory):
    with importing(tmp_path_factory.mktemp("packages")) as found:
        yield found


def edited(old: str, new: str) -> Mapping[str, Callable[[str], str]]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return {".ovf": edit}


FILE = 'ovf:href="disk1.vmdk"'
BAD = {
    "not XML": (Spec(edit={".ovf": lambda _text: "<html><br></html>"}), "web.ovf"),
    "an entity bomb": (Spec(edit=edited("<Envelope ", '<!DOCTYPE a [<!ENTITY b "c">]><Envelope ')), "document type"),
    "another namespace": (Spec(edit=edited("envelope/1", "envelope/9")), "envelope/9"),
    "path traversal": (Spec(edit=edited(FILE, 'ovf:href="../disk1.vmdk"')), "'../disk1.vmdk' leads out"),
    "unknown compression": (Spec(edit=edited(FILE, FILE + ' ovf:compression="bzip2"')), "the compression 'bzip2'"),
    "the same id twice": (
        Spec(disks=(DiskSpec(), DiskSpec()), edit=edited('ovf:id="file2"', 'ovf:id="file1"')),
        "file1",
    ),
    "several machines": (
        Spec(
            edit={
                ".ovf": lambda text: text.replace(
                    '<VirtualSystem ovf:id="web">',
                    '<VirtualSystemCollection ovf:id="shop"><Info/><VirtualSystem ovf:id="web">',
                ).replace("</VirtualSystem>", "</VirtualSystem></VirtualSystemCollection>")
            }
        ),
        "not one machine",
    ),
    "a missing file": (Spec(left_out=("disk1.vmdk",), manifest=None), "disk1.vmdk"),
    "a file too many": (Spec(added={"notes.txt": b"?"}), "notes.txt"),
    "another size": (Spec(edit=edited(FILE + ' ovf:size="', FILE + ' ovf:size="1')), "disk1.vmdk"),
    "a disk of another kind": (Spec(disks=(DiskSpec(subformat="monolithicSparse"),)), "monolithicSparse"),
    "a manifest of another package": (Spec(edit={".mf": lambda text: text.replace("disk1", "other")}), "other.vmdk"),
    "a changed descriptor": (
        Spec(edit={".mf": lambda text: text.replace(text[text.index("= ") + 2 :][:8], "00000000")}),
        "web.ovf",
    ),
    "other hardware": (Spec(edit=edited("vmx-13", "virtualbox-2.2")), "virtualbox-2.2"),
}


def assert_refused(bench: Importing, source: Path, told: str, **given: Any) -> None:
    bench.server.forget_calls()
    result = bench.run(source=str(source), **given)
    assert result.failed
    assert told in result.msg
    assert source.name in result.msg
    assert "ImportVApp" not in bench.server.counts
    bench.assert_nothing_left()


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_a_bad_package(bench, tmp_path, case):
    spec, told = BAD[case]
    assert_refused(bench, make_package(tmp_path, spec), told)


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16", "Shift_JIS"])
def test_a_descriptor_in_another_encoding(bench, tmp_path, encoding):
    """The server is sent it in UTF-8, which the simulator insists on."""
    vendor = {"ISO-8859-1": "Büro", "UTF-16": "Büro €", "Shift_JIS": "日本"}[encoding]
    package = make_package(tmp_path, Spec(encoding=encoding, edit=edited("Example", vendor)))
    result = bench.run(source=str(package), verify="required")
    assert result.changed, result.msg
    machine = bench.server.govc_json("vm.info", NAME)["virtualMachines"][0]
    assert [product["vendor"] for product in machine["config"]["vAppConfig"]["product"]] == [vendor]
    assert not bench.run(source=str(package)).changed
    bench.server.govc("vm.destroy", NAME)


def test_two_disks_that_begin_as_the_same_file(bench, tmp_path):
    def shared(text: str) -> str:
        return "".join(
            line.replace('fileRef="file2"', 'fileRef="file1"')
            for line in text.splitlines(keepends=True)
            if 'ovf:id="file2"' not in line
        )

    disks = (DiskSpec(), DiskSpec())
    package = make_package(tmp_path, Spec(disks=disks, left_out=("disk2.vmdk",), manifest=None, edit={".ovf": shared}))
    bench.server.forget_uploads()
    result = bench.run(source=str(package), parallel_disks=2)
    assert result.changed, result.msg
    assert [file["name"] for file in result.json["files"]] == ["disk1.vmdk", "disk1.vmdk"]
    assert {upload["sha256"] for upload in bench.server.uploads} == {file["sha256"] for file in result.json["files"]}
    assert len({upload["target"] for upload in bench.server.uploads}) == 2
    bench.server.govc("vm.destroy", NAME)


def test_a_descriptor_in_no_encoding_that_is_known(bench, tmp_path):
    package = make_package(tmp_path / "utf-7", Spec(encoding="utf-7", archive=False))
    assert_refused(bench, package, "its encoding can't be read: it says to be in utf-7")
    package = make_package(tmp_path / "latin", Spec(edit=edited("Example", "Büro"), archive=False))
    package.write_bytes(package.read_bytes().decode().encode("latin-1"))
    assert_refused(bench, package, "it is not in UTF-8")


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("disk1.vmdk")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "told"),
    [
        (link(tarfile.SYMTYPE, "/etc/passwd"), "disk1.vmdk is a symbolic link"),
        (link(tarfile.CHRTYPE, ""), "disk1.vmdk is a character device"),
        ("../disk1.vmdk", "the name ../disk1.vmdk leads out of the package"),
    ],
    ids=["a link", "a device", "path traversal"],
)
def test_a_bad_member(bench, tmp_path, member, told):
    descriptor = make_package(tmp_path / "good", Spec(archive=False, manifest=None)).read_bytes()
    assert_refused(bench, make_archive(tmp_path / "bad.ova", ("web.ovf", descriptor), (member, b"")), told)


def test_a_descriptor_of_two_gigabytes(bench, tmp_path):
    descriptor = tmp_path / "web.ovf"
    descriptor.write_bytes(b"<Envelope>")
    os.truncate(descriptor, 2 << 30)
    assert_refused(bench, descriptor, "2147483648 bytes")


def test_a_manifest_that_has_to_be_there(bench, tmp_path):
    assert_refused(bench, make_package(tmp_path, Spec(manifest=None)), "manifest", verify="required")


def test_a_signature_that_has_to_be_somebody_s(bench, tmp_path):
    package = make_package(tmp_path, Spec(signed=True))
    assert_refused(bench, package, "web.cert", verify="signed")


# --- memory


def measured(bench: Importing, source: Path, check: bool = False) -> Memory:
    """What an import took that went well: the module, and its guard as the child."""
    given = {**bench.options(source=str(source), timeout=300), "_ansible_check_mode": check}
    result, memory = memory_of("ovf_import", given)
    assert result["changed"], result
    return memory


def sparse(folder: Path, size: int) -> Path:
    """A package whose disk's file is that large, nearly all of it holes."""
    path = make_package(folder, Spec(archive=False, manifest=None))
    disk = folder / "disk1.vmdk"
    text = path.read_text()
    path.write_text(text.replace('ovf:size="%d"' % disk.stat().st_size, 'ovf:size="%d"' % size))
    os.truncate(disk, size)
    return path


def test_memory_stays_as_it_is_however_large_a_package_is(bench, tmp_path):
    bench.server.set(hash=False)
    small, large = sparse(tmp_path / "small", 256 * MIB), sparse(tmp_path / "large", 2048 * MIB)
    idle, _guard = measured(bench, small, check=True)
    used = []
    for package in (small, large):
        module, guard = measured(bench, package)
        assert module < idle + 64 * 1024
        assert guard < idle + 64 * 1024
        used.append(module)
        assert bench.server.uploads[-1]["bytes"] == (package.parent / "disk1.vmdk").stat().st_size
        bench.server.govc("vm.destroy", NAME)
    assert abs(used[1] - used[0]) < 16 * 1024
    bench.server.set(hash=True)


def test_of_very_many_problems_some_are_told(tmp_path):
    with importing(tmp_path, Spec(added={"stray-%03d" % number: b"x" for number in range(150)})) as bench:
        result = bench.run()
        assert result.failed
        assert "stray-000" in result.msg
        assert "; and 50 more" in result.msg
        assert len(result.json["error"]["problems"]) == 100
        bench.assert_nothing_left()
