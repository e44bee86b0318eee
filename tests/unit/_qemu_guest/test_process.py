# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding processes, against real ones."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import process

LOCKS = (
    "import fcntl, sys, time\n"
    "f = open(sys.argv[1], 'r+')\n"
    "fcntl.lockf(f, fcntl.LOCK_EX)\n"
    "print('locked', flush=True)\n"
    "time.sleep(300)\n"
)


LISTENS = (
    "import socket, sys, time\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "s.bind(sys.argv[1])\n"
    "s.listen()\n"
    "print('listening', flush=True)\n"
    "time.sleep(300)\n"
)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that locks tmp_path/pid as QEMU locks its pidfile."""
    (tmp_path / "pid").write_text("")
    running = subprocess.Popen([sys.executable, "-c", LOCKS, str(tmp_path / "pid")], stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    yield running
    running.kill()
    running.wait()
    running.stdout.close()


def test_a_held_process_is_alive_until_the_kernel_says_otherwise(child):
    held = process.hold(child.pid)
    assert held is not None
    assert held.alive()
    held.signal(signal.SIGKILL)
    assert select.select([held.fileno()], [], [], 60)[0]
    assert not held.alive(), "it counts as ended although its parent has not collected it"
    held.close()
    held.close()


def test_a_process_lives_as_long_as_any_of_its_threads():
    """/proc calls it a zombie as soon as its first thread has ended, with all its files still open."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(300,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as running:
        ends = time.monotonic() + 60
        while process.stat(running.pid).state != "Z" and time.monotonic() < ends:
            time.sleep(0.01)
        assert process.stat(running.pid).state == "Z"
        assert process.stat(running.pid).ending
        assert process.arguments(running.pid) == []
        assert process.lives(running.pid)
        running.kill()
        running.wait()
        assert not process.lives(running.pid)


def test_a_process_that_has_ended_shares_nothing(child):
    assert process.shares_root(child.pid)
    child.kill()
    child.wait()
    assert not process.shares_root(child.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its root")
def test_a_path_means_something_else_below_another_root(tmp_path):
    code = "import os, sys, time; os.chroot(sys.argv[1]); print('there', flush=True); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as caged:
        assert caged.stdout is not None
        caged.stdout.readline()
        assert not process.shares_root(caged.pid)
        caged.kill()


@pytest.mark.parametrize("hidden", ["", "pidfd"])
def test_a_process_that_nobody_collected_has_ended(child, monkeypatch, hidden):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", hidden)
    assert process.lives(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.lives(child.pid)


def test_a_signal_never_reaches_another_process(child):
    held = process.hold(child.pid)
    assert held is not None
    child.kill()
    child.wait()
    with pytest.raises(ProcessLookupError):
        held.signal(signal.SIGTERM)
    held.close()


def test_there_is_nobody_to_hold(child):
    child.kill()
    child.wait()
    assert process.hold(child.pid) is None
    assert process.stat(child.pid) is None
    assert process.arguments(child.pid) == []
    assert process.started_at(child.pid) is None


def test_a_threads_number_and_one_too_large_are_no_process():
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        assert thread.native_id not in (None, os.getpid())
        assert process.hold(thread.native_id) is None
        assert process.hold(1 << 40) is None
        assert not process.lives(thread.native_id)
    finally:
        leave.set()
        thread.join()


def test_that_nothing_more_can_be_held_does_not_mean_that_nobody_is_there(child):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            process.hold(child.pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_locks_owner_is_named_by_the_kernel(child, tmp_path):
    with open(tmp_path / "pid") as file:
        assert process.lock_owner(file.fileno()) == child.pid
        locking = process.LockingProcess(child.pid, os.dup(file.fileno()))
        assert locking.alive()
        with pytest.raises(PermissionError):
            locking.signal(signal.SIGTERM)
        child.kill()
        child.wait()
        assert process.lock_owner(file.fileno()) is None
        assert not locking.alive()
        locking.close()


def test_a_lock_of_a_kind_that_qemu_does_not_use_is_no_proof(tmp_path):
    (tmp_path / "pid").write_text("")
    with open(tmp_path / "pid") as ours, open(tmp_path / "pid") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert process.lock_owner(ours.fileno()) is None


@pytest.mark.parametrize("hidden", ["", "peer_pidfd"])
def test_a_listener_is_held_by_its_connection(tmp_path, monkeypatch, hidden):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", hidden)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        held = process.hold_peer(client)
        assert held is not None
        assert held.pid == os.getpid() == process.peer_pid(client)
        assert held.alive()
        held.close()
        assert not process.hung_up(client)
        listener.close()
        assert process.hung_up(client)
        if hidden:
            assert process.hold_peer(client) is None, "that number may be another's by now"


@pytest.mark.parametrize("option", [process.SO_PEERPIDFD, 9999], ids=["known", "unknown"])
def test_a_listener_that_has_ended_is_not_held(tmp_path, monkeypatch, option):
    """An older kernel doesn't know the option, as none knows the second number."""
    monkeypatch.setattr(process, "SO_PEERPIDFD", option)
    with subprocess.Popen([sys.executable, "-c", LISTENS, str(tmp_path / "s")], stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        with socket.socket(socket.AF_UNIX) as client:
            try:
                listener.stdout.readline()
                client.connect(str(tmp_path / "s"))
                held = process.hold_peer(client)
                assert held is not None
                assert (held.pid, held.alive()) == (listener.pid, True)
            finally:
                listener.kill()
            listener.wait()
            assert not held.alive()
            held.close()
            gone = process.hold_peer(client)
            assert gone is None or not gone.alive()


def test_that_a_listener_can_not_be_held_does_not_mean_that_nobody_is_there(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                process.hold_peer(client)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_start_time_and_state_are_the_kernels(child):
    assert process.started_at(child.pid) == pytest.approx(time.time(), abs=20)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    seen = process.stat(child.pid)
    assert seen is not None
    assert seen.state == "T"
    assert not seen.ending
    assert not process.is_hidden(child.pid)


def test_a_name_with_brackets_does_not_confuse_the_parser(tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "300"]) as running:
        try:
            seen = process.stat(running.pid)
            assert seen is not None
            assert seen.state in "RSD"
            assert seen.started_ticks > 0
        finally:
            running.kill()


def test_who_has_a_socket_is_found(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        inode = os.fstat(listener.fileno()).st_ino
        assert process.socket_owner(inode) == os.getpid()
    assert process.socket_owner(inode) is None


@pytest.mark.parametrize(
    ("line", "covers"),
    [
        ("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10109088 100 101", True),
        ("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10109088 101 EOF", True),
        ("lock:\t2: OFDLCK ADVISORY  READ -1 fe:00:10109088 201 201", False),
        ("lock:\t1: POSIX  ADVISORY  WRITE 4024 fe:00:10109089 0 EOF", False),
        ("lock:\tsomething new", False),
    ],
)
def test_which_locks_are_a_writers(line, covers):
    assert process._covers_writer_byte(line) is covers
