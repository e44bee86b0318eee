# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The removal of a VMDK that keeps its data in several files: they go too, and nothing else ever does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import qemu_img
from tests.testbed.modules import Result, run_module


def absent(path: Path, check: bool = False) -> Result:
    result = run_module("qemu_img", {"path": str(path), "state": "absent"}, check=check, diff=True)
    assert not result.failed, result.json
    return result


def warnings(result: Result) -> str:
    return json.dumps(result.json.get("warnings", ""))


def made(path: Path, subformat: str, size: str = "8M") -> Path:
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=" + subformat, path, size)
    return path


def descriptor(path: Path, *names: Any) -> Path:
    """What somebody may have written: a descriptor that names these files."""
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff", 'createType="monolithicFlat"']
    lines += ['RW 128 FLAT "%s" 0' % name for name in names]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["disk.vmdk", "disk", "a disk.img", "disk (1).v2.vmdk"])
@pytest.mark.parametrize(
    ("subformat", "size"), [("monolithicFlat", "8M"), ("twoGbMaxExtentSparse", "5G"), ("twoGbMaxExtentFlat", "5G")]
)
def test_all_files_of_an_image_go(tmp_path: Path, name: str, subformat: str, size: str) -> None:
    path = made(tmp_path / name, subformat, size)
    there = sorted(os.listdir(tmp_path))
    assert len(there) == (2 if subformat == "monolithicFlat" else 4)
    checked = absent(path, check=True)
    assert sorted(os.listdir(tmp_path)) == there
    result = absent(path)
    assert result.changed
    assert checked.json["diff"] == result.json["diff"]
    assert sorted([*result.json["diff"]["before"]["extents"], str(path)]) == [str(tmp_path / one) for one in there]
    assert os.listdir(tmp_path) == []
    assert warnings(result) == '""'
    assert not absent(path).changed


def linked(folder: Path) -> str:
    (folder / "disk-flat.vmdk").symlink_to(folder.parent / "victim")
    return "disk-flat.vmdk"


def linked_folder(folder: Path) -> str:
    (folder / "disk-s001.vmdk").symlink_to(folder.parent)
    return "disk-s001.vmdk/victim"


ATTACKS = {
    "an absolute path": lambda folder: str(folder.parent / "victim"),
    "a path upwards": lambda folder: "../victim",
    "a path upwards that begins as its own": lambda folder: "disk-flat.vmdk/../../victim",
    "another image's file": lambda folder: "other-flat.vmdk",
    "another image": lambda folder: "other.qcow2",
    "its own name with more behind": lambda folder: "disk-flat.vmdk.orig",
    "its own name with more between": lambda folder: "disk-2-flat.vmdk",
    "a link": linked,
    "a link to a folder": linked_folder,
    "itself": lambda folder: "disk.vmdk",
    "a folder": lambda folder: "disk-f001.vmdk",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_goes_that_is_not_surely_its_own(tmp_path: Path, attack: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    victims = [tmp_path / "victim"]
    victims += [folder / one for one in ("other-flat.vmdk", "other.qcow2", "disk-flat.vmdk.orig", "disk-2-flat.vmdk")]
    for victim in victims:
        victim.write_bytes(b"precious")
    (folder / "disk-f001.vmdk").mkdir()
    named = ATTACKS[attack](folder)
    there = sorted(os.listdir(folder))
    result = absent(descriptor(folder / "disk.vmdk", named))
    assert sorted(os.listdir(folder)) == there
    assert [victim.read_bytes() for victim in victims] == [b"precious"] * len(victims)
    assert "left alone because they aren't surely its own: %s." % named in warnings(result)


def test_its_own_go_and_the_others_stay(tmp_path: Path) -> None:
    for name in ("disk-flat.vmdk", "elsewhere-flat.vmdk"):
        (tmp_path / name).write_bytes(bytes(65536))
    result = absent(descriptor(tmp_path / "disk.vmdk", "disk-flat.vmdk", "elsewhere-flat.vmdk"))
    assert os.listdir(tmp_path) == ["elsewhere-flat.vmdk"]
    assert "elsewhere-flat.vmdk" in warnings(result)


def test_a_parent_is_another_image(tmp_path: Path) -> None:
    parent, path = tmp_path / "disk-flat.vmdk", tmp_path / "disk.vmdk"
    parent.write_bytes(b"precious")
    descriptor(path).write_text(path.read_text() + 'parentFileNameHint="disk-flat.vmdk"\n')
    absent(path)
    assert os.listdir(tmp_path) == ["disk-flat.vmdk"]


def test_what_a_guest_wrote_into_its_raw_disk_is_no_descriptor(tmp_path: Path) -> None:
    """A machine's first sectors are its own to fill, and the files beside it are not."""
    path, victim = tmp_path / "disk.vmdk", tmp_path / "disk-flat.vmdk"
    victim.write_bytes(b"precious")
    arguments = {"path": str(path), "format": "raw", "size": "64K"}
    source = tmp_path / "source"
    source.write_bytes(bytes(65536))
    assert run_module("qemu_img", {**arguments, "source": str(source)}).changed
    text = descriptor(tmp_path / "text", "disk-flat.vmdk").read_bytes()
    with path.open("r+b") as file:
        file.write(text)
    absent(path)
    assert victim.read_bytes() == b"precious"


def test_an_image_whose_file_is_in_use_stays_whole(tmp_path: Path) -> None:
    path = made(tmp_path / "disk.vmdk", "monolithicFlat")
    there = sorted(os.listdir(tmp_path))
    writing = ["qemu-io", "-f", "raw", str(tmp_path / "disk-flat.vmdk")]
    with subprocess.Popen(writing, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(b"write 0 512\n")
        writer.stdin.flush()
        while b"wrote 512" not in writer.stdout.readline():
            pass
        result = run_module("qemu_img", {"path": str(path), "state": "absent"})
        writer.stdin.close()
    assert result.failed
    assert "in use by qemu-io" in result.msg
    assert sorted(os.listdir(tmp_path)) == there
