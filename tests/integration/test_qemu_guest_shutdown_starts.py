# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_shutdown while qemu_guest_start is at work on the same guest: neither may work behind the other's back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import Outcome, converge
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import LifecycleError
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import cleanup, observe
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.cleanup import Cleaned
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identity import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, Policy, Rung
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.shutdown import Shutdown, Wish
from tests.testbed.boot_guest import BOOT_S, EMULATOR, until
from tests.testbed.held_call import WORKS_HERE, Gate
from tests.testbed.modules import finish, run_module, start_module
from tests.testbed.start_bench import Bench, running

EMULATOR_PATH = shutil.which(EMULATOR) or EMULATOR
NAME = "g-%d" % os.getpid()


@pytest.fixture(name="gate")
def _gate(bench: Bench) -> Iterator[Gate]:
    """Holds QEMU where it creates its pidfile: it is a daemon by then, and nothing but its start's lock tells of it."""
    if not WORKS_HERE:
        pytest.skip("a process is held at a system call by a filter for x86_64 Linux")
    gate = Gate(bench.folder, "qemu.pid")
    yield gate
    bench.end()
    gate.close()


def means(bench: Bench, option: str) -> dict[str, Any]:
    """How a shutdown names the guest."""
    path = {"pidfile": "qemu.pid", "qmp_socket": "qmp.sock"}
    return {option: NAME if option == "name" else str(bench.place(path[option], NAME))}


def held_start(bench: Bench, gate: Gate) -> Any:
    """A start that has come so far."""
    start = start_module("qemu_guest_start", bench.options(name=NAME, emulator=str(gate.wrap(EMULATOR_PATH))))
    assert gate.reached.wait(BOOT_S), "QEMU never came there"
    return start


def shut_down(guest: Guest) -> Outcome:
    """What the module does, in this process."""
    policy = Policy(Rung.KILL, "windows")
    wish = Wish((guest,), policy, require_graceful=False, cleanup=True, parallel=0, single=True)
    return converge(Shutdown(wish, Deadline(300)), check_mode=False)


OPTIONS = pytest.mark.parametrize("option", ["pidfile", "qmp_socket", "name"])


@OPTIONS
def test_a_start_that_has_shown_nothing_yet_is_waited_for(
    bench: Bench, gate: Gate, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = held_start(bench, gate)
    wait = observe.poll_until

    def go_on(shown: Callable[[], bool], *given: Any) -> None:
        assert not shown()
        gate.released.set()
        wait(shown, *given)

    monkeypatch.setattr(observe, "poll_until", go_on)
    paths = {name: str(bench.place(file, NAME)) for name, file in (("pidfile", "qemu.pid"), ("qmp_socket", "qmp.sock"))}
    guest = Guest(**({"name": NAME} if option == "name" else {option: paths[option]}))
    assert shut_down(guest).changed
    assert gate.released.is_set(), "nobody waited"
    finish(start)
    assert running(bench.folder) == [], "it is down and stays so"


def test_a_start_that_takes_long_keeps_no_other_guest_up(bench: Bench, gate: Gate) -> None:
    start = held_start(bench, gate)
    bench.start(name="other")
    guests = [{"pidfile": str(bench.place("qemu.pid", name))} for name in (NAME, "other")]
    result = run_module("qemu_guest_shutdown", {"guests": guests, "timeout": 50, "max_rung": "kill"})
    assert result.failed
    assert [guest["state"] for guest in result.json["guests"]] == ["unproven", "absent"]
    assert gate.pid in running(bench.folder)
    gate.released.set()
    assert finish(start).changed


@OPTIONS
@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_one_that_takes_too_long_is_named_and_nothing_is_called_absent(
    bench: Bench, gate: Gate, option: str, check: bool
) -> None:
    start = held_start(bench, gate)
    kept = bench.place("guest.json", NAME)
    options = {**means(bench, option), "cleanup_paths": [str(kept)], "max_rung": "kill"}
    result = run_module("qemu_guest_shutdown", {**options, "timeout": 2}, check=check)
    assert result.failed
    assert "a start of it is under way" in result.msg
    assert "process %d (/usr/bin/qemu-system" % gate.pid in result.msg
    assert result.json["guest"]["state"] == "unproven"
    assert kept.exists()
    seen = run_module("qemu_guest_info", {**means(bench, option), "timeout": 2}).json["guest"]
    assert seen["state"] == "unproven"
    assert "a start of it is under way" in seen["problem"]
    gate.released.set()
    assert finish(start).changed
    assert not run_module("qemu_guest_shutdown", {**options, "timeout": 60}).failed
    assert running(bench.folder) == []


@OPTIONS
def test_one_whose_task_was_killed_is_heeded_too(bench: Bench, gate: Gate, option: str) -> None:
    start = held_start(bench, gate)
    os.killpg(start.pid, signal.SIGKILL)
    finish(start)
    until(lambda: running(bench.folder) == [gate.pid], "QEMU's first process to die with the module")
    options = {**means(bench, option), "max_rung": "kill", "timeout": 8}
    result = run_module("qemu_guest_shutdown", options)
    if option == "name":  # by its command line the process is known, so it can be ended
        assert not result.failed, result.msg
        assert running(bench.folder) == []
        return
    assert result.failed
    assert "process %d (/usr/bin/qemu-system" % gate.pid in result.msg
    assert running(bench.folder) == [gate.pid]


def test_a_start_that_only_waits_for_the_guest_to_be_ready_is_not_waited_for(bench: Bench) -> None:
    start = start_module("qemu_guest_start", bench.options(name=NAME, ready_text="never", timeout=100))
    until(lambda: bench.place("qemu.pid", NAME).exists(), "the guest")
    result = run_module("qemu_guest_shutdown", {**means(bench, "pidfile"), "timeout": 60, "max_rung": "kill"})
    assert not result.failed, result.msg
    assert result.changed
    assert finish(start).failed
    assert running(bench.folder) == []


def test_what_a_start_made_meanwhile_is_not_taken_away(
    bench: Bench, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start(name=NAME)
    record = bench.place("guest.json", NAME)
    begun: list[Any] = []
    kept: list[Cleaned] = []
    clean = cleanup.clean

    def clean_late(identity: Identity) -> list[Cleaned]:
        begun.append(held_start(bench, gate))
        kept.extend(clean(identity))
        gate.released.set()
        return kept

    monkeypatch.setattr(cleanup, "clean", clean_late)
    with suppress(LifecycleError):  # where its last look finds the guest up again by then
        shut_down(Guest(str(bench.place("qemu.pid", NAME)), cleanup_paths=(str(record),)))
    assert [(entry.outcome, entry.reason) for entry in kept if entry.path == str(record)] == [
        ("kept", "a start of the guest is under way")
    ]
    assert finish(begun[0]).changed
    assert record.exists()
    assert not run_module("qemu_guest_start", bench.options(name=NAME, emulator=str(gate.wrap(EMULATOR_PATH)))).changed


def test_a_lock_that_a_killed_start_left_is_taken_away_as_check_mode_tells(bench: Bench) -> None:
    lock = bench.runs / ".g.vmops-lock"
    bench.start()
    place = {"pidfile": str(bench.place("qemu.pid")), "qmp_socket": str(bench.place("qmp.sock"))}
    assert run_module("qemu_guest_shutdown", place).changed
    lock.touch()
    for check in (True, False):
        result = run_module("qemu_guest_shutdown", {**place, "cleanup_paths": [str(lock)]}, check=check)
        assert result.changed
    assert result.json["guest"]["cleaned"] == [str(lock)]
    assert not lock.exists()


def test_no_lock_is_left_and_none_of_a_shutdown_is_told_to_be_cleaned(bench: Bench) -> None:
    bench.start()
    lock = bench.runs / ".g.vmops-lock"
    options = {"pidfile": str(bench.place("qemu.pid")), "qmp_socket": str(bench.place("qmp.sock"))}
    result = run_module("qemu_guest_shutdown", {**options, "cleanup_paths": [str(lock)], "timeout": 60})
    assert result.changed, result.msg
    record = result.json["guest"]
    assert (record["state"], record["cleaned"], record["left_behind"]) == ("absent", [], [])
    assert not list(bench.runs.rglob(".*vmops*"))


def test_the_lock_of_a_task_that_lives_is_no_leftover(bench: Bench) -> None:
    start = start_module("qemu_guest_start", bench.options(ready_text="never", timeout=100))
    until(bench.place("qemu.pid").exists, "the guest")
    lock = bench.runs / ".g.vmops-lock"
    result = run_module("qemu_guest_shutdown", {"pidfile": "/none", "cleanup_paths": [str(lock)]})
    assert not result.changed
    assert result.json["guest"]["left_behind"][0]["outcome"] == "kept"
    assert lock.exists()
    start.kill()
    finish(start)
