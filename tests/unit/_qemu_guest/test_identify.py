# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process is taken for a guest, where its number may have been given to another one: a real process that calls
itself a QEMU and locks a pidfile.
"""

from __future__ import annotations

import itertools
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import observe, process
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identify import ENDING_S, identify
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, State
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.observe import look
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.probe import probe
from tests.testbed.boot_guest import until
from tests.unit._qemu_guest.test_process import LISTENS, LOCKS

# Its first thread has ended, as one that the kernel is taking down; it holds its lock until it is let go.
ENDING = LOCKS.replace(
    "time.sleep(300)",
    "import ctypes, os, threading\n"
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()\n"
    "ctypes.CDLL(None).pthread_exit(None)",
)


@contextmanager
def qemu(
    script: str, tmp_path: Path, place: str = "pid", more: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that calls itself a QEMU."""
    if place == "pid":
        (tmp_path / place).write_text("")
    words = ["qemu-system-x86_64", "-c", script, str(tmp_path / place), *more]
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
    identity = identify(Guest(pidfile=str(tmp_path / "pid")), patience_s=60)
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


def test_many_that_take_too_long_to_end_cost_one_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / str(number) for number in range(3)]
    for place in places:
        place.mkdir()
    with qemu(ENDING, places[0]) as one, qemu(ENDING, places[1]) as two, qemu(ENDING, places[2]) as three:
        pids = (one.pid, two.pid, three.pid)
        until(lambda: not any(process.arguments(pid) for pid in pids), "their command lines to go")
        guests = [Guest(pidfile=str(place / "pid")) for place in places]
        began = time.monotonic()
        sights = look(guests, Deadline(60))
        first_s = time.monotonic() - began
        monkeypatch.setattr(observe, "ENDING_S", 60.0)
        began = time.monotonic()
        again = look(guests, Deadline(600), sights)
        again_s = time.monotonic() - began
        began = time.monotonic()
        in_little_time = look(guests, Deadline(10))
        share_s = time.monotonic() - began
        for sight in (*again, *in_little_time):
            sight.identity.close()
    assert [sight.seen.state for sight in (*sights, *again)] == [State.UNPROVEN] * 6
    assert ENDING_S <= first_s < len(pids) * ENDING_S
    assert again_s < 60
    assert share_s < 10


@pytest.mark.parametrize(
    "content",
    [b"# no number\n", b"\n", b"12 13\n", b"-1\n", b"0\n", b"4194305\n", bytes(1 << 20), b"1\n" + b" " * 64 + b"x"],
    ids=lambda content: repr(content[:12]),
)
def test_a_file_that_holds_no_process_number_is_no_pidfile(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pid"
    path.write_bytes(content)
    identity = identify(Guest(pidfile=str(path)))
    assert (identity.state, identity.leftovers) == (State.UNPROVEN, [])
    assert "pidfile: %s holds something else than a process's number. Name the file" % path in identity.problem


@pytest.mark.parametrize("content", ["", "4194304", "4194304\n"])
def test_what_a_killed_qemu_wrote_is_left_by_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    identity = identify(Guest(pidfile=str(tmp_path / "pid")))
    assert (identity.state, identity.leftovers) == (State.STALE, [str(tmp_path / "pid")])


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dead_socket(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    with socket.socket(socket.AF_UNIX, kind) as made:
        made.bind(str(path))


def datagram_socket(path: Path) -> None:
    """Somebody has it open: only then the system tells its kind."""
    kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    kept[-1].bind(str(path))


kept: list[socket.socket] = []
ODD: list[tuple[str, Callable[[Path], object], str]] = [
    ("pidfile", Path.mkdir, "is no regular file"),
    ("pidfile", os.mkfifo, "is no regular file"),
    ("pidfile", dead_socket, "is no regular file"),
    ("pidfile", loop, "Too many levels of symbolic links"),
    ("qmp_socket", Path.mkdir, "is no socket such as QEMU listens at"),
    ("qmp_socket", Path.touch, "is no socket such as QEMU listens at"),
    ("agent_socket", os.mkfifo, "is no socket such as QEMU listens at"),
    ("agent_socket", datagram_socket, "is no socket such as QEMU listens at"),
    ("qmp_socket", loop, "Too many levels of symbolic links"),
]


@pytest.mark.parametrize(("option", "make", "problem"), ODD)
def test_what_can_not_be_the_guests_keeps_nobody_else_from_being_seen(
    tmp_path: Path, option: str, make: Callable[[Path], object], problem: str
) -> None:
    odd, good = tmp_path / "odd", tmp_path / "good"
    make(odd)
    good.write_text("")
    sights = look([Guest(**{option: str(odd)}), Guest(pidfile=str(good))], Deadline(60))
    assert [sight.seen.state for sight in sights] == [State.UNPROVEN, State.STALE]
    assert problem in sights[0].seen.problem
    assert str(odd) in sights[0].seen.problem
    assert sights[0].identity.leftovers == []
    while kept:
        kept.pop().close()


@contextmanager
def nothing_more_to_open() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_that_nothing_more_can_be_opened_proves_nothing(tmp_path: Path, pid: int) -> None:
    guests = [Guest(pidfile=str(tmp_path / "pid")), Guest(qmp_socket=str(tmp_path / "x")), Guest(name="nobody's")]
    with nothing_more_to_open():
        sights = [look([guest], Deadline(60))[0] for guest in guests]
    assert [sight.seen.state for sight in sights] == [State.UNPROVEN] * 3
    assert all("Too many open files" in sight.seen.problem for sight in sights)


def test_one_that_can_not_be_looked_at_any_more_is_its_own_failure(tmp_path: Path, pid: int) -> None:
    identity = identify(Guest(pidfile=str(tmp_path / "pid")))
    with nothing_more_to_open():
        (seen,) = probe([identity], Deadline(60), 1.0)
    assert seen.state is State.UNPROVEN
    assert "Too many open files" in seen.problem
    identity.close()


def test_a_number_that_is_not_its_lock_owners_is_a_mismatch(tmp_path: Path, pid: int) -> None:
    (tmp_path / "pid").write_text("%d\n" % os.getpid())
    identity = identify(Guest(pidfile=str(tmp_path / "pid")))
    assert (identity.state, identity.process) == (State.IDENTITY_MISMATCH, None)
    assert "the lock on pidfile %s says %d; " % (tmp_path / "pid", pid) in identity.problem
    assert identity.problem.endswith("the number in pidfile %s says %d" % (tmp_path / "pid", os.getpid()))


def ended_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as short:
        pass
    return short.pid


def test_the_number_of_one_that_has_ended_is_no_other_process(tmp_path: Path, pid: int) -> None:
    gone = ended_pid()
    identity = identify(Guest(pidfile=str(tmp_path / "pid"), pid=gone))
    assert (identity.state, identity.process) == (State.IDENTITY_MISMATCH, None)
    assert "says %d; the option pid says %d" % (pid, gone) in identity.problem
    os.kill(pid, 9)
    until(lambda: not process.lives(pid), "it to end")
    both_gone = identify(Guest(pidfile=str(tmp_path / "pid"), pid=gone))
    assert (both_gone.state, both_gone.leftovers) == (State.STALE, [str(tmp_path / "pid")])


def test_one_that_listens_and_says_nothing_is_hung(tmp_path: Path) -> None:
    with qemu(LISTENS, tmp_path, "qmp") as silent:
        (sight,) = look([Guest(qmp_socket=str(tmp_path / "qmp"))], Deadline(2))
        assert sight.identity.process is not None
        assert (sight.seen.state, sight.identity.process.pid) == (State.MONITOR_HUNG, silent.pid)
        assert sight.seen.process_state not in ("T", "t")
        sight.identity.close()


def test_a_file_that_only_a_command_line_calls_its_pidfile_is_nobodys(tmp_path: Path) -> None:
    name = "claims-%d" % os.getpid()
    other, dead = tmp_path / "other", tmp_path / "dead"
    other.write_text("4194304\n")
    dead_socket(dead)
    said = ["-name", name, "-pidfile", str(other), "-qmp", "unix:%s,server=on" % dead]
    with qemu(LOCKS, tmp_path, more=said) as running:
        identity = identify(Guest(name=name))
        assert identity.process is not None
        assert identity.process.pid == running.pid
        assert identity.guest == Guest(name=name, pid=running.pid)
        identity.close()
    (tmp_path / "pid").unlink()
    said[3] = str(tmp_path / "pid")
    with qemu(LOCKS, tmp_path, more=said) as running:
        identity = identify(Guest(name=name))
        assert identity.guest.pidfile == str(tmp_path / "pid"), "that one it holds"
        identity.close()


def test_of_a_guest_that_nobody_is_the_declared_paths_are_left(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x")
    paths = (str(tmp_path / "log"), str(tmp_path / "none"))
    identity = identify(Guest(name="nobody's-%d" % os.getpid(), cleanup_paths=paths))
    assert (identity.state, identity.leftovers) == (State.STALE, [str(tmp_path / "log")])
