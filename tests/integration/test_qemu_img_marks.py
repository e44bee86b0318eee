# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that QEMU has marked: dirty, as after a crash with lazy reference counts, or corrupt."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB, faults, holds, info, make, qemu_img, qemu_io
from tests.testbed.modules import Result, run_module
from tests.testbed.untouched import untouched

DIRTY, CORRUPT = 1 << 0, 1 << 1  # incompatible features of a qcow2 header
CONTENT = "7 0 1M"
CHANGES = (
    {"size": "32M"},
    {"snapshots": [{"name": "a"}]},
    {"options": {"lazy_refcounts": False}},
    {"options": {"cluster_size": "128K"}, "force": True},
)


def run(path: Path, check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, check=check, diff=True)


def both(path: Path, **options: Any) -> Result:
    """In check mode and then in earnest, which agree."""
    foretold, done = run(path, check=True, **options), run(path, **options)
    assert foretold.failed == done.failed, (foretold.json, done.json)
    if done.failed:
        assert foretold.msg == done.msg
    else:
        assert foretold.json["diff"] == done.json["diff"]
        assert foretold.changed == done.changed
    return done


def mark(path: Path, bit: int) -> Path:
    with open(path, "r+b") as image:
        image.seek(72)
        features = int.from_bytes(image.read(8), "big")
        image.seek(72)
        image.write((features | bit).to_bytes(8, "big"))
    return path


def marked(path: Path, bit: int) -> Path:
    """A sound image with a mark."""
    return mark(make(path, "qcow2", 16 * MIB, "write -P %s" % CONTENT, options="lazy_refcounts=on"), bit)


@pytest.fixture(name="crashed", scope="module")
def _crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a machine leaves that was killed: counts that were to be written later."""
    path = make(tmp_path_factory.mktemp("crashed") / "disk.qcow2", "qcow2", 16 * MIB, options="lazy_refcounts=on")
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P %s" % CONTENT, "-c", "abort", path], capture_output=True, check=False
    )
    assert info(path)["dirty-flag"]
    assert faults(path)["corruptions"]
    return path


@pytest.fixture(name="disk")
def _disk(tmp_path: Path, crashed: Path) -> Path:
    return Path(shutil.copy(crashed, tmp_path / "disk.qcow2"))


def sound(path: Path) -> None:
    there = info(path)
    assert not there.get("dirty-flag", False)
    assert not there["format-specific"]["data"]["corrupt"]
    assert faults(path) == {"corruptions": 0, "leaks": 0}
    holds(path, CONTENT)


@pytest.mark.parametrize("mode", ["leaks", "all"])
@pytest.mark.parametrize("bit", [DIRTY, CORRUPT])
def test_a_mark_on_a_sound_image_is_taken_away(tmp_path: Path, bit: int, mode: str) -> None:
    path = marked(tmp_path / "disk.qcow2", bit)
    result = both(path, repair=mode)
    assert result.changed, result.json
    assert (result.json["image"]["dirty"], result.json["image"]["corrupt"]) == (False, False)
    sound(path)
    assert not both(path, repair=mode).changed


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_image_marked_as_corrupt_is_mended_before_it_is_changed(tmp_path: Path, change: dict[str, Any]) -> None:
    path = marked(tmp_path / "disk.qcow2", CORRUPT)
    before = untouched(path)
    result = both(path, **change)
    assert result.failed, result.json
    assert "QEMU has marked it as corrupt" in result.msg
    assert "repair: all" in result.msg
    assert untouched(path) == before


def test_a_repair_and_a_change_go_together(tmp_path: Path) -> None:
    path = marked(tmp_path / "disk.qcow2", CORRUPT)
    assert both(path, size="32M", repair="all", snapshots=[{"name": "a"}]).changed
    sound(path)
    assert info(path)["virtual-size"] == 32 * MIB


def uncounted(path: Path) -> Path:
    """An image with corruptions and no mark."""
    make(path, "qcow2", 16 * MIB, "write -P %s" % CONTENT)
    with path.open("r+b") as image:  # the count of its sixth cluster, which is in use
        image.seek(2 * 65536 + 2 * 5)
        image.write(b"\0\0")
    assert faults(path)["corruptions"]
    return path


@pytest.mark.parametrize("conversion", [{"options": {"cluster_size": "128K"}}, {"format": "raw"}], ids=str)
@pytest.mark.parametrize("damage", ["dirty", "corrupt", "crashed", "uncounted"])
def test_a_repair_and_a_conversion_go_together(
    tmp_path: Path, crashed: Path, damage: str, conversion: dict[str, Any]
) -> None:
    path = tmp_path / "disk.qcow2"
    if damage == "crashed":
        shutil.copy(crashed, path)
    elif damage == "uncounted":
        uncounted(path)
    else:
        marked(path, DIRTY if damage == "dirty" else CORRUPT)
    declared = {**conversion, "force": True, "repair": "all", "size": "32M"}
    result = both(path, **declared)
    assert result.changed, result.json
    image_format = conversion.get("format", "qcow2")
    assert info(path, image_format)["virtual-size"] == 32 * MIB
    holds(path, CONTENT, "0 1M 31M", image_format=image_format)
    assert not both(path, **declared).changed


def test_leaks_need_no_repair_before_a_conversion(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2", 16 * MIB, "write -P %s" % CONTENT)
    with path.open("r+b") as image:  # the count of a cluster behind its last
        image.truncate(41 * 65536)
        image.seek(2 * 65536 + 2 * 40)
        image.write(b"\0\1")
    assert faults(path)["leaks"]
    declared = {"options": {"cluster_size": "128K"}, "force": True, "repair": "leaks"}
    result = both(path, **declared)
    assert result.changed, result.json
    assert not any("-r" in words for words in result.json["commands"])
    sound(path)
    assert not both(path, **declared).changed


@pytest.mark.parametrize("bit", [DIRTY, CORRUPT])
def test_a_repair_and_a_commit_go_together(tmp_path: Path, bit: int) -> None:
    base = make(tmp_path / "base", "raw", 16 * MIB)
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path)
    qemu_io(path, "write -P %s" % CONTENT)
    assert both(mark(path, bit), commit=True, repair="all").changed
    holds(base, CONTENT, image_format="raw")
    sound(path)
    assert not both(path, commit=True, repair="all").changed


def test_what_is_declared_already_needs_no_repair(disk: Path) -> None:
    assert not both(disk, size="16M").changed


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_image_that_was_not_closed_is_mended_before_it_is_changed(disk: Path, change: dict[str, Any]) -> None:
    before = untouched(disk)
    result = both(disk, **change)
    assert result.failed, result.json
    assert "it was not closed properly" in result.msg
    assert "repair: all" in result.msg
    assert "may be lost" not in result.msg
    assert untouched(disk) == before


def test_a_repair_counts_anew_what_a_crash_left(disk: Path) -> None:
    assert both(disk, repair="all").changed
    sound(disk)
    assert not both(disk, repair="all").changed


def test_leaks_alone_are_not_what_a_crash_left(disk: Path) -> None:
    before = untouched(disk)
    result = both(disk, repair="leaks")
    assert result.failed, result.json
    assert "it was not closed properly" in result.msg
    assert "repair: all" in result.msg
    assert untouched(disk) == before


def test_without_proofs_qemu_mends_it_by_itself(disk: Path) -> None:
    assert both(disk, size="32M", verify="none").changed
    sound(disk)


def test_a_source_that_was_not_closed(tmp_path: Path, disk: Path) -> None:
    result = both(tmp_path / "new.raw", format="raw", source=str(disk))
    assert result.failed, result.json
    assert "it was not closed properly" in result.msg
    assert str(disk) in result.msg
    assert not (tmp_path / "new.raw").exists()
    assert both(tmp_path / "new.raw", format="raw", source=str(disk), verify="none").changed
    holds(tmp_path / "new.raw", CONTENT, image_format="raw")


def test_a_machine_that_runs_is_told_first(disk: Path) -> None:
    """Its image is dirty all the while."""
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as machine:
        assert machine.stdin is not None
        assert machine.stdout is not None
        machine.stdin.write("write -P 8 8M 1M\n")  # into clusters that are new
        machine.stdin.flush()
        assert "wrote" in machine.stdout.readline()
        assert info(disk)["dirty-flag"]
        for declared in ({"repair": "leaks"}, {"repair": "all"}, {"size": "32M"}):
            result = both(disk, **declared)
            assert result.failed, result.json
            assert "it is in use by qemu-io" in result.msg
        machine.stdin.close()
