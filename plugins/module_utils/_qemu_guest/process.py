# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process that is held, so that no other can take its place: proof of life, proof of death, and the only way to
signal.

On Linux a pidfd holds it. Elsewhere the lock that QEMU keeps on its pidfile until it ends tells life from death, but
nothing there can be signalled safely, so nothing is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from .._core.capabilities import Capability, has

SO_PEERPIDFD = 77  # Linux 6.5, include/uapi/asm-generic/socket.h; Python has no name for it
PF_EXITING = 0x4  # include/linux/sched.h
# Bytes 100 to 199 of an image are QEMU's permissions in use, 101 is "writes" (QEMU, block/file-posix.c).
IMAGE_WRITER_BYTE = 101
# What pidfd_open(2) says of a number that no process has. Of a thread's it is EINVAL, since Linux 6.9 ENOENT.
_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
# struct flock: (format, names of its fields in order). Linux puts type and whence first, BSD and macOS last.
_FLOCK = ("hhqqi", 0, 4) if sys.platform.startswith("linux") else ("qqihhi", 3, 2)


class Process(Protocol):
    """One process, and for as long as this object is open never another of the same number."""

    pid: int

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when the process has ended; None where there is none and ``alive`` must
        be asked.
        """

    def alive(self) -> bool:
        """Whether it still runs. False is proof: the kernel has torn it down."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process and to no other. Raises ProcessLookupError, PermissionError."""

    def close(self) -> None:
        """Let go of it."""


class HeldProcess:
    """A process held by a pidfd."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def alive(self) -> bool:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        return not poller.poll(0)

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class LockingProcess:
    """A process known by the lock that it keeps on its pidfile: it can be watched, never signalled.

    A lock's owner can't be another process of the same number: the kernel drops the lock when the owner ends.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def fileno(self) -> int | None:
        return None

    def alive(self) -> bool:
        return lock_owner(self._descriptor) == self.pid

    def signal(self, number: signal.Signals) -> None:
        raise PermissionError("this system has no process descriptors, so no signal is sent")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hold(pid: int) -> HeldProcess | None:
    """Hold the process that has this number now; None if there is none, as where it is a thread's, or no process can
    have it.

    Whether it is the one meant must be checked *afterwards*. Raises OSError where nothing more can be held.
    """
    try:
        return HeldProcess(pid, os.pidfd_open(pid))
    except OverflowError:
        return None
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise


def lives(pid: int) -> bool:
    """Whether some process has this number and has not ended. Without pidfds it is told by /proc, where a process
    whose first thread has ended looks dead, and where there is no /proc nothing lives.
    """
    if not has(Capability.PIDFD):
        seen = stat(pid)
        return seen is not None and seen.state not in ("Z", "X")
    process = hold(pid)
    if process is None:
        return False
    try:
        return process.alive()
    finally:
        process.close()


def hold_peer(connection: socket.socket) -> HeldProcess | None:
    """Hold the process that listens at the other end of a Unix socket.

    None where the peer is unknown: it has ended, or lives in another pid namespace. Raises OSError where nothing more
    can be held.
    """
    pid = peer_pid(connection)
    if pid is None:
        return None
    if not has(Capability.PEER_PIDFD):
        return _hold_numbered_peer(connection, pid)
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:  # Linux before 6.5
            return _hold_numbered_peer(connection, pid)
        if error.errno in (*_NO_PROCESS, errno.ENODATA):
            return None
        raise
    return HeldProcess(pid, struct.unpack("i", raw)[0])


def _hold_numbered_peer(connection: socket.socket, pid: int) -> HeldProcess | None:
    """The connection, still open afterwards, shows that the number was not reused."""
    process = hold(pid)
    if process is not None and hung_up(connection):
        process.close()
        return None
    return process


def peer_pid(connection: socket.socket) -> int | None:
    """The number of the process that listens at the other end; None where the system doesn't tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or not has(Capability.PIDFD):
        return None
    pid = int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, 12))[0])
    return pid if pid > 0 else None


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end has closed."""
    poller = select.poll()
    poller.register(connection, 0)
    return bool(poller.poll(0))


def lock_owner(descriptor: int) -> int | None:
    """Who holds a POSIX write lock on an open file: its pid (0 if in a namespace out of sight), or None if nobody does.

    QEMU locks its pidfile for as long as it runs. A lock of this very process can't be seen, which never happens here.
    """
    layout, kind_at, pid_at = _FLOCK
    fields = [0] * len(layout)
    fields[kind_at] = fcntl.F_WRLCK
    fields = list(struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, *fields))))
    return None if fields[kind_at] == fcntl.F_UNLCK else fields[pid_at]


def pidfile_owner(path: str) -> int | None:
    """Who holds QEMU's lock on its pidfile, as it does while it lives: see :func:`lock_owner`. None also without a
    file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return lock_owner(descriptor)
    finally:
        os.close(descriptor)


def is_stopped(letter: str | None) -> bool:
    """Whether a process of this state (see :class:`Stat`) is held by SIGSTOP or a debugger: it answers nothing."""
    return letter in ("T", "t")


class Stat(NamedTuple):
    """From /proc/PID/stat: the state letter (R, S, D, T, t, Z, X), the start time in clock ticks since boot, and
    whether its first thread is on its way out or has ended: then its command line is gone, while its locks may still
    be there.
    """

    state: str
    started_ticks: int
    ending: bool = False


def stat(pid: int) -> Stat | None:
    """None where the process or /proc is not there."""
    text = _read_proc(pid, "stat")
    if not text:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold anything
    return Stat(fields[0].decode(), int(fields[19]), bool(int(fields[6]) & PF_EXITING))  # fields 3, 22, 9 of proc(5)


def arguments(pid: int) -> list[str]:
    """The command line of a process; empty where it can't be read, and of one that is ending."""
    return [os.fsdecode(word) for word in _read_proc(pid, "cmdline").split(b"\0")[:-1]]


def is_hidden(pid: int) -> bool:
    """Whether this user may not see the command line of a process that lives (proc(5), hidepid)."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb"):
            return False
    except OSError:
        return True


def waits_in(pid: int) -> str:
    """The kernel function in which a process waits; empty where that can't be read."""
    return _read_proc(pid, "wchan").decode("ascii", "replace")


def started_at(pid: int) -> float | None:
    """When a process started: seconds since the epoch, exact to a clock tick or so; None where /proc doesn't tell."""
    seen = stat(pid)
    if seen is None:
        return None
    ago_s = time.clock_gettime(time.CLOCK_BOOTTIME) - seen.started_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - ago_s


def written_images(pid: int) -> list[str]:
    """The files on which a process holds QEMU's lock of a writer; empty where /proc may not be read."""
    found = []
    for name in _names("/proc/%d/fdinfo" % pid):
        try:
            if any(map(_covers_writer_byte, _told_of(str(pid), name, "lock:"))):
                found.append(os.readlink(_descriptor_path(str(pid), name)))
        except OSError:
            continue  # it was closed meanwhile
    return found


def open_files(pid: int) -> dict[str, os.stat_result]:
    """What a process has open, by its descriptors' paths in /proc; empty where this user may not see that."""
    return {_descriptor_path(str(pid), name): seen for name, seen in _descriptors(str(pid))}


def opened_by(file: os.stat_result) -> list[int]:
    """The processes that have this file open, as far as this user may see them."""
    return [int(pid) for pid in _names("/proc") if pid.isdigit() and any(True for _name in _ways_to(pid, file))]


def locks(file: os.stat_result) -> bool:
    """Whether this very process holds a lock (flock) on this file; False where there is no /proc."""
    return any(_is_locked_by(name) for name in _ways_to("self", file))


def writers(file: os.stat_result) -> list[int]:
    """The processes that have this file open for writing, as far as this user may see them."""
    return [
        int(pid)
        for pid in _names("/proc")
        if pid.isdigit() and any(_is_writable(pid, name) for name in _ways_to(pid, file))
    ]


def _ways_to(pid: str, file: os.stat_result) -> Iterator[str]:
    """The descriptors by which a process has this file open."""
    return (name for name, seen in _descriptors(pid) if os.path.samestat(seen, file))


def _descriptors(pid: str) -> Iterator[tuple[str, os.stat_result]]:
    """Each descriptor of a process, and what it has open by it."""
    for name in _names("/proc/%s/fd" % pid):
        try:
            yield name, os.stat(_descriptor_path(pid, name))
        except OSError:
            continue  # it was closed meanwhile


def _descriptor_path(pid: str, name: str) -> str:
    return "/proc/%s/fd/%s" % (pid, name)


def _told_of(pid: str, descriptor: str, key: str) -> list[str]:
    """The lines under ``key`` of what the kernel tells of a descriptor. Raises OSError if it was closed meanwhile."""
    with open("/proc/%s/fdinfo/%s" % (pid, descriptor), encoding="ascii", errors="replace") as info:
        return [line for line in info if line.startswith(key)]


def _is_locked_by(descriptor: str) -> bool:
    """``lock: 1: FLOCK ADVISORY WRITE 4711 fe:00:123 0 EOF``: only what is held by this open file is listed."""
    return any("FLOCK" in line.split() for line in _told_of("self", descriptor, "lock:"))


def _is_writable(pid: str, descriptor: str) -> bool:
    try:
        flags = next((line.split()[1] for line in _told_of(pid, descriptor, "flags:")), "0")
    except OSError:
        return False  # it was closed meanwhile
    return bool(int(flags, 8) & (os.O_WRONLY | os.O_RDWR))


def shares_root(pid: int) -> bool:
    """Whether the same directory is ``/`` to a process and to us, so that a path means the same to both; False where
    that can't be seen.
    """
    try:
        return os.path.samefile("/proc/%d/root" % pid, "/")
    except OSError:
        return False


def socket_owner(inode: int) -> int | None:
    """A process that has this socket open; None where none is seen by this user."""
    wanted = "socket:[%d]" % inode
    for entry in _names("/proc"):
        if entry.isdigit() and wanted in _opened_names(entry):
            return int(entry)
    return None


def _opened_names(pid: str) -> Iterator[str]:
    for name in _names("/proc/%s/fd" % pid):
        try:
            yield os.readlink(_descriptor_path(pid, name))
        except OSError:
            continue  # it was closed meanwhile


def _names(folder: str) -> list[str]:
    """Empty where the process has ended or belongs to somebody else, and where there is no /proc."""
    try:
        return os.listdir(folder) if has(Capability.PROC) else []
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
        return []


def _covers_writer_byte(line: str) -> bool:
    """``lock: 1: OFDLCK ADVISORY READ -1 fe:00:123 100 101``: does it cover byte 101?"""
    words = line.split()
    if len(words) < 9 or words[2] != "OFDLCK":
        return False
    last = sys.maxsize if words[8] == "EOF" else int(words[8])
    return int(words[7]) <= IMAGE_WRITER_BYTE <= last


def _read_proc(pid: int, name: str) -> bytes:
    if not has(Capability.PROC):
        return b""
    try:
        with open("/proc/%d/%s" % (pid, name), "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
