# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two tasks on one image take turns, whatever the first one has open meanwhile, and whatever a third one left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import children, leftovers, open_files, until
from tests.testbed.images import qemu_img
from tests.testbed.modules import finish, run_module, start_module
from tests.testbed.tool_gate import gate

MIB = 1 << 20
LOCK, NEW = ".disk.qcow2.vmops-lock", ".disk.qcow2.vmops-new"


def waits(process: subprocess.Popen[bytes]) -> bool:
    """Whether it sleeps although no child of its own is at work."""
    assert process.poll() is None, "it didn't wait"
    return not children(process.pid) and "poll" in Path(f"/proc/{process.pid}/wchan").read_text()


def old_image(folder: Path) -> Path:
    path = folder / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    return path


def seed(folder: Path) -> Path:
    path = folder / "seed.raw"
    path.write_bytes(b"\1" * MIB)
    return path


def killed_in_a_conversion(folder: Path, options: dict[str, Any]) -> None:
    """It leaves its lock and its unfinished file."""
    held = gate(folder / "killed", "convert", 1)
    module = start_module("qemu_img", options, env=held.env)
    held.wait()
    os.killpg(module.pid, signal.SIGKILL)
    module.communicate()
    assert leftovers(folder) == [LOCK, NEW]


def test_the_lock_that_a_killed_task_left_is_kept_while_the_next_one_works(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    options = {"path": str(disk), "source": str(seed(tmp_path)), "timeout": 60}
    killed_in_a_conversion(tmp_path, options)
    held = gate(tmp_path / "gate", "convert", 1)
    second = start_module("qemu_img", options, env=held.env)
    held.wait()
    unfinished = (tmp_path / NEW).stat().st_ino
    third = run_module("qemu_img", {**options, "timeout": 10})
    assert third.failed
    assert third.json["error"]["kind"] == "timed_out", third.msg
    assert f"another task that works on {disk}" in third.msg
    assert (tmp_path / NEW).stat().st_ino == unfinished
    held.open()
    assert finish(second).changed
    assert leftovers(tmp_path) == []
    assert not run_module("qemu_img", options).changed


def test_what_another_task_has_swept_meanwhile_is_no_change(tmp_path: Path) -> None:
    disk = old_image(tmp_path)
    (tmp_path / LOCK).touch()
    (tmp_path / NEW).touch()
    options = {"path": str(disk), "size": "1M", "timeout": 60}
    held = gate(tmp_path / "gate", "info", 1)
    late = start_module("qemu_img", options, env=held.env)
    held.wait()
    assert run_module("qemu_img", options).changed
    assert leftovers(tmp_path) == []
    held.open()
    result = finish(late)
    assert not result.failed, result.json
    assert not result.changed


OPERATIONS = {
    "resize": {"size": "2M"},
    "snapshot": {"snapshots": [{"name": "one"}]},
    "convert": {"force": True},
}


@pytest.mark.parametrize("word", OPERATIONS)
@pytest.mark.parametrize("check", [False, True], ids=["", "check mode"])
@pytest.mark.parametrize("same", [True, False], ids=["the same", "another change"])
def test_a_second_task_on_an_existing_image_waits_for_its_turn(
    tmp_path: Path, word: str, check: bool, same: bool
) -> None:
    disk = old_image(tmp_path)
    options = {"path": str(disk), "timeout": 60, **OPERATIONS[word]}
    if word == "convert":
        options["source"] = str(seed(tmp_path))
    held = gate(tmp_path / "gate", word, 1)
    first = start_module("qemu_img", options, env=held.env)
    held.wait()
    other = options if same else {"path": str(disk), "bitmaps": [{"name": "b"}], "timeout": 60}
    second = start_module("qemu_img", other, check=check)
    until(lambda: waits(second), "the second task to wait")
    held.open()
    assert finish(first).changed
    result = finish(second)
    assert not result.failed, result.json
    assert result.changed == (not same)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("word", OPERATIONS)
def test_a_look_of_another_task_hinders_nobody(tmp_path: Path, word: str) -> None:
    """From before the first observation until the new image takes its place."""
    disk = tmp_path / "disk.qcow2"
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        for at in range(0, 32 * MIB, 8192):  # so many parts that the map is longer than a pipe holds
            os.pwrite(file.fileno(), b"data", at)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", raw, disk)
    options = {"path": str(disk), "timeout": 60, **OPERATIONS[word]}
    if word == "convert":
        options["source"] = str(seed(tmp_path))
    else:
        options["size"] = "64M"
    with subprocess.Popen(
        ["qemu-img", "map", "-U", "-f", "qcow2", "--output=json", str(disk)], stdout=subprocess.PIPE
    ) as look:
        until(lambda: str(disk) in open_files(look.pid), "the look")
        result = run_module("qemu_img", options)
        assert look.poll() is None
        look.kill()
    assert not result.failed, result.msg
    assert result.changed


@contextmanager
def resizing(tmp_path: Path, disk: Path) -> Iterator[None]:
    """Meanwhile a task that resizes the disk is held, and ends well afterwards."""
    held = gate(tmp_path / "gate", "resize", 1)
    first = start_module("qemu_img", {"path": str(disk), "size": "2M", "timeout": 60}, env=held.env)
    held.wait()
    yield
    held.open()
    assert finish(first).changed


def test_a_second_task_gives_up_when_its_time_is_over_and_says_why(tmp_path: Path) -> None:
    disk = old_image(tmp_path)
    with resizing(tmp_path, disk):
        second = run_module("qemu_img", {"path": str(disk), "size": "3M", "timeout": 10})
    assert second.failed
    assert second.json["error"]["kind"] == "timed_out"
    assert "another task that works on %s" % disk in second.msg


def test_what_would_be_refused_all_the_same_is_told_when_the_time_is_over(tmp_path: Path) -> None:
    disk = old_image(tmp_path)
    with resizing(tmp_path, disk):
        second = run_module("qemu_img", {"path": str(disk), "size": "512K", "timeout": 10})
    assert second.json["error"]["kind"] == "timed_out", second.msg
    assert "Refused to shrink" in second.msg
