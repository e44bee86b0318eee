# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine is, also where the server's recent tasks alone don't tell."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from .machine import Machine
from .session import Session
from .tasks import ImportTask, past_imports, server_time
from .verdict import Is, candidates, is_certain, judge

# Servers forget a task ten minutes after its end, sooner only if they do more than twenty a minute.
_REMEMBERED = datetime.timedelta(minutes=5)


def inquire(session: Session, machine: Machine, tasks: Sequence[ImportTask]) -> Is:
    """``tasks``: the server's recent ones. What others' tasks seem to say of a machine is held against the history of
    all; where there is none, it only counts while the machine's own task can't have been forgotten.

    Raises RemoteFailed.
    """
    found = candidates(machine, tasks)
    verdict = judge(machine, found)
    if verdict not in (Is.UNCLEAR, Is.REMAINS) or is_certain(machine, found):
        return verdict
    if machine.created_at is None:
        return Is.UNCLEAR
    past = past_imports(session, machine.moid, machine.created_at)
    if past is not None:
        return judge(machine, candidates(machine, [*tasks, *past]))
    if verdict is Is.REMAINS and server_time(session) - machine.created_at > _REMEMBERED:
        return Is.UNCLEAR
    return verdict
