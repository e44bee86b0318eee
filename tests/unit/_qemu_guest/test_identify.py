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
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import process
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identify import identify
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, State
from tests.unit._qemu_guest.test_process import LOCKS


@pytest.fixture(name="pid")
def _pid(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "pid").write_text("")
    words = ["qemu-system-x86_64", "-c", LOCKS, str(tmp_path / "pid")]
    home = {**os.environ, "PYTHONHOME": sys.base_prefix}  # which Python else finds by what it is called
    with subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE, env=home) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running.pid
        running.kill()


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
