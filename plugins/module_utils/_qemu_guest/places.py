# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a guest keeps what it needs while it runs: a private directory with fixed names, made from the guest's name.
Where such directories lie: see :mod:`.run_dir`.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from .model import Guest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_PIDFILE, _QMP_SOCKET, _AGENT_SOCKET = "qemu.pid", "qmp.sock", "agent.sock"


class Places(NamedTuple):
    """The files of one guest. ``qemu_log`` is also what a start locks as long as any process of it lives: see
    :mod:`.underway`.
    """

    base: str
    folder: str
    pidfile: str
    qmp_socket: str
    agent_socket: str
    console_log: str
    qemu_log: str
    record: str
    lock: str


def below(base: str, name: str) -> Places:
    """The places of the guest ``name`` in the directory ``base``."""
    folder = os.path.join(base, name)
    return Places(
        base=base,
        folder=folder,
        pidfile=os.path.join(folder, _PIDFILE),
        qmp_socket=os.path.join(folder, _QMP_SOCKET),
        agent_socket=os.path.join(folder, _AGENT_SOCKET),
        console_log=os.path.join(folder, "console.log"),
        qemu_log=os.path.join(folder, "qemu.log"),
        record=os.path.join(folder, "guest.json"),
        lock=os.path.join(base, ".%s.vmops-lock" % name),
    )


def place_of(guest: Guest) -> Places | None:
    """Where the guest that a task names was or is being started by this collection; None where it wasn't, or where this
    user may not see that.
    """
    named = guest.paths
    if not named:
        from .find import claimants

        named = tuple(said.pidfile for _pid, said in claimants(guest) if said.pidfile)
    for path in named:
        found = _places_by(path)
        if found is not None and (os.path.lexists(found.lock) or os.path.lexists(found.qemu_log)):
            return found
    return None


def _places_by(path: str) -> Places | None:
    """The places of the guest whose pidfile or socket this is; None where it can't be one that was started here."""
    folder, file = os.path.split(path)
    if file not in (_PIDFILE, _QMP_SOCKET, _AGENT_SOCKET):
        return None
    base, name = os.path.split(os.path.realpath(folder))
    return below(base, name) if NAME.match(name) else None
