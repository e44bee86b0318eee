# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who listens at a socket whose file was removed or replaced: the kernel knows it by the path that it was bound to."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import process
from .find import claims, claims_to_be, is_qemu
from .model import Guest
from .qmp import unix_listeners


def owners(inodes: Sequence[int]) -> list[int]:
    """The processes that have these sockets open, as far as this user may see them."""
    found = [process.socket_owner(inode) for inode in inodes]
    return sorted({pid for pid in found if pid is not None})


def only_candidate(guest: Guest, inodes: Sequence[int]) -> int | None:
    """The one process behind these sockets that may be the guest; None if none is, or several are."""
    candidates = [pid for pid in owners(inodes) if _may_be(guest, pid)]
    return candidates[0] if len(candidates) == 1 else None


def _may_be(guest: Guest, pid: int) -> bool:
    """A path alone is weak evidence: it must be a QEMU that means the same file by it, and whose command line
    contradicts nothing of what was given.
    """
    argv = process.arguments(pid)
    if not is_qemu(argv) or not process.shares_root(pid):
        return False
    said = claims(argv)
    if guest.pidfile and said.pidfile and os.path.realpath(guest.pidfile) != os.path.realpath(said.pidfile):
        return False
    return claims_to_be(guest, said)


def still_listened(path: str) -> str:
    """Somebody does, whom nothing proves to be the guest: who, as far as this user may see it, and what to do."""
    seen = owners(unix_listeners(path))
    if not seen:
        return (
            "a process that this user can't see still listens at %s, although the file was removed or replaced: run "
            "the task with become, as root or as the guest's own user" % path
        )
    told = ["%d (%s)" % (pid, " ".join(process.arguments(pid)[:1]) or "unreadable") for pid in seen]
    return (
        "process %s still listens at %s, although the file was removed or replaced, and nothing else proves that it is "
        "the guest; if it is, give its pid" % (" and process ".join(told), path)
    )
