# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of an earlier look is used again: a real socket, at which this very process plays the monitor. And what a start
that is under way makes of a look.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import observe, process, underway
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identity import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, State
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.observe import Sight, look
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.places import Places
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.probe import Probe
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.qmp import Monitor
from tests.testbed.boot_guest import until

ANSWERS = {"query-status": {"status": "running"}, "query-block-jobs": []}


class SlowMonitor:
    """Says nothing to its one client until it is told to."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.wake = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _address = self._listener.accept()
        with connection, suppress(BrokenPipeError), connection.makefile("r") as lines:
            self.wake.wait()
            self._say(connection, {"QMP": {}})
            for line in lines:
                asked = json.loads(line)
                self._say(connection, {"return": ANSWERS.get(asked["execute"], {}), "id": asked["id"]})

    @staticmethod
    def _say(connection: socket.socket, message: object) -> None:
        connection.sendall(json.dumps(message).encode() + b"\n")

    def end(self) -> None:
        self.wake.set()
        self._thread.join(20)
        self._listener.close()


@pytest.fixture(name="slow")
def _slow(tmp_path: Path) -> Iterator[SlowMonitor]:
    monitor = SlowMonitor(tmp_path / "qmp")
    yield monitor
    monitor.end()


def hung(guest: Guest) -> Sight:
    """A look at a guest whose monitor was asked, and gave no answer."""
    assert guest.qmp_socket is not None
    identity = Identity(guest)
    identity.state, identity.is_qemu = State.NO_MONITOR, True
    identity.process = process.hold(os.getpid())
    identity.monitor = Monitor(guest.qmp_socket)
    identity.monitor.negotiate()
    return Sight(identity, Probe(State.MONITOR_HUNG), time.monotonic())


def test_a_monitor_that_stays_silent_is_not_asked_again(tmp_path: Path, slow: SlowMonitor) -> None:
    guest = Guest(qmp_socket=str(tmp_path / "qmp"))
    before = hung(guest)
    assert look([guest], Deadline(60), [before]) == [before]
    before.identity.close()


def has_come(monitor: Monitor, word: bytes) -> bool:
    """Whether it lies in the socket, unread."""
    try:
        return word in monitor.connection.recv(1000, socket.MSG_PEEK)
    except BlockingIOError:
        return False


def test_a_monitor_that_speaks_at_last_is_asked_again(tmp_path: Path, slow: SlowMonitor) -> None:
    guest = Guest(qmp_socket=str(tmp_path / "qmp"))
    before = hung(guest)
    slow.wake.set()
    monitor = before.identity.monitor
    assert monitor is not None
    until(lambda: has_come(monitor, b"return"), "the answer to come")
    (sight,) = look([guest], Deadline(60), [before])
    assert sight.identity is before.identity
    assert sight.seen.state is State.RUNNING
    sight.identity.close()


@pytest.fixture(name="begun")
def _begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    """A guest whose start is under way, and shows nothing."""
    monkeypatch.setattr(observe, "STARTS_S", 0.1)
    (tmp_path / "web1").mkdir()
    with (tmp_path / ".web1.vmops-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Guest(pidfile=str(tmp_path / "web1" / "qemu.pid"))


def test_a_start_that_was_waited_for_in_vain_is_not_waited_for_again(
    begun: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    poll_until = observe.poll_until

    def count(*given: Any) -> None:
        waits.append(given)
        poll_until(*given)

    monkeypatch.setattr(observe, "poll_until", count)
    guests = [begun, Guest(pidfile=str(tmp_path / "other"))]
    sights = look(guests, Deadline(60))
    again = look(guests, Deadline(60), sights)
    assert [sight.seen.state for sight in again] == [State.UNPROVEN, State.ABSENT]
    assert again[0].seen.problem == sights[0].seen.problem
    (renewed,) = look([begun], Deadline(60), again[:1])
    assert renewed.seen == again[0].seen
    assert len(waits) == 1


def test_a_start_that_went_on_and_is_over_is_forgotten(begun: Guest, tmp_path: Path) -> None:
    sights = look([begun], Deadline(0.2))
    os.unlink(tmp_path / ".web1.vmops-lock")
    (sight,) = look([begun], Deadline(60), sights)
    assert (sight.seen.state, sight.awaited_s) == (State.ABSENT, None)


@pytest.mark.parametrize("odd", ["link", "folder", "FIFO"])
def test_a_start_with_an_odd_log_keeps_no_other_guest_up(begun: Guest, tmp_path: Path, odd: str) -> None:
    log = tmp_path / "web1" / "qemu.log"
    {
        "link": lambda: log.symlink_to("/etc/passwd"),
        "folder": log.mkdir,
        "FIFO": lambda: os.mkfifo(log),
    }[odd]()
    sights = look([begun, Guest(pidfile=str(tmp_path / "other"))], Deadline(60))
    assert [sight.seen.state for sight in sights] == [State.UNPROVEN, State.ABSENT]
    assert "a start of it is under way, or" in sights[0].seen.problem


def test_a_start_that_can_no_longer_be_looked_at_keeps_no_other_guest_up(
    begun: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_under_way = underway.is_under_way
    looks: list[Places] = []

    def look_once(places: Places) -> bool:
        looks.append(places)
        if len(looks) > 1:
            raise PermissionError(errno.EACCES, "Permission denied")
        return is_under_way(places)

    monkeypatch.setattr(underway, "is_under_way", look_once)
    sights = look([begun, Guest(pidfile=str(tmp_path / "other"))], Deadline(60))
    assert [sight.seen.state for sight in sights] == [State.UNPROVEN, State.ABSENT]
