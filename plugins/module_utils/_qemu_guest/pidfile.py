# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's pidfile: what is in it, and who holds the lock on it."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from .._core.errors import BadInput, storage_failed
from . import process

# A pidfile is written right after its process started; allows for clocks that tick coarsely.
SLACK_S = 2.0
LARGEST_PID = 1 << 22  # Linux's own limit (proc(5), pid_max); other systems' are below it
_LONGEST_BYTES = 32  # QEMU writes a number and a line break
_EXPECTED = "Name the file that QEMU's -pidfile names. If this is it, and damaged, remove it"


class Pidfile(NamedTuple):
    """A pidfile as found: its open descriptor, the number in it, and who holds QEMU's lock on it (None: nobody)."""

    descriptor: int
    pid: int | None
    owner: int | None
    written_at: float


def read_pidfile(path: str) -> Pidfile | None:
    """Open a pidfile and see who holds it; None if there is none.

    Raises BadInput for what is no pidfile, PermissionError, and StorageFailed.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device can do something already
            raise BadInput("pidfile", "%s is no regular file" % path, _EXPECTED)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise
    except OSError as error:
        raise storage_failed(error, "Reading the pidfile", path) from None
    try:
        return Pidfile(descriptor, number_in(descriptor), process.lock_owner(descriptor), os.fstat(descriptor).st_mtime)
    except ValueError:
        os.close(descriptor)
        raise BadInput("pidfile", "%s holds something else than a process's number" % path, _EXPECTED) from None
    except OSError as error:
        os.close(descriptor)
        raise storage_failed(error, "Reading the pidfile", path) from None


def number_in(descriptor: int) -> int | None:
    """The number in a pidfile; None in an empty one, as a QEMU leaves it that is killed before it has written.

    Raises ValueError where something else is in it: that is no pidfile, whoever named it so.
    """
    text = os.pread(descriptor, _LONGEST_BYTES, 0)
    if not text:
        return None
    number = int(text) if len(text) < _LONGEST_BYTES and text.strip().isdigit() else 0
    if not 0 < number <= LARGEST_PID:
        raise ValueError("no process's number")
    return number


def names_older_qemu(pidfile: Pidfile) -> bool:
    """Whether the number in an unlocked pidfile may be right: a QEMU that is older than the file.

    A younger one reuses the number.
    """
    from .find import is_qemu

    if pidfile.pid is None:
        return False
    started_at = process.started_at(pidfile.pid)
    if started_at is None or not is_qemu(process.arguments(pidfile.pid)):
        return False
    return started_at <= pidfile.written_at + SLACK_S
