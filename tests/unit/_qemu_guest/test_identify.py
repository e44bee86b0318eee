# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process is taken for a guest, where its number may have been given to another one: a real process that calls
itself a QEMU and locks a pidfile.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import process
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identify import identify
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, State
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.observe import look
from tests.testbed.boot_guest import until
from tests.unit._qemu_guest.test_process import LOCKS

# Its first thread has ended, as one that the kernel is taking down; it holds its lock until it is let go.
ENDING = LOCKS.replace(
    "time.sleep(300)",
    "import ctypes, os, threading\n"
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()\n"
    "ctypes.CDLL(None).pthread_exit(None)",
)


@contextmanager
def qemu(script: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that calls itself a QEMU."""
    (tmp_path / "pid").write_text("")
    words = ["qemu-system-x86_64", "-c", script, str(tmp_path / "pid")]
    home = {**os.environ, "PYTHONHOME": sys.base_prefix}  # which Python else finds by what it is called
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, executable=sys.executable, env=home, **pipes) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture(name="pid")
def _pid(tmp_path: Path) -> Iterator[int]:
    with qemu(LOCKS, tmp_path) as running:
        yield running.pid


@pytest.fixture(name="ending")
def _ending(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with qemu(ENDING, tmp_path) as running:
        until(lambda: not process.arguments(running.pid), "its command line to go")
        yield running


def starts(monkeypatch: pytest.MonkeyPatch, times: Iterator[int]) -> None:
    """The start times, one after the other, that are read of every process."""
    monkeypatch.setattr(process, "stat", lambda _pid: process.Stat("S", next(times)))


def test_a_process_that_stays_the_same_is_held(tmp_path: Path, pid: int) -> None:
    identity = identify(Guest(pidfile=str(tmp_path / "pid")))
    assert identity.process is not None
    assert (identity.state, identity.process.pid, identity.is_qemu) == (State.NO_MONITOR, pid, True)
    identity.close()


def test_a_number_that_was_given_to_another_process_meanwhile_is_looked_at_again(
    tmp_path: Path, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = itertools.chain([1, 2], itertools.repeat(2))
    starts(monkeypatch, seen)
    identity = identify(Guest(pidfile=str(tmp_path / "pid")))
    assert identity.process is not None
    assert (identity.state, identity.process.pid) == (State.NO_MONITOR, pid)
    identity.close()


def test_a_number_that_keeps_changing_hands_proves_nothing(
    tmp_path: Path, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(monkeypatch, itertools.count())
    identity = identify(Guest(pidfile=str(tmp_path / "pid")))
    assert (identity.state, identity.process) == (State.UNPROVEN, None)
    assert "changes faster than it can be looked at" in identity.problem


def test_a_lock_that_is_gone_once_the_process_is_held_proves_nothing(
    tmp_path: Path, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pid").write_text("%d\n" % pid)
    owners = itertools.chain([pid], itertools.repeat(None))
    monkeypatch.setattr(process, "lock_owner", lambda _descriptor: next(owners))
    identity = identify(Guest(pidfile=str(tmp_path / "pid")))
    assert (identity.state, identity.process) == (State.UNPROVEN, None)
    assert "isn't locked" in identity.problem


def test_one_that_is_just_ending_is_waited_for(tmp_path: Path, ending: subprocess.Popen[bytes]) -> None:
    assert ending.stdin is not None
    letting_go = threading.Timer(0.3, ending.stdin.close)
    letting_go.start()
    identity = identify(Guest(pidfile=str(tmp_path / "pid")), Deadline(60))
    letting_go.join()
    assert (identity.state, identity.process, identity.problem) == (State.STALE, None, "")
    assert identity.leftovers == [str(tmp_path / "pid")]


def test_one_that_takes_too_long_to_end_is_told(tmp_path: Path, ending: subprocess.Popen[bytes]) -> None:
    (sight,) = look([Guest(pidfile=str(tmp_path / "pid"))], Deadline(0.1))
    sight.identity.close()
    assert sight.seen.state is State.UNPROVEN
    assert "process %d is a QEMU: it is ending" % ending.pid in sight.seen.problem
    assert sight.seen.problem.endswith("run the task again when it has ended")
    assert "root" not in sight.seen.problem
