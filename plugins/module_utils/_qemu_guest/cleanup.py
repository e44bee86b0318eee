# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Takes away what a dead guest left behind: its pidfile, its sockets, and paths that the user named. Nothing else."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from .._core.errors import describe
from .._core.signals import held
from .identity import Identity, Mark, mark
from .in_use import LISTENED, in_use, is_listened
from .leftovers import IS_LINK
from .pidfile import number_in
from .underway import none_begins


class Cleaned(NamedTuple):
    """What became of one path, with the reason: ``removed``, ``kept`` (it isn't the dead guest's, or somebody uses it)
    or ``failed``.
    """

    path: str
    outcome: str
    reason: str = ""


def clean(identity: Identity) -> list[Cleaned]:
    """Remove what belongs to a guest that is proven to be dead. Each path is tried, whatever became of the others."""
    guest = identity.guest
    tasks: list[tuple[str | None, Callable[[str, Mark | None], str]]] = [
        (guest.pidfile, _remove_pidfile),
        (guest.qmp_socket, _remove_socket),
        (guest.agent_socket, _remove_socket),
    ]
    entries = []
    with held(), none_begins(guest) as lock:
        locked = mark(lock) if lock else None
        tasks += [(path, partial(_remove_declared, locked)) for path in _lock_last(guest.cleanup_paths, locked)]
        for path, remove in tasks:
            if path is not None and os.path.lexists(path):
                entries.append(_attempt(path, remove, identity.marks.get(path), lock))
    return entries


def _lock_last(paths: Sequence[str], locked: Mark | None) -> list[str]:
    """A start that finds the lock gone goes on, so that goes after all other files; and its directory after it."""
    return sorted(paths, key=lambda path: (_is_folder(path), locked is not None and mark(path) == locked))


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _attempt(path: str, remove: Callable[[str, Mark | None], str], known: Mark | None, lock: str | None) -> Cleaned:
    """``lock``: see `none_begins`."""
    if lock is None:
        return Cleaned(path, "kept", "a start of the guest is under way")
    try:
        kept = remove(path, known)
    except FileNotFoundError:
        return Cleaned(path, "removed", "it went by itself")
    except OSError as error:
        return Cleaned(path, "failed", describe(error))
    return Cleaned(path, "kept", kept) if kept else Cleaned(path, "removed")


def _remove_pidfile(path: str, known: Mark | None) -> str:
    """Returns why it is kept, or nothing. Holds QEMU's own lock meanwhile, so that none can be starting with it."""
    if os.path.islink(path):
        return IS_LINK
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return "it is no regular file"
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return "another process has locked it since"
        try:
            number_in(descriptor)
        except ValueError:
            return "it holds something else than a process's number"
        return _unlink(path, known)
    finally:
        os.close(descriptor)


def _remove_socket(path: str, known: Mark | None) -> str:
    if os.path.islink(path):
        return IS_LINK
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return "it is no socket"
    if is_listened(path):
        return LISTENED
    return _unlink(path, known)


def _unlink(path: str, known: Mark | None) -> str:
    """Remove what was known, and nothing that came in its place. Its directory is held meanwhile: a path that a
    process named may lead elsewhere from one moment to the next.
    """
    folder = os.open(os.path.dirname(path), getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = os.path.basename(path)
        if mark(name, folder) != known:
            return "it was replaced since"
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    return ""


def _remove_declared(locked: Mark | None, path: str, _known: Mark | None) -> str:
    """``locked``: the file that we hold, by whatever name it is reached."""
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        os.rmdir(path)  # an empty one only: what else lies there was not declared
        return ""
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        raise PermissionError(errno.EPERM, "it is a device, which is never removed", path)
    used = in_use(path) if mark(path) != locked else ""
    if used:
        return used
    os.unlink(path)
    return ""
