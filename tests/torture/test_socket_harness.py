# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The harness for sockets itself: whose calls it counts, and that it strikes before a call and only whom it says."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.testbed import socket_calls
from tests.testbed.socket_calls import Action, Blow
from tests.testbed.syscalls import Run


def speak() -> None:
    """A module whose guard says one word, and hears one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ours, its = socket.socketpair()
    guard = os.fork()
    if guard == 0:
        ours.close()
        its.sendall(b"word")
        os.write(1, b"guard heard %s\n" % its.recv(10))
        os._exit(0)
    its.close()
    os.write(1, b"module heard %s\n" % ours.recv(10))
    ours.sendall(b"answer")
    os.waitpid(guard, 0)
    ours.close()


def names(run: Run, by_module: bool) -> list[str]:
    return [point.name for point in run.points if point.by_module is by_module]


def heard(run: Run) -> set[bytes]:
    return set(run.stdout.splitlines())


def test_each_is_counted_for_itself() -> None:
    run = socket_calls.run(speak)
    assert run.status == 0, run.stderr
    assert names(run, by_module=True) == ["close", "recvfrom", "sendto", "close"]
    assert names(run, by_module=False) == ["close", "sendto", "recvfrom"]
    assert heard(run) == {b"module heard word", b"guard heard answer"}


def test_files_and_pipes_do_not_count() -> None:
    def target() -> None:
        Path("/proc/self/stat").read_bytes()
        reader, writer = os.pipe()
        os.write(writer, b"x")
        os.read(reader, 1)
        os.close(reader)

    assert socket_calls.run(target).points == ()


def test_the_guard_is_killed_before_it_speaks() -> None:
    run = socket_calls.run(speak, Blow(2, Action.KILL_GUARD))
    assert heard(run) == {b"module heard "}


def test_the_module_is_killed_before_it_answers() -> None:
    run = socket_calls.run(speak, Blow(3, Action.KILL_MODULE))
    assert run.status == -signal.SIGKILL
    assert heard(run) == {b"module heard word", b"guard heard "}


@pytest.mark.parametrize("action", [Action.KILL_BOTH_AT_MODULE, Action.KILL_BOTH_AT_GUARD])
def test_both_are_killed(action: Action) -> None:
    run = socket_calls.run(speak, Blow(3, action))
    assert run.status == -signal.SIGKILL
    assert b"guard heard answer" not in heard(run)
    assert run.hit is not None
    assert run.hit.by_module is (action is Action.KILL_BOTH_AT_MODULE)


@pytest.mark.parametrize("action", [Action.TERM_MODULE, Action.TERM_GUARD])
def test_one_is_told_to_end(action: Action) -> None:
    run = socket_calls.run(speak, Blow(3, action))
    assert (run.status == -signal.SIGTERM) is (action is Action.TERM_MODULE)
    assert run.hit is not None
    assert run.hit.by_module is (action is Action.TERM_MODULE)


def test_a_blow_that_never_comes_hits_nobody() -> None:
    run = socket_calls.run(speak, Blow(9, Action.KILL_MODULE))
    assert (run.status, run.hit) == (0, None)
