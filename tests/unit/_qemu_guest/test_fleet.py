# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver with doubles in place of processes that can't be had: one that even SIGKILL doesn't end, and one of
another user.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import fleet, process
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.descent import Run
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.entry import Entry
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identify import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, Policy, Rung, State
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.probe import Probe


class FakeUnkillableProcess:
    """Stands in for a process in uninterruptible sleep: it takes every signal and never ends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.signals: list[signal.Signals] = []
        self._never, self._open = os.pipe()

    def fileno(self) -> int:
        return self._never

    def alive(self) -> bool:
        return True

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def close(self) -> None:
        os.close(self._never)
        os.close(self._open)


class FakeForeignProcess(FakeUnkillableProcess):
    """Stands in for another user's process, which not every user of these tests can make."""

    def signal(self, number: signal.Signals) -> None:
        super().signal(number)
        raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "before another"])
def test_a_guest_of_another_user_is_given_up_at_once(others: int):
    """All its rungs are refused at the start, so no event will ever wake the driver for it."""
    deadline = Deadline(10)
    entry = Entry(rungs=(Rung.TERMINATE, Rung.KILL))
    runs = []
    for number in range(1 + others):
        identity = Identity(Guest(pid=1000 + number))
        identity.state = State.NO_MONITOR
        identity.process = FakeForeignProcess()
        runs.append(Run(identity, Probe(State.NO_MONITOR), entry, Policy(max_rung=Rung.KILL), deadline, tidy=True))
    fleet.drive(runs, deadline, 1)
    for run in runs:
        assert [attempt.outcome for attempt in run.attempts] == ["refused", "refused"]
        assert "this user may not signal process" in run.problem
        assert not run.down
        run.identity.close()
    assert not deadline.expired


def test_an_unkillable_guest_is_named_with_its_place_in_the_kernel_and_nothing_is_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pidfile = tmp_path / "pid"
    pidfile.write_text("1\n")
    identity = Identity(Guest(pidfile=str(pidfile)))
    identity.state = State.NO_MONITOR
    unkillable = FakeUnkillableProcess()
    identity.process = unkillable
    monkeypatch.setattr(process, "stat", lambda _pid: process.Stat("D", 1))
    entry = Entry(rungs=(Rung.TERMINATE, Rung.KILL))
    deadline = Deadline(1)
    run = Run(identity, Probe(State.NO_MONITOR), entry, Policy(max_rung=Rung.KILL), deadline, tidy=True)
    fleet.drive([run], deadline, 0)
    assert unkillable.signals == [signal.SIGTERM, signal.SIGKILL]
    assert not run.down
    assert "still alive after SIGKILL" in run.problem
    assert "/proc/%d/wchan" % unkillable.pid in run.problem
    assert [attempt.outcome for attempt in run.attempts] == ["no_answer", "no_answer"]
    assert run.cleaned == []
    assert pidfile.exists()
    assert not deadline.expired
    identity.close()
