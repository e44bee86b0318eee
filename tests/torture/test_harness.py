# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The harness itself: what it counts, that it strikes where it says, and that nothing escapes it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.testbed import syscalls
from tests.testbed.syscalls import Action, Fault, Point, Run
from tests.torture.strike import spread


def shell(folder: Path, script: str, fault: Fault | None = None, **options: float) -> Run:
    return syscalls.run(syscalls.command("sh", "-c", f"cd {folder}; " + script), fault, below=folder, **options)


def told(run: Run, folder: Path) -> list[str]:
    return [f"{point.name} {os.path.relpath(point.path, folder)}" for point in run.points]


def test_it_counts_what_changes_files_in_their_order(tmp_path: Path) -> None:
    def target() -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        with one.open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            os.ftruncate(file.fileno(), 0)
            os.fchmod(file.fileno(), 0o600)
        os.utime(one, (0, 0))
        os.link(one, two)
        os.rename(two, tmp_path / "three")
        os.unlink(one)
        os.mkdir(tmp_path / "folder")

    run = syscalls.run(target, below=tmp_path)
    assert run.status == 0
    assert told(run, tmp_path) == [
        "openat one",
        "write one",
        "fsync one",
        "ftruncate one",
        "fchmod one",
        "utimensat one",
        "link two",
        "rename three",
        "unlink one",
        "mkdir folder",
    ]
    assert all(point.by_module for point in run.points)


def test_what_lies_elsewhere_or_only_reads_does_not_count(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    (inside / "file").write_bytes(b"x")
    run = shell(inside, f"cat file >/dev/null; echo y >{outside}/file; echo told; ls >&2")
    assert run.points == ()
    assert (run.stdout, run.stderr) == (b"told\n", b"file\n")


def test_children_are_counted_with_their_parent(tmp_path: Path) -> None:
    run = shell(tmp_path, "echo 1 >a; sh -c 'echo 2 >b'")
    assert told(run, tmp_path) == ["openat a", "write a", "openat b", "write b"]
    assert [point.by_module for point in run.points] == [True, True, False, False]


@pytest.mark.parametrize("at", range(1, 7))
def test_a_killed_tree_has_done_what_came_before_and_no_more(tmp_path: Path, at: int) -> None:
    run = shell(tmp_path, "for name in 1 2 3 4 5 6; do mkdir $name & wait; done", Fault(at, Action.KILL_TREE))
    assert run.status == -signal.SIGKILL
    assert run.hit is not None
    assert run.hit.path == str(tmp_path / str(at))
    assert sorted(os.listdir(tmp_path)) == [str(number) for number in range(1, at)]


@pytest.mark.parametrize(
    ("action", "words"), [(Action.ENOSPC, b"No space left on device"), (Action.EIO, b"Input/output error")]
)
def test_one_call_fails(tmp_path: Path, action: Action, words: bytes) -> None:
    run = shell(tmp_path, "mkdir 1; mkdir 2; mkdir 3", Fault(2, action))
    assert run.stderr.count(words) == 1
    assert sorted(os.listdir(tmp_path)) == ["1", "3"]


def test_all_calls_fail_from_then_on(tmp_path: Path) -> None:
    shell(tmp_path, "mkdir 1; mkdir 2; mkdir 3; rmdir 1", Fault(2, Action.EIO_ON))
    assert os.listdir(tmp_path) == ["1"]


def test_a_full_disk_still_lets_things_go(tmp_path: Path) -> None:
    shell(tmp_path, "mkdir 1; mkdir 2; rmdir 1; mkdir 3", Fault(2, Action.ENOSPC_ON))
    assert os.listdir(tmp_path) == []


def test_a_child_that_outlives_its_parent_is_named_and_ended(tmp_path: Path) -> None:
    script = "sh -c 'mkdir 1; exec sleep 100' & wait"
    run = shell(tmp_path, script, Fault(1, Action.KILL_MODULE), outlive_limit_s=3)
    assert run.status == -signal.SIGKILL
    assert [survivor.split(" ", 1)[1] for survivor in run.survivors] == ["sleep 100"]
    assert not Path(f"/proc/{run.survivors[0].split()[0]}").exists()


def test_children_that_end_by_themselves_are_no_survivors(tmp_path: Path) -> None:
    run = shell(tmp_path, "sh -c 'mkdir 1; mkdir 2' & wait", Fault(1, Action.KILL_MODULE))
    assert [orphan.split(" ", 1)[1] for orphan in run.orphans] == ["sh -c mkdir 1; mkdir 2", "mkdir 1"]
    assert run.survivors == ()
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_a_run_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(syscalls.HarnessError, match="sleep 100"):
        shell(tmp_path, "exec sleep 100", time_limit_s=3)


def test_what_would_hide_writes_is_refused() -> None:
    script = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.syscall(425, 1, 0), ctypes.get_errno())"
    )
    run = syscalls.run(syscalls.command(sys.executable, "-c", script))
    assert run.stdout == b"-1 38\n"  # io_uring_setup, ENOSYS


def test_each_write_of_qemu_img_matters(tmp_path: Path) -> None:
    """Killed before any of its writes, it leaves another file than undisturbed: none is counted that isn't one."""
    image = tmp_path / "disk.qcow2"
    argv = ("qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M")
    points = syscalls.run(syscalls.command(*argv), below=tmp_path).points
    whole = image.read_bytes()
    writes = [at for at, point in enumerate(points, 1) if point.name == "pwrite64"]
    assert len(writes) >= 3
    for at in writes:
        image.unlink()
        syscalls.run(syscalls.command(*argv), Fault(at, Action.KILL_TREE), below=tmp_path)
        assert image.read_bytes() != whole


def test_a_stride_tries_every_action_and_reaches_every_part() -> None:
    actions = tuple(Action)
    calls = [Point("pwrite64", "/disk", by_module=False)] * 100
    assert len(spread(calls[:10], actions, 1)) == 10 * len(actions)
    some = spread(calls, actions, 10)
    assert {fault.action for fault in some} == set(actions)
    assert len({fault.at for fault in some}) > 10 * 3
    assert max(fault.at for fault in some) > 90
    assert all(1 <= fault.at <= 100 for fault in some)


def test_a_stride_leaves_out_no_flush() -> None:
    calls = [Point("pwrite64", "/disk", by_module=False), Point("fdatasync", "/disk", by_module=False)] * 50
    failing = [fault.at for fault in spread(calls, tuple(Action), 40) if fault.action is Action.ENOSPC]
    assert set(range(2, 101, 2)) <= set(failing)
