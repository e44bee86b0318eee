# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a living process uses a file or socket: what a task names as a dead guest's may be another one's."""

from __future__ import annotations

import os
import stat

from .._core.locks import try_flock
from .process import lock_owner, locks, writers
from .qmp import Channel

LISTENED = "another process listens there"


def in_use(path: str) -> str:
    """How a living process uses what lies here, as far as this user may see it; empty if none is seen.

    A symbolic link is nobody's but its own: what it leads to isn't looked at.
    """
    try:
        seen = os.lstat(path)
    except OSError:
        return ""
    if stat.S_ISSOCK(seen.st_mode):
        return LISTENED if is_listened(path) else ""
    if not stat.S_ISREG(seen.st_mode):
        return ""
    return _locked(path) or _written(seen)


def is_listened(path: str) -> bool:
    """Whether somebody listens at this socket. One that we may not connect to counts as listened to."""
    channel = Channel(path)
    problem = channel.problem
    channel.close()
    return problem not in ("ECONNREFUSED", "ENOENT")


def _locked(path: str) -> str:
    """QEMU locks its pidfile, and each of its images, also those that it only reads; a task that starts a guest locks
    its own file by another kind of lock. What this very process has locked is not in use for that.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (FileNotFoundError, PermissionError):
        return ""  # gone meanwhile, or not ours to open
    try:
        owner = lock_owner(descriptor)
        # Shared: two who only look are none who uses it.
        if owner is None and not try_flock(descriptor, shared=True) and not locks(os.fstat(descriptor)):
            return "another process has locked it"
    except OSError:
        return ""  # a file system without locks
    finally:
        os.close(descriptor)
    if owner is None:
        return ""
    # An image's lock belongs to an open file: the kernel names no process then.
    return "process %d has locked it" % owner if owner > 0 else "another process has locked it"


def _written(file: os.stat_result) -> str:
    pids = writers(file)
    return "process %d has it open for writing" % pids[0] if pids else ""
