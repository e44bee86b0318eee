# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task and its guard, before there is anything to guard: who is there, who has gone, and what they still hear."""

from __future__ import annotations

import os
import select
import signal
import socket
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import LifecycleError, TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.guarded import Guarded, GuardLost
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.lease import Order
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.session import Endpoint, Patience


@pytest.fixture
def silent():
    """An endpoint that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Endpoint("127.0.0.1", server.getsockname()[1], "nobody", "-", Patience(2.0))


@pytest.fixture
def guarded(silent):
    found = Guarded(silent, 60.0)
    yield found
    found.forget_log()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_that_is_told_to_leave_has_left(guarded):
    assert guarded.leave(keep_log=False)
    assert is_gone(guarded.pid)


def test_one_that_was_killed_has_not_logged_out(guarded):
    os.kill(guarded.pid, signal.SIGKILL)
    assert not guarded.leave(keep_log=False)
    assert is_gone(guarded.pid)


def test_an_answer_that_comes_late_is_not_its_last_word(guarded):
    with pytest.raises(TimedOut):
        guarded.log_in(Deadline(0.1))
    assert guarded.leave(keep_log=False)


def test_the_system_may_wait_for_it_instead(silent):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        guarded = Guarded(silent, 60.0)
        assert guarded.leave(keep_log=False)
    finally:
        signal.signal(signal.SIGCHLD, before)
        guarded.forget_log()
    assert is_gone(guarded.pid)


def test_one_that_is_stopped_does_not_keep_the_task_for_ever(guarded):
    """An order larger than what a socket holds for whoever doesn't read."""
    os.kill(guarded.pid, signal.SIGSTOP)
    order = Order("resgroup-1", None, None, "web1", "r", "x" * 16_000_000)
    with pytest.raises(GuardLost, match="stopped"):
        guarded.begin(order, Deadline(600.0))
    os.kill(guarded.pid, signal.SIGCONT)
    assert guarded.leave(keep_log=False), "what it heard half of it does not obey"


def test_one_that_has_left_by_itself_is_noticed_and_its_last_word_is_heard(guarded):
    with pytest.raises(LifecycleError):
        guarded.log_in(Deadline(60.0))
    pidfd = os.pidfd_open(guarded.pid)
    guarded.check()
    os.kill(guarded.pid, signal.SIGTERM)
    assert select.select([pidfd], [], [], 60.0)[0]
    os.close(pidfd)
    with pytest.raises(GuardLost, match=guarded.log_path):
        guarded.check()
    assert guarded.leave(keep_log=False)


def test_a_server_that_says_nothing_costs_what_its_calls_may_wait(guarded):
    deadline = Deadline(60.0)
    with pytest.raises(LifecycleError, match=r"it gave no answer in time.* A call has a minute at most"):
        guarded.log_in(deadline)
    assert deadline.elapsed_s() < 30
    assert guarded.leave(keep_log=False)


def test_what_a_guard_without_a_task_has_written_goes_with_it(silent):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        found = Guarded(silent, 60.0)
        os.write(write, b"%d %s\n" % (found.pid, found.log_path.encode()))
        signal.pause()
    os.close(write)
    with open(read, encoding="ascii") as told:
        pid, path = told.readline().split()
        pidfd = os.pidfd_open(int(pid))
        os.kill(child, signal.SIGKILL)
        assert select.select([pidfd], [], [], 60.0)[0]
        os.close(pidfd)
    os.waitpid(child, 0)
    assert not Path(path).exists()
