# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs code under a supervisor that sees every system call that changes files, and can strike at the n-th.

The calls of the code and of all its descendants are counted together, in the order in which the kernel takes them. A
seccomp filter with a user-notification listener holds each call until the supervisor answers, so after a strike nothing
changes any more: what is on the disk is the world after exactly n - 1 calls.

What counts here: opening a regular file for writing; writing, truncating, allocating, copying, cloning, syncing; names
(rename, link, unlink, mkdir ...); extended attributes, mode, owner, times; shared writable mappings. What doesn't:
pipes, sockets, event counters, anonymous memory files, /dev (but for /dev/shm), /proc and /sys, and whatever lies
outside the folder that the caller names. io_uring and Linux AIO, which would let writes pass unseen, are answered with
ENOSYS, as by a kernel that has them switched off. What counts elsewhere, see `socket_calls.py`.

Works on x86_64 Linux 5.8 and later; needs no privileges (PR_SET_NO_NEW_PRIVS is set in the child).
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import stat
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from typing import NamedTuple, NoReturn

# --- the calls that count ---------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """One state-changing system call. ``fd`` and ``path`` are the indexes of the arguments that say what it changes."""

    name: str
    number: int
    fd: int | None = None
    path: int | None = None
    dirfd: int | None = None
    takes_space: bool = False


# Numbers: Linux's arch/x86/entry/syscalls/syscall_64.tbl.
CALLS = (
    Call("write", 1, fd=0, takes_space=True),
    Call("open", 2, path=0, takes_space=True),
    Call("mmap", 9, fd=4, takes_space=True),
    Call("ioctl", 16, fd=0, takes_space=True),
    Call("pwrite64", 18, fd=0, takes_space=True),
    Call("writev", 20, fd=0, takes_space=True),
    Call("sendfile", 40, fd=0, takes_space=True),
    Call("fsync", 74, fd=0),
    Call("fdatasync", 75, fd=0),
    Call("truncate", 76, path=0),
    Call("ftruncate", 77, fd=0),
    Call("rename", 82, path=1, takes_space=True),
    Call("mkdir", 83, path=0, takes_space=True),
    Call("rmdir", 84, path=0),
    Call("creat", 85, path=0, takes_space=True),
    Call("link", 86, path=1, takes_space=True),
    Call("unlink", 87, path=0),
    Call("symlink", 88, path=1, takes_space=True),
    Call("chmod", 90, path=0),
    Call("fchmod", 91, fd=0),
    Call("chown", 92, path=0),
    Call("fchown", 93, fd=0),
    Call("lchown", 94, path=0),
    Call("utime", 132, path=0),
    Call("mknod", 133, path=0, takes_space=True),
    Call("sync", 162),
    Call("setxattr", 188, path=0, takes_space=True),
    Call("lsetxattr", 189, path=0, takes_space=True),
    Call("fsetxattr", 190, fd=0, takes_space=True),
    Call("removexattr", 197, path=0),
    Call("lremovexattr", 198, path=0),
    Call("fremovexattr", 199, fd=0),
    Call("utimes", 235, path=0),
    Call("openat", 257, path=1, dirfd=0, takes_space=True),
    Call("mkdirat", 258, path=1, dirfd=0, takes_space=True),
    Call("mknodat", 259, path=1, dirfd=0, takes_space=True),
    Call("fchownat", 260, path=1, dirfd=0),
    Call("futimesat", 261, path=1, dirfd=0),
    Call("unlinkat", 263, path=1, dirfd=0),
    Call("renameat", 264, path=3, dirfd=2, takes_space=True),
    Call("linkat", 265, path=3, dirfd=2, takes_space=True),
    Call("symlinkat", 266, path=2, dirfd=1, takes_space=True),
    Call("fchmodat", 268, path=1, dirfd=0),
    Call("splice", 275, fd=2, takes_space=True),
    Call("sync_file_range", 277, fd=0),
    Call("utimensat", 280, path=1, dirfd=0),
    Call("fallocate", 285, fd=0, takes_space=True),
    Call("pwritev", 296, fd=0, takes_space=True),
    Call("syncfs", 306, fd=0),
    Call("renameat2", 316, path=3, dirfd=2, takes_space=True),
    Call("copy_file_range", 326, fd=2, takes_space=True),
    Call("pwritev2", 328, fd=0, takes_space=True),
    Call("openat2", 437, path=1, dirfd=0, takes_space=True),
    Call("fchmodat2", 452, path=1, dirfd=0),
    Call("setxattrat", 463, path=1, dirfd=0, takes_space=True),
    Call("removexattrat", 466, path=1, dirfd=0),
)
_BY_NUMBER = {call.number: call for call in CALLS}

_OPEN, _OPENAT, _OPENAT2, _IOCTL, _MMAP = 2, 257, 437, 16, 9
_IO_SETUP, _IO_URING_SETUP = 206, 425
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# FICLONE, FICLONERANGE, FIDEDUPERANGE, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR (linux/fs.h)
_WRITING_IOCTLS = (0x40049409, 0x4020940D, 0xC0189436, 0x40086602, 0x401C5820)
_AT_FDCWD = -100


# --- what to do at the n-th -------------------------------------------------------------------------------------------


class Action(str, Enum):
    """What becomes of the call that is struck, or of those who make it."""

    KILL_TREE = "kill-tree"  # every process gets SIGKILL; the call is never carried out
    KILL_MODULE = "kill-module"  # the first process alone gets SIGKILL; its children may go on if they can
    ENOSPC = "enospc"
    EIO = "eio"
    ENOSPC_ON = "enospc-on"  # this one and every later call that takes space: a disk that stays full
    EIO_ON = "eio-on"  # this one and every later call: a disk that has died


_ERRNO = {
    Action.ENOSPC: errno.ENOSPC,
    Action.ENOSPC_ON: errno.ENOSPC,
    Action.EIO: errno.EIO,
    Action.EIO_ON: errno.EIO,
}


class Fault(NamedTuple):
    """Strike at the ``at``-th state-changing call (counted from 1)."""

    at: int
    action: Action


class Point(NamedTuple):
    """A state-changing call that was seen."""

    name: str
    path: str
    by_module: bool  # by the first process, not by one of its children

    def __str__(self) -> str:
        return f"{'module' if self.by_module else 'child'}: {self.name} {self.path}"


class Run(NamedTuple):
    """What was seen of one run."""

    status: int  # exit code, or the negative number of the signal that ended the first process
    stdout: bytes
    stderr: bytes
    points: tuple[Point, ...]
    hit: Point | None  # the call that was struck; None when the run ended before
    orphans: tuple[str, ...]  # children that were alive when the first process was killed
    outlived_s: float  # from the death of the first process to the death of its last descendant
    survivors: tuple[str, ...]  # descendants that had to be killed because they outlived it for too long


class HarnessError(Exception):
    """The harness itself cannot work here, or what it ran did not end in time."""


# --- the filter -------------------------------------------------------------------------------------------------------

_LD_ABS, _JEQ, _JSET, _JGE, _RET = 0x20, 0x15, 0x45, 0x35, 0x06  # BPF opcodes (linux/bpf_common.h)
_ALLOW, _NOTIFY, _REFUSE = 0x7FFF0000, 0x7FC00000, 0x00050000 | errno.ENOSYS  # SECCOMP_RET_* (linux/seccomp.h)
_ARCH_X86_64, _X32_BIT = 0xC000003E, 0x40000000


def _argument(index: int) -> int:
    """Offset of the low half of an argument in struct seccomp_data."""
    return 16 + 8 * index


# The child's end of the pair over which it hands us the listener: nobody could answer for a call on it.
_LINK = 1000
_Instruction = tuple[int, int, int, int]


class _Filter:
    """A BPF program in the making: of the calls of this machine, those that no block takes are allowed."""

    def __init__(self) -> None:
        self._code: list[_Instruction] = [
            (_LD_ABS, 0, 0, 4),
            (_JEQ, 1, 0, _ARCH_X86_64),
            (_RET, 0, 0, _REFUSE),
            (_LD_ABS, 0, 0, 0),
            (_JGE, 0, 1, _X32_BIT),
            (_RET, 0, 0, _REFUSE),
        ]

    def block(self, number: int, *body: _Instruction) -> None:
        self._code += [(_JEQ, 0, len(body), number), *body]

    def program(self) -> bytes:
        return b"".join(struct.pack("HBBI", *instruction) for instruction in [*self._code, (_RET, 0, 0, _ALLOW)])


def notifying_of(numbers: Iterable[int]) -> bytes:
    """The program that notifies of these calls, whose first argument is a descriptor."""
    made = _Filter()
    for number in numbers:
        made.block(
            number,
            (_LD_ABS, 0, 0, _argument(0)),
            (_JEQ, 1, 0, _LINK),
            (_RET, 0, 0, _NOTIFY),
            (_RET, 0, 0, _ALLOW),
        )
    return made.program()


def _program_for_files() -> bytes:
    """Notify for the calls that count, refuse what would hide writes, allow all else."""
    made = _Filter()
    block = made.block
    for number, flags in ((_OPENAT, 2), (_OPEN, 1)):
        block(
            number,
            (_LD_ABS, 0, 0, _argument(flags)),
            (_JSET, 0, 1, _WRITING),
            (_RET, 0, 0, _NOTIFY),
            (_RET, 0, 0, _ALLOW),
        )
    block(
        _IOCTL,
        (_LD_ABS, 0, 0, _argument(1)),
        *((_JEQ, len(_WRITING_IOCTLS) - at, 0, request) for at, request in enumerate(_WRITING_IOCTLS)),
        (_RET, 0, 0, _ALLOW),
        (_RET, 0, 0, _NOTIFY),
    )
    map_shared, prot_write = 1, 2
    block(
        _MMAP,
        (_LD_ABS, 0, 0, _argument(3)),
        (_JSET, 0, 3, map_shared),
        (_LD_ABS, 0, 0, _argument(2)),
        (_JSET, 0, 1, prot_write),
        (_RET, 0, 0, _NOTIFY),
        (_RET, 0, 0, _ALLOW),
    )
    for number in (_IO_SETUP, _IO_URING_SETUP):
        block(number, (_RET, 0, 0, _REFUSE))
    for call in CALLS:
        if call.number not in (_OPENAT, _OPEN, _IOCTL, _MMAP):
            block(call.number, (_RET, 0, 0, _NOTIFY))
    return made.program()


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


_SECCOMP, _SET_MODE_FILTER = 317, 1
# The latter, since Linux 5.19, keeps signals that don't kill from making a call count twice.
_NEW_LISTENER, _WAIT_KILLABLE_RECV = 1 << 3, 1 << 5
_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 38, 36


def _install_filter(program: bytes) -> int:
    """Put the calling process, and all that it starts, under the filter; the listener's descriptor is returned."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    memory = ctypes.create_string_buffer(program, len(program))
    fprog = _SockFprog(len(program) // 8, ctypes.addressof(memory))
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE_RECV, _NEW_LISTENER):
        listener = libc.syscall(_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(fprog))
        if listener >= 0:
            return int(listener)
    raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_SET_MODE_FILTER) failed")


# --- processes --------------------------------------------------------------------------------------------------------


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as listing:
                yield from (int(child) for child in listing.read().split())


def _descendants(pid: int, but: frozenset[int]) -> Iterator[int]:
    for child in _children(pid):
        if child not in but:
            yield child
            yield from _descendants(child, but)


def _describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            words = cmdline.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        words = ""
    return f"{pid} {words or '(ended)'}"


class _Orphan(NamedTuple):
    """A child whose parent is about to be killed, held by a descriptor that no other process can take over."""

    name: str
    pidfd: int

    def has_ended(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 1.0)[0])


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            return status.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


# --- the supervisor ---------------------------------------------------------------------------------------------------

_IOCTL_RECV, _IOCTL_SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV and _SEND (linux/seccomp.h)
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_KILL_AGAIN_MS = 20


class Notification(NamedTuple):
    """A call that waits to be carried out."""

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]


class Tree(NamedTuple):
    """The processes that are supervised: the first one, and how the kernel tells of it and of their calls."""

    root: int
    pidfd: int
    listener: int
    strangers: frozenset[int]


class Supervisor:
    """Serves the notifications of one tree until no process of it lives. What counts, and what is struck, say those
    that inherit from it.
    """

    def __init__(self, tree: Tree) -> None:
        self._root, self._pidfd, self._listener, self._strangers = tree
        self.dying = False
        self.points: list[Point] = []
        self.hit: Point | None = None
        self.orphans: tuple[_Orphan, ...] = ()

    def met(self, notification: Notification) -> int | None:
        """What becomes of a call: the errno to answer, 0 to let it pass, None for no answer at all."""
        raise NotImplementedError

    def tree(self) -> list[int]:
        """Every process of the tree that lives or is not yet reaped."""
        return list(_descendants(os.getpid(), self._strangers))

    def kill_tree(self) -> None:
        """From here on no call is answered, so nothing changes any more while the processes die one by one."""
        self.dying = True
        for pid in self.tree():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_root(self) -> None:
        """The first process alone."""
        self.orphans = tuple(self._living_children())
        os.kill(self._root, signal.SIGKILL)
        # It tells its children of its death before it tells us: whatever they still do, they do in spite of it.
        select.select([self._pidfd], [], [])

    def serve(self) -> None:
        """Answer one call."""
        raw = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _IOCTL_RECV, raw)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # its maker was killed meanwhile
                return
            raise
        identity, thread, _flags, number = struct.unpack_from("QIIi", raw)
        notification = Notification(identity, thread, number, struct.unpack_from("6Q", raw, 32))
        if self.dying:
            return
        failure = self.met(notification)
        if failure is not None:
            self._answer(notification, failure)

    def _answer(self, notification: Notification, failure: int) -> None:
        reply = struct.pack("QqiI", notification.id, 0, -failure, 0 if failure else _CONTINUE)
        with suppress(OSError):  # its maker was killed meanwhile
            fcntl.ioctl(self._listener, _IOCTL_SEND, bytearray(reply))

    def _living_children(self) -> Iterator[_Orphan]:
        for pid in self.tree():
            if pid != self._root and not _is_zombie(pid):
                with suppress(ProcessLookupError):
                    yield _Orphan(_describe(pid), os.pidfd_open(pid))

    def _is_root(self, thread: int) -> bool:
        return os.path.exists(f"/proc/{self._root}/task/{thread}")


class _FileCalls(Supervisor):
    """Counts what changes files below a folder."""

    def __init__(self, tree: Tree, fault: Fault | None, below: str | None) -> None:
        super().__init__(tree)
        self._fault = fault
        self._below = None if below is None else below.rstrip("/") + "/"

    def met(self, notification: Notification) -> int | None:
        path = self._changed_path(notification)
        return self._strike(notification, path) if path is not None and self._counts(path) else 0

    def _counts(self, path: str) -> bool:
        return self._below is None or (path + "/").startswith(self._below)

    def _strike(self, notification: Notification, path: str) -> int | None:
        """Count the call, and see whether it is the one."""
        call = _BY_NUMBER[notification.number]
        point = Point(call.name, path, self._is_root(notification.thread))
        self.points.append(point)
        if self._fault is None or len(self.points) < self._fault.at:
            return 0
        action = self._fault.action
        if len(self.points) > self._fault.at:
            if action is Action.EIO_ON or (action is Action.ENOSPC_ON and call.takes_space):
                return _ERRNO[action]
            return 0
        self.hit = point
        if action is Action.KILL_TREE:
            self.kill_tree()
            return None
        if action is Action.KILL_MODULE:
            self.kill_root()
            return 0
        return _ERRNO[action]

    def _changed_path(self, notification: Notification) -> str | None:
        """What the call changes, or None if that is nothing that lasts."""
        call = _BY_NUMBER[notification.number]
        if call.number == _OPENAT2 and not self._openat2_writes(notification):
            return None
        if call.fd is not None:
            return _lasting(f"/proc/{notification.thread}/fd/{notification.arguments[call.fd] & 0xFFFFFFFF}")
        if call.path is None:
            return "(all)"
        path = self._path_argument(notification, call.path, call.dirfd)
        return path if _is_lasting(path) else None

    def _openat2_writes(self, notification: Notification) -> bool:
        raw = self._read_memory(notification.thread, notification.arguments[2], 8)
        return len(raw) < 8 or bool(struct.unpack("Q", raw)[0] & _WRITING)

    def _path_argument(self, notification: Notification, path: int, dirfd: int | None) -> str:
        address = notification.arguments[path]
        raw = b""
        while b"\0" not in raw and len(raw) < 4096:
            piece = self._read_memory(notification.thread, address + len(raw), 256 - (address + len(raw)) % 256)
            if not piece:
                break
            raw += piece
        name = os.fsdecode(raw.split(b"\0", 1)[0])
        if name.startswith("/"):
            return name
        base = "cwd"
        if dirfd is not None:
            descriptor = ctypes.c_int(notification.arguments[dirfd] & 0xFFFFFFFF).value
            base = "cwd" if descriptor == _AT_FDCWD else f"fd/{descriptor}"
        with suppress(OSError):
            return os.path.join(os.readlink(f"/proc/{notification.thread}/{base}"), name)
        return name

    @staticmethod
    def _read_memory(thread: int, address: int, size: int) -> bytes:
        with suppress(OSError), open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), size, address)
        return b""


def _lasting(link: str) -> str | None:
    """The file behind a descriptor, if what is written to it lasts."""
    try:
        kind = os.stat(link).st_mode
        path = os.readlink(link)
    except OSError:
        return None
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISBLK(kind)):
        return None
    return path if _is_lasting(path) else None


def _is_lasting(path: str) -> bool:
    return path.startswith("/dev/shm/") or not path.startswith(("/memfd:", "/dev/", "/proc/", "/sys/"))


# --- one run ----------------------------------------------------------------------------------------------------------


def run(
    target: Callable[[], object],
    fault: Fault | None = None,
    *,
    below: str | os.PathLike[str] | None = None,
    stdin: bytes = b"",
    time_limit_s: float = 60.0,
    outlive_limit_s: float = 30.0,
) -> Run:
    """Carry ``target`` out as `supervised` does, its calls that change files being counted.

    :param below: only what this folder holds counts; None: everything does.
    """

    def supervise(tree: Tree) -> Supervisor:
        return _FileCalls(tree, fault, below and os.fspath(below))

    return supervised(
        target,
        _program_for_files(),
        supervise,
        stdin=stdin,
        time_limit_s=time_limit_s,
        outlive_limit_s=outlive_limit_s,
    )


def supervised(
    target: Callable[[], object],
    program: bytes,
    supervise: Callable[[Tree], Supervisor],
    *,
    stdin: bytes = b"",
    time_limit_s: float,
    outlive_limit_s: float,
) -> Run:
    """Carry ``target`` out in a forked child under a supervisor, and wait until all that it started are gone.

    The child has a session of its own, its standard streams are a file and pipes, and it ends with the status that
    ``target`` exits with. While this runs, the calling process must start no other children.

    :param program: the filter, which says what the supervisor is notified of.
    :param stdin: what the child can read.
    :param time_limit_s: for the whole run; then the tree is killed and HarnessError raised.
    :param outlive_limit_s: how long descendants may outlive the child before they are killed and named as survivors.
    :raises HarnessError: not on x86_64 Linux, no seccomp, or the time limit.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise HarnessError(
            f"system calls are struck on x86_64 Linux only: the table of calls is that machine's; this is "
            f"{sys.platform} on {platform.machine()}"
        )
    # Orphans of the tree then come to us: none is lost from sight.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    strangers = frozenset(_children(os.getpid()))
    ours, theirs = socket.socketpair()
    output, errors = os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    root = os.fork()
    if root == 0:
        _be_the_child(target, program, theirs, stdin, output[1], errors[1])
    for descriptor in (theirs.detach(), output[1], errors[1]):
        os.close(descriptor)
    streams = {output[0]: bytearray(), errors[0]: bytearray()}
    pidfd = os.pidfd_open(root)
    try:
        listener = _receive_listener(ours)
        try:
            supervisor = supervise(Tree(root, pidfd, listener, strangers))
            outlived_s, survivors = _Watch(supervisor, listener, pidfd, streams).wait(time_limit_s, outlive_limit_s)
            _drain(streams)
            # The listener has hung up, so they are gone: their descriptors must say the same.
            survivors += tuple(orphan.name for orphan in supervisor.orphans if not orphan.has_ended())
        finally:
            os.close(listener)
            for orphan in supervisor.orphans:
                os.close(orphan.pidfd)
    finally:
        ours.close()
        os.close(pidfd)
        status = _reap(root, strangers)
        for descriptor in streams:
            os.close(descriptor)
    return Run(
        status=status,
        stdout=bytes(streams[output[0]]),
        stderr=bytes(streams[errors[0]]),
        points=tuple(supervisor.points),
        hit=supervisor.hit,
        orphans=tuple(orphan.name for orphan in supervisor.orphans),
        outlived_s=outlived_s,
        survivors=survivors,
    )


def command(*argv: str | os.PathLike[str]) -> Callable[[], NoReturn]:
    """A target that becomes a program."""
    words = [os.fspath(word) for word in argv]
    return lambda: os.execvp(words[0], words)


def _be_the_child(
    target: Callable[[], object], program: bytes, link: socket.socket, stdin: bytes, out: int, err: int
) -> NoReturn:
    status = 1
    try:
        os.setsid()
        source = os.memfd_create("stdin")
        os.write(source, stdin)
        os.lseek(source, 0, os.SEEK_SET)
        for number, descriptor in enumerate((source, out, err)):
            os.dup2(descriptor, number)
        # Whatever took the streams' places in the caller (a test's capture), ours are the descriptors.
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate(("r", "w", "w")))  # noqa: SIM115
        link = socket.socket(fileno=os.dup2(link.fileno(), _LINK))
        os.closerange(3, _LINK)
        os.closerange(_LINK + 1, 2 * _LINK)
        listener = _install_filter(program)
        link.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
        link.recv(1)
        os.close(listener)
        link.close()
        target()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _receive_listener(ours: socket.socket) -> int:
    _data, descriptors, _flags, _address = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise HarnessError("the child could not install a seccomp filter with a listener: Linux 5.8 or later is needed")
    ours.send(b"k")
    return descriptors[0]


class _Watch:
    """Everything that one run waits for."""

    def __init__(self, supervisor: Supervisor, listener: int, pidfd: int, streams: dict[int, bytearray]) -> None:
        self._supervisor = supervisor
        self._listener = listener
        self._pidfd = pidfd
        self._streams = streams
        self._poll = select.poll()
        for descriptor in (listener, pidfd, *streams):
            self._poll.register(descriptor, select.POLLIN)
        self._root_died_at: float | None = None

    def wait(self, time_limit_s: float, outlive_limit_s: float) -> tuple[float, tuple[str, ...]]:
        """Until the listener hangs up: then no task under the filter is left.

        Returns how long the tree outlived its root, and who had to be killed for outliving it too long.
        """
        limit = time.monotonic() + time_limit_s
        survivors: tuple[str, ...] = ()
        timed_out = False
        while self._serve_until(limit):
            if self._root_died_at is not None:
                limit = min(limit, self._root_died_at + outlive_limit_s)
            if not self._supervisor.dying and time.monotonic() >= limit:
                survivors = tuple(_describe(pid) for pid in self._supervisor.tree() if not _is_zombie(pid))
                timed_out = self._root_died_at is None
                self._supervisor.kill_tree()
        if timed_out:
            raise HarnessError(f"not ended after {time_limit_s} s, killed: {'; '.join(survivors)}")
        outlived_s = 0.0 if self._root_died_at is None else time.monotonic() - self._root_died_at
        return outlived_s, survivors

    def _serve_until(self, limit: float) -> bool:
        """Wait for one round of events and deal with them; False when the whole tree has ended."""
        if self._supervisor.dying:  # a fork that raced with the last round of kills
            self._supervisor.kill_tree()
        left_ms = max(0.0, limit - time.monotonic()) * 1000 + 1
        ready = dict(self._poll.poll(_KILL_AGAIN_MS if self._supervisor.dying else left_ms))
        for descriptor in ready.keys() & self._streams.keys():
            piece = os.read(descriptor, 65536)
            self._streams[descriptor] += piece
            if not piece:
                self._poll.unregister(descriptor)
        if self._pidfd in ready:
            self._poll.unregister(self._pidfd)
            self._root_died_at = time.monotonic()
        if ready.get(self._listener, 0) & select.POLLIN:
            self._supervisor.serve()
            return True
        return not ready.get(self._listener, 0) & select.POLLHUP


def _drain(streams: dict[int, bytearray]) -> None:
    """All writers are dead: read what is left in the pipes."""
    for descriptor, buffer in streams.items():
        while piece := os.read(descriptor, 65536):
            buffer += piece


def _reap(root: int, strangers: frozenset[int]) -> int:
    """Collect the root and whatever came to us from its tree; the root's exit status."""
    status = os.waitstatus_to_exitcode(os.waitpid(root, 0)[1])
    while orphans := [pid for pid in _children(os.getpid()) if pid not in strangers]:
        for pid in orphans:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return status
