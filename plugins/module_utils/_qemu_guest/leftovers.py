# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a guest that has no process any more: which of them are left, and which of those stay."""

from __future__ import annotations

import os
import stat

from .identity import Identity
from .model import Guest, State
from .pidfile import Pidfile

IS_LINK = "it is a symbolic link"


def call_down(identity: Identity, pidfile: Pidfile | None) -> Identity:
    """A guest without a process is stale if files of it are left, else absent. ``pidfile``: what was found of it."""
    guest = identity.guest
    identity.kept = {**_links(guest), **_used_by_others(guest)}
    identity.leftovers = _leftovers(identity, pidfile)
    identity.state = State.STALE if identity.leftovers else State.ABSENT
    return identity


def _links(guest: Guest) -> dict[str, str]:
    """QEMU makes files and sockets, never links: these are somebody's who named them so."""
    return {path: IS_LINK for path in guest.paths if os.path.islink(path)}


def _leftovers(identity: Identity, pidfile: Pidfile | None) -> list[str]:
    """An unlocked pidfile, sockets without a listener, declared paths that nobody else uses."""
    guest = identity.guest
    found = [guest.pidfile] if pidfile is not None and guest.pidfile is not None else []
    found = [path for path in found if path not in identity.kept]
    found += [
        channel.path
        for channel in identity.channels()
        if channel.problem == "ECONNREFUSED" and _is_socket(channel.path)
    ]
    found += [path for path in guest.cleanup_paths if os.path.lexists(path) and path not in identity.kept]
    return found


def _used_by_others(guest: Guest) -> dict[str, str]:
    if not guest.cleanup_paths:
        return {}
    from .in_use import in_use

    found = {path: in_use(path) for path in guest.cleanup_paths}
    return {path: how for path, how in found.items() if how}


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
