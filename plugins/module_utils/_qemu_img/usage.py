# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who has an image open.

QEMU marks an open image by record locks of its open file description: byte 100 + n for a permission that it uses, 200
+ n for one that it doesn't share (QEMU's block/file-posix.c; n is 0 for consistent reads, 1 for writes, 3 for
resizes). Such locks have no process id, and some users take none, so the holder is looked up in /proc. Byte 100 alone
is a look in passing (`qemu-img info -U`), which minds nobody and which nobody has to mind.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from .._core import locks
from .._core.capabilities import Capability, has
from .._core.errors import Refused
from .found import Holder

FIRST_LOCK, LAST_LOCK = 101, 299  # those that mean use
WRITES = 101
UNSHARED_WRITE, UNSHARED_RESIZE = 201, 203
_UNKNOWN = "a process that this user can't see"


def holders(path: str) -> tuple[Holder, ...]:
    """Machines and tools that use the image: whoever writes to it, holds QEMU's locks or is a machine.

    Mere readers (a backup, another task's look by qemu-img) aren't counted.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        marked = bool(locks.conflicts(descriptor, FIRST_LOCK, LAST_LOCK))
        # Asked for by itself: the kernel merges one owner's locks on neighbouring bytes into one.
        written = bool(locks.conflicts(descriptor, WRITES, WRITES))
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    found = _processes(status.st_dev, status.st_ino) if has(Capability.PROC) else []
    users = [*_users(found), *_loop_devices(path)]
    if marked and not users:
        users = found  # one of them must be who locked it
    if (marked and not users) or (written and not any(user.writes for user in users)):
        users = [*users, Holder(0, _UNKNOWN, written)]
    return tuple(users)


def newcomers(path: str) -> tuple[Holder, ...]:
    """Those who use an image that this process holds (see :func:`hold`): its own locks hide the others', but not who
    takes none.
    """
    status = os.stat(path)
    found = _processes(status.st_dev, status.st_ino) if has(Capability.PROC) else []
    # Who serves the old image to others goes on with it: nothing is lost by that.
    return (*[user for user in _users(found) if user.writes or user.name != "qemu-nbd"], *_loop_devices(path))


def _users(found: list[Holder]) -> list[Holder]:
    return [holder for holder in found if holder.writes or _is_machine(holder.name)]


def writers(path: str) -> tuple[Holder, ...]:
    """Those who may change the image while it is read."""
    return tuple(holder for holder in holders(path) if holder.writes)


def refuse_written(path: str, operation: str) -> None:
    """Raise Refused for an image whose content changes while it is relied upon."""
    found = writers(path)
    if found:
        raise Refused(
            operation,
            "it is being written by %s" % ", ".join(holder.shown for holder in found),
            "Shut that machine down first, or name an image that nobody writes to",
            holders=[{"pid": holder.pid, "name": holder.name} for holder in found],
        )


def _is_machine(name: str) -> bool:
    return name.startswith("qemu") and name != "qemu-img"


def _processes(device: int, inode: int) -> list[Holder]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            writes = _holds(entry, device, inode)
            if writes is not None:
                found.append(Holder(int(entry), _name(entry), writes))
    return found


def _holds(pid: str, device: int, inode: int) -> bool | None:
    """None: the process hasn't the file open, or it can't be seen; else whether one of its descriptors writes."""
    folder = "/proc/%s/fd" % pid
    writes: bool | None = None
    try:
        for descriptor in os.listdir(folder):
            try:
                status = os.stat("%s/%s" % (folder, descriptor))
            except OSError:
                continue  # closed meanwhile
            if (status.st_dev, status.st_ino) == (device, inode):
                writes = bool(writes) or _is_writable(pid, descriptor)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESRCH):
            raise
    return writes


def _is_writable(pid: str, descriptor: str) -> bool:
    try:
        with open("/proc/%s/fdinfo/%s" % (pid, descriptor)) as file:
            for line in file:
                if line.startswith("flags:"):
                    return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        pass  # closed meanwhile
    return False


def _name(pid: str) -> str:
    try:
        with open("/proc/%s/cmdline" % pid, "rb") as file:
            program = file.read().split(b"\0", 1)[0]
        return os.path.basename(os.fsdecode(program)) or "process"
    except OSError:
        return "process"


def _loop_devices(path: str) -> list[Holder]:
    """A loop device holds its file in the kernel, where no process shows it."""
    base = "/sys/block"
    if not has(Capability.PROC) or not os.path.isdir(base):
        return []
    found = []
    for entry in os.listdir(base):
        if entry.startswith("loop") and _loop_file(
            os.path.join(base, entry, "loop", "backing_file")
        ) == os.path.realpath(path):
            found.append(Holder(0, "/dev/" + entry, True))
    return found


def _loop_file(attribute: str) -> str:
    try:
        with open(attribute, "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return ""


@contextmanager
def hold(path: str) -> Iterator[bool]:
    """Keep every QEMU from starting to write to the image while the block runs. Yields whether that could be had.

    Read locks on QEMU's "not shared" bytes make its own attempt fail. False: somebody writes to the image already.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _share(descriptor)
    finally:
        os.close(descriptor)


def _share(descriptor: int) -> bool:
    """Our locks first, then the look: who comes later finds ours, who came before is found by us."""
    try:
        locks.share(descriptor, UNSHARED_WRITE, UNSHARED_RESIZE)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return not locks.conflicts(descriptor, FIRST_LOCK, LAST_LOCK)
