# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine of the wanted name is: whole, being imported, what is left of an import, or somebody else's. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from .machine import Machine
from .tasks import ImportTask


class Is(str, Enum):
    ABSENT = "absent"
    COMPLETE = "complete"
    UNDER_WAY = "being imported"
    IMPORTED = "imported, and not marked so"
    REMAINS = "what is left of an import that ended without it"
    UNCLEAR = "perhaps imported"
    COPY = "a copy of what this module imported"
    FOREIGN = "not made by this module"


def judge(machine: Machine | None, tasks: Sequence[ImportTask]) -> Is:
    """``tasks``: the server's import tasks that may have made it (see :func:`candidates`).

    Only a task that failed shows that a machine is not whole: a server forgets its tasks, and no whole machine may be
    lost for that.
    """
    if machine is None:
        return Is.ABSENT
    if machine.stamp is None:
        return Is.FOREIGN
    if machine.stamp.is_complete:
        return Is.COPY if machine.is_copy else Is.COMPLETE
    if machine.used:
        return Is.IMPORTED  # nor can it be of a machine that was given up
    if any(task.running for task in tasks):
        return Is.UNDER_WAY
    if not tasks:
        return Is.UNDER_WAY if machine.locked else Is.UNCLEAR
    succeeded = {task.succeeded for task in tasks}
    if len(succeeded) > 1:
        return Is.UNCLEAR
    return Is.IMPORTED if True in succeeded else Is.REMAINS


def candidates(machine: Machine, tasks: Sequence[ImportTask]) -> list[ImportTask]:
    """The import tasks of which one has made this machine. That is the one that names it; where none does, those into
    its pool that were under way when it was created, by the server's clock.
    """
    own = [task for task in tasks if task.entity == machine.moid]
    if own:
        return own
    others = [task for task in tasks if not task.is_of_machine]
    if machine.pool is not None:
        others = [task for task in others if not task.is_of_pool or task.entity == machine.pool]
    created = machine.created_at
    if created is None:
        return others
    return [
        task for task in others if task.queued_at <= created and (task.ended_at is None or created <= task.ended_at)
    ]


def is_certain(machine: Machine, tasks: Sequence[ImportTask]) -> bool:
    """Whether it is one of these candidates that has made it. Otherwise that may be one that is forgotten."""
    return bool(tasks) and all(task.entity == machine.moid for task in tasks)
