# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitor's client against scripted monitors, for what no real QEMU can be made to say."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.qmp import (
    CommandRefused,
    Monitor,
    MonitorFailed,
    converse,
    execute,
    open_monitor,
)
from tests.unit.children import PATIENCE_S

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


class FakeMonitor:
    """Serves one client by a script; stands in for a QEMU that misbehaves in a way that can't be had."""

    def __init__(self, path: Path, script: Callable[[socket.socket], None]) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self._script = script
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            connection, _address = self._socket.accept()
            with connection:
                self._script(connection)
        except OSError:
            pass

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
        self._thread.join(PATIENCE_S)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    fakes: list[FakeMonitor] = []

    def start(script: Callable[[socket.socket], None]) -> str:
        fakes.append(FakeMonitor(tmp_path / ("m%d" % len(fakes)), script))
        return fakes[-1].path

    yield start
    for fake in fakes:
        fake.close()


def answer(connection: socket.socket, answers: dict[str, object], before: bytes = b"") -> None:
    """Greet, and answer each command by what is in the table."""
    connection.sendall(GREETING)
    for line in connection.makefile("rb"):
        request = json.loads(line)
        connection.sendall(before + json.dumps({"id": request["id"], **answers[request["execute"]]}).encode() + b"\r\n")


HELLO = {"qmp_capabilities": {"return": {}}}


def test_a_command_is_answered_and_events_in_between_are_kept(monitor):
    event = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESET", "data": {"guest": true}}\r\n'
    path = monitor(lambda connection: answer(connection, {**HELLO, "query-name": {"return": {"name": "a"}}}, event))
    opened = open_monitor(path, Deadline(PATIENCE_S))
    assert execute(opened, "query-name", Deadline(PATIENCE_S)) == {"name": "a"}
    assert [(event.name, event.data["guest"]) for event in opened.events] == [("RESET", True)] * 2
    opened.close()


def test_an_error_carries_qemus_words(monitor):
    refusal = {"error": {"class": "GenericError", "desc": "not now"}}
    opened = open_monitor(
        monitor(lambda connection: answer(connection, {**HELLO, "quit": refusal})), Deadline(PATIENCE_S)
    )
    with pytest.raises(CommandRefused, match="not now"):
        execute(opened, "quit", Deadline(PATIENCE_S))
    opened.close()


def slow_greeting(connection: socket.socket) -> None:
    for number in range(len(GREETING)):
        connection.sendall(GREETING[number : number + 1])
    answer_after_greeting(connection)


def answer_after_greeting(connection: socket.socket) -> None:
    for line in connection.makefile("rb"):
        connection.sendall(json.dumps({"id": json.loads(line)["id"], "return": {}}).encode() + b"\r\n")


def test_messages_may_come_in_pieces(monitor):
    open_monitor(monitor(slow_greeting), Deadline(PATIENCE_S)).close()


def silence(connection: socket.socket) -> None:
    while connection.recv(100000):
        pass


def test_silence_ends_at_the_limit(monitor):
    with pytest.raises(MonitorFailed) as caught:
        open_monitor(monitor(silence), Deadline(0.3))
    assert caught.value.reason in ("hung", "busy")
    channel = Monitor(monitor(silence))
    channel.negotiate()
    deadline = Deadline(0.3)
    converse([channel], deadline, greeting_s=120)
    assert deadline.elapsed_s() < 60
    channel.close()


@pytest.mark.parametrize(
    ("said", "problem"),
    [(b"HTTP/1.1 200 OK\r\n", "GARBAGE"), (b"[1, 2]\n", "GARBAGE"), (b"", "EOF")],
    ids=["http", "list", "end"],
)
def test_what_is_no_monitor_is_given_up(monitor, said, problem):
    channel = Monitor(monitor(lambda connection: connection.sendall(said)))
    channel.negotiate()
    converse([channel], Deadline(PATIENCE_S))
    assert channel.problem in (problem, "ECONNRESET", "EPIPE")


def test_a_reset_connection_still_yields_what_came_before(monitor):
    """QEMU may end the connection with a reset; its last words before that count."""

    def script(connection: socket.socket) -> None:
        connection.sendall(GREETING + b'{"event": "SHUTDOWN", "data": {"reason": "host-qmp-quit"}}\r\n')
        connection.recv(1)

    channel = Monitor(monitor(script))
    channel.negotiate()
    channel.send("quit")
    converse([channel], Deadline(PATIENCE_S))
    assert not channel.usable
    assert [event.name for event in channel.events] == ["SHUTDOWN"]


@pytest.mark.parametrize(("make", "reason"), [(None, "absent"), ("dead", "refused"), ("file", "refused")])
def test_nobody_there(tmp_path, make, reason):
    path = tmp_path / "m"
    if make == "dead":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    elif make == "file":
        path.write_text("")
    with pytest.raises(MonitorFailed) as caught:
        open_monitor(str(path), Deadline(PATIENCE_S))
    assert caught.value.reason == reason


def test_one_that_hangs_costs_the_others_nothing(monitor):
    good = Monitor(monitor(lambda connection: answer(connection, HELLO)))
    hung = Monitor(monitor(silence))
    for channel in (good, hung):
        channel.negotiate()
    converse([hung, good], Deadline(PATIENCE_S), greeting_s=2)
    assert not good.outstanding
    assert hung.outstanding
    good.close()
    hung.close()


def test_a_path_longer_than_a_socket_address_is_reached(tmp_path):
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    here = os.getcwd()
    os.chdir(folder)  # how its owner can bind it
    try:
        fake = FakeMonitor(Path("m.sock"), lambda connection: answer(connection, HELLO))
    finally:
        os.chdir(here)
    open_monitor(str(folder / "m.sock"), Deadline(PATIENCE_S)).close()
    fake.close()
