# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_start when the module itself is ended: what is left of that start, and what the next run makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.locks import try_flock
from tests.testbed.boot_guest import BOOT_S, EMULATOR, until
from tests.testbed.held_call import WORKS_HERE, Gate
from tests.testbed.modules import finish, run_module, start_module
from tests.testbed.start_bench import Bench, ask, held_by, running, wait_for_the_wait

EMULATOR_PATH = shutil.which(EMULATOR) or EMULATOR


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_module_ended_while_it_waits_leaves_a_guest_that_the_next_run_adopts(
    bench: Bench, number: signal.Signals
) -> None:
    process = start_module("qemu_guest_start", bench.options(ready_text="never", timeout=100))
    pid = wait_for_the_wait(bench, process)
    os.killpg(process.pid, number)
    ended = finish(process)
    assert running(bench.folder) == [pid]
    if number is not signal.SIGKILL:
        assert number.name in ended.msg
    result = bench.start()
    assert result.changed
    assert result.json["commands"] == []
    assert running(bench.folder) == [pid]
    assert not bench.start().changed


def test_a_guest_that_was_adopted_and_is_shut_down_meanwhile_stays_down(bench: Bench) -> None:
    """It is none that gave up because its start was killed, which alone is started anew."""
    pid = bench.start_unready()
    process = start_module("qemu_guest_start", bench.options(ready_text="never", timeout=100))
    until(lambda: pid in held_by(process.pid), "the next run to hold that process")
    down = run_module("qemu_guest_shutdown", {"pidfile": str(bench.place("qemu.pid")), "max_rung": "terminate"})
    assert down.changed, down.msg
    result = finish(process)
    assert result.failed
    assert result.json["error"]["kind"] == "guest_ended"
    assert not result.changed
    assert running(bench.folder) == []


@pytest.mark.parametrize("delay_ms", [5, 15, 30, 60, 90, 120, 150, 180, 220, 260, 300])
def test_a_module_killed_at_any_moment_of_the_start_is_recovered(bench: Bench, delay_ms: int) -> None:
    process = start_module("qemu_guest_start", bench.options())
    time.sleep(delay_ms / 1000)  # not a wait for anything: the moment of the fault
    with suppress(ProcessLookupError):  # it was through already
        os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    result = bench.start()
    assert not result.failed, result.msg
    assert running(bench.folder) == [bench.pid()]
    assert not bench.start().changed
    assert not list(bench.runs.rglob(".*vmops*"))


def test_the_lock_of_a_task_that_was_killed_when_all_was_done_is_removed(bench: Bench) -> None:
    bench.start()
    lock = bench.runs / ".g.vmops-lock"
    lock.touch()
    assert not bench.start(check=True).changed
    assert lock.exists()
    with lock.open("rb") as held:
        assert try_flock(held.fileno())
        assert not bench.start().changed
        assert lock.exists(), "another task's lock is not a leftover"
    assert not bench.start().changed
    assert not lock.exists()


# ---- QEMU is a daemon already, and the task ends before it is through ----


def test_a_guest_that_ends_as_soon_as_it_is_up_is_told_with_qemus_words(bench: Bench) -> None:
    """The task is held where it writes down that the guest is ready, and the guest ends."""
    if not WORKS_HERE:
        pytest.skip("a process is held at a system call by a filter for x86_64 Linux")
    bench.start_unready()
    gate = Gate(bench.folder, ".guest.json.vmops-new")
    given = bench.options(ready="none", ready_text=None)
    process = start_module("qemu_guest_start", given, python=str(gate.wrap(sys.executable)))
    try:
        assert gate.reached.wait(BOOT_S), "the task never came there"
        os.kill(bench.pid(), signal.SIGTERM)
        until(lambda: not running(bench.folder), "the guest to end")
        gate.released.set()
        result = finish(process)
    finally:
        gate.close()
    assert result.failed
    assert result.json["error"]["kind"] == "guest_ended"
    assert "as soon as it was up" in result.msg
    assert "terminating on signal 15" in result.msg
    assert running(bench.folder) == []


@pytest.fixture(name="gate")
def _gate(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Gate]:
    """Holds QEMU where it creates its pidfile: it is a daemon by then, and nothing but its start's lock tells of it.

    With another file's name as parameter it is held there.
    """
    if not WORKS_HERE:
        pytest.skip("a process is held at a system call by a filter for x86_64 Linux")
    gate = Gate(bench.folder, getattr(request, "param", "qemu.pid"))
    yield gate
    bench.end()
    gate.close()


def cut_off(bench: Bench, gate: Gate) -> dict[str, Any]:
    """Kill a start at that moment; the options that it had."""
    options = bench.options(emulator=str(gate.wrap(EMULATOR_PATH)))
    process = start_module("qemu_guest_start", options)
    assert gate.reached.wait(BOOT_S), "QEMU never came there"
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    until(lambda: running(bench.folder) == [gate.pid], "QEMU's first process to die with the module")
    return options


def test_a_daemon_without_a_pidfile_is_waited_for(bench: Bench, gate: Gate) -> None:
    options = cut_off(bench, gate)
    assert not bench.place("qemu.pid").exists()
    process = start_module("qemu_guest_start", options)
    log = str(bench.place("qemu.log"))
    until(lambda: log in opened(process.pid), "the next run to see that a start is under way")
    assert running(bench.folder) == [gate.pid]
    gate.released.set()
    result = finish(process)
    assert not result.failed, result.msg
    assert running(bench.folder) == [bench.pid()]
    assert not run_module("qemu_guest_start", options).changed
    assert ask(bench.place("qmp.sock"), "query-status")["status"] == "running"


@pytest.mark.parametrize("gate", ["console.log"], indirect=True)
def test_a_daemon_that_gives_up_because_its_start_was_killed_is_started_anew(bench: Bench, gate: Gate) -> None:
    """It has locked its pidfile, so the next run adopts it, and ends when it can't tell its parent that it is there."""
    options = cut_off(bench, gate)
    assert bench.pid() == gate.pid
    process = start_module("qemu_guest_start", options)
    until(lambda: gate.pid in held_by(process.pid), "the next run to hold that process")
    gate.released.set()
    result = finish(process)
    assert result.changed, result.msg
    assert result.json["guest"]["pid"] != gate.pid
    assert running(bench.folder) == [bench.pid()]
    assert not run_module("qemu_guest_start", options).changed


@pytest.mark.parametrize("hidden", [{}, {"VMOPS_HIDE_CAPABILITIES": "pidfd,proc"}], ids=["linux", "elsewhere"])
def test_a_daemon_that_hangs_without_a_pidfile_is_named_and_no_second_one_started(
    bench: Bench, gate: Gate, hidden: dict[str, str]
) -> None:
    options = cut_off(bench, gate)
    result = run_module("qemu_guest_start", {**options, "timeout": 4}, env=hidden)
    assert result.failed
    assert "is still under way" in result.msg
    assert (f"process {gate.pid} (/usr/bin/qemu-system" in result.msg) is not bool(hidden)
    assert running(bench.folder) == [gate.pid]


def test_a_daemon_that_died_without_a_pidfile_is_in_nobodys_way(bench: Bench, gate: Gate) -> None:
    options = cut_off(bench, gate)
    os.kill(gate.pid, signal.SIGKILL)
    until(lambda: not running(bench.folder), "QEMU to die")
    result = run_module("qemu_guest_start", options)
    assert result.changed, result.msg
    assert running(bench.folder) == [bench.pid()]


def test_qemu_holds_its_starts_lock_for_as_long_as_it_lives(bench: Bench) -> None:
    bench.start()
    assert str(bench.place("qemu.log")) in opened(bench.pid())
    with bench.place("qemu.log").open("rb") as log:
        assert not try_flock(log.fileno())
        bench.end()
        assert try_flock(log.fileno())


def opened(pid: int) -> list[str]:
    """The files that a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # it was closed meanwhile
            found.append(os.readlink(entry))
    return found
