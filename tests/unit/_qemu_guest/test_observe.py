# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of an earlier look is used again: a real socket, at which this very process plays the monitor."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import process
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identity import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, State
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.observe import Sight, look
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
