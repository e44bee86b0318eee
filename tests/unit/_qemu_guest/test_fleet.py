# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver with doubles in place of what can't be had: a process that even SIGKILL doesn't end, one of another user,
and a monitor that reports something at just the wrong moment.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import fleet, process
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.descent import Run
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.entry import Entry
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identity import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Act, Guest, Policy, Rung, State
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.probe import Probe, probe
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.qmp import Monitor


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


def as_before(_runs: Sequence[Run]) -> None:
    """What was seen of them still holds."""


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "before another"])
def test_a_guest_of_another_user_is_given_up_at_once(others: int):
    """All its rungs are refused at the start, so no event will ever wake the driver for it."""
    deadline = Deadline(60)
    entry = Entry(rungs=(Rung.TERMINATE, Rung.KILL))
    runs = []
    for number in range(1 + others):
        identity = Identity(Guest(pid=1000 + number))
        identity.state = State.NO_MONITOR
        identity.process = FakeForeignProcess()
        runs.append(Run(identity, Probe(State.NO_MONITOR), entry, Policy(max_rung=Rung.KILL), deadline, tidy=True))
    fleet.drive(runs, deadline, 1, as_before)
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
    fleet.drive([run], deadline, 0, as_before)
    assert unkillable.signals == [signal.SIGTERM, signal.SIGKILL]
    assert not run.down
    assert "still alive after SIGKILL" in run.problem
    assert "/proc/%d/wchan" % unkillable.pid in run.problem
    assert [attempt.outcome for attempt in run.attempts] == ["no_answer", "no_answer"]
    assert run.cleaned == []
    assert pidfile.exists()
    assert run.ladder is not None
    assert deadline.ends - run.ladder.ends > 0.01, "some time is kept for the last look and the result"
    identity.close()


class FakeHastyMonitor:
    """Stands in for a QEMU that reports something between its answers to the first look's first and last question."""

    def __init__(self, path: Path, event: str, data: dict[str, object]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._event = {"event": event, "data": data}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        job = {"device": "copy", "type": "backup", "ready": False, "offset": 0, "len": 1}
        answers = {"query-status": {"status": "running"}, "query-block-jobs": [job], "query-chardev": []}
        connection, _address = self._listener.accept()
        with connection, suppress(OSError), connection.makefile("r") as lines:
            self._say(connection, {"QMP": {}})
            for line in lines:
                asked = json.loads(line)
                if asked["execute"] == "query-chardev":
                    self._say(connection, self._event)
                self._say(connection, {"return": answers.get(asked["execute"], {}), "id": asked["id"]})

    @staticmethod
    def _say(connection: socket.socket, message: object) -> None:
        connection.sendall(json.dumps(message).encode() + b"\n")

    def end(self) -> None:
        self._thread.join(20)
        self._listener.close()


def seen_by_a_hasty_monitor(folder: Path, event: str, data: dict[str, object]) -> tuple[Run, FakeHastyMonitor]:
    """A run just after the first look."""
    monitor = FakeHastyMonitor(folder / "qmp.sock", event, data)
    identity = Identity(Guest(qmp_socket=str(folder / "qmp.sock"), agent_socket=str(folder / "agent.sock")))
    identity.state, identity.is_qemu, identity.process = State.NO_MONITOR, True, FakeUnkillableProcess()
    identity.monitor = Monitor(str(folder / "qmp.sock"))
    deadline = Deadline(60)
    (seen,) = probe([identity], deadline, 60.0)
    assert [job.name for job in seen.jobs] == ["copy"]
    run = Run(identity, seen, Entry(rungs=(Rung.ACPI, Rung.QUIT)), Policy(), deadline, tidy=False)
    run.prepare(time.monotonic() + 60)
    run.begin()
    return run, monitor


@pytest.mark.parametrize("event", ["BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"])
def test_a_job_that_ends_while_it_is_asked_for_is_not_waited_for(tmp_path: Path, event: str):
    run, monitor = seen_by_a_hasty_monitor(tmp_path, event, {"device": "copy"})
    assert [attempt.sent for attempt in run.attempts] == ["system_powerdown"]
    run.identity.close()
    monitor.end()


def test_a_shutdown_reported_during_the_first_look_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, monitor = seen_by_a_hasty_monitor(tmp_path, "SHUTDOWN", {"reason": "guest-shutdown"})
    monkeypatch.setattr(FakeUnkillableProcess, "alive", lambda _self: False)
    run.attend()
    assert run.outcome is not None
    assert run.outcome.down
    assert run.outcome.reason == "guest-shutdown"
    run.identity.close()
    monitor.end()


def test_a_monitor_lost_while_it_is_written_to_is_noticed_at_once(tmp_path: Path):
    run, monitor = seen_by_a_hasty_monitor(tmp_path, "BLOCK_JOB_COMPLETED", {"device": "copy"})
    assert run.identity.monitor is not None
    run.identity.monitor.connection.shutdown(socket.SHUT_RDWR)
    monitor.end()
    run._do(Act.PRESS)
    assert run.ladder is not None
    assert run.ladder.monitor_lost
    assert run.attempts[-1].outcome == "connection_lost"
    run.identity.close()
