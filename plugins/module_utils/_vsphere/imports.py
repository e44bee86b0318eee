# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The imports on a server, whoever began them: which task makes which machine, and what ended ones have left."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._core.wait import Deadline, check_timeout
from .declare import endpoint_from
from .inquiry import inquire
from .machine import Machine, look_all
from .properties import read, retrieve
from .session import Session
from .tasks import ImportTask, import_tasks, server_time
from .verdict import Is, candidates, judge
from .visit import Visit


class Import(NamedTuple):
    """An import that is under way. ``machine`` is the one that it makes, where one only can be meant."""

    task: ImportTask
    machine: Machine | None
    age_s: float


class Remains(NamedTuple):
    """A machine that an import of ours has left unfinished, and the ended tasks of which one was that import."""

    machine: Machine
    tasks: tuple[ImportTask, ...]


class Imports(NamedTuple):
    """All at one look: ``now`` by the server's clock, what runs with the oldest first, and ``tasks`` as the server told
    them, ended ones among them.
    """

    now: datetime.datetime
    running: tuple[Import, ...]
    remains: tuple[Remains, ...]
    tasks: tuple[ImportTask, ...] = ()


def look(session: Session) -> Imports:
    """Raises RemoteFailed."""
    found = survey(session)
    remains = [left for left in found.remains if inquire(session, left.machine, found.tasks) is Is.REMAINS]
    return found._replace(remains=tuple(remains))


def survey(session: Session) -> Imports:
    """The same but for the server's history: what seems to be left may be whole. Raises RemoteFailed."""
    now = server_time(session)
    tasks = import_tasks(session)
    return sort(now, tasks, _machines(session, tasks))


def _machines(session: Session, tasks: Sequence[ImportTask]) -> dict[str, list[Machine]]:
    """By the id of what a task names, a pool or a machine: the machines that these tasks may have made."""
    members = _members(session, tasks)
    named = [task.entity for task in tasks if task.is_of_machine and task.entity is not None]
    since = min((task.queued_at for task in tasks), default=None)
    young = [moid for pool in members.values() for moid in pool]
    if since is not None and young:
        young = [moid for moid, created in _created(session, young) if created is None or created >= since]
    machines = {machine.moid: machine for machine in look_all(session, list(dict.fromkeys([*young, *named])))}
    members.update({moid: [moid] for moid in named})
    return {entity: [machines[moid] for moid in moids if moid in machines] for entity, moids in members.items()}


def _members(session: Session, tasks: Sequence[ImportTask]) -> dict[str, list[str]]:
    """The ids of the machines in each pool."""
    from pyVmomi import vim, vmodl

    pools = {task.entity: task.entity_kind for task in tasks if task.entity is not None and task.is_of_pool}
    if not pools:
        return {}
    specs = [vmodl.query.PropertyCollector.ObjectSpec(obj=session.find(kind, moid)) for moid, kind in pools.items()]
    found = retrieve(session, "reading the resource pools", specs, {vim.ResourcePool: ["vm"]})
    return {item.object._moId: [machine._moId for machine in item.values.get("vm") or ()] for item in found}


def _created(session: Session, moids: Sequence[str]) -> list[tuple[str, Any]]:
    """When each was created, None where the server doesn't tell: little to ask of a pool that has thousands."""
    machines = [session.find("VirtualMachine", moid) for moid in moids]
    found = read(session, "looking for new machines", machines, ["config.createDate"])
    return [(item.object._moId, item.values.get("config.createDate")) for item in found]


def sort(now: datetime.datetime, tasks: Sequence[ImportTask], machines: Mapping[str, Sequence[Machine]]) -> Imports:
    """Which task makes which of the machines of its pool, or the one that it names, and which machines are left of
    ended ones. Pure.
    """
    known = {machine.moid: machine for pool in machines.values() for machine in pool}
    may_be_of = {
        machine.moid: candidates(machine, [task for task in tasks if task.entity in (entity, machine.moid)])
        for entity, there in machines.items()
        for machine in there
    }
    under_way = {moid: _makers(known[moid], some) for moid, some in may_be_of.items()}
    locked = {moid for moid, machine in known.items() if machine.locked}
    made = _match({moid: keys for moid, keys in under_way.items() if keys}, locked)
    running = [
        Import(task, known.get(made.get(task.key, "")), (now - task.queued_at).total_seconds())
        for task in sorted(tasks, key=lambda task: task.queued_at)
        if task.running
    ]
    remains = [
        Remains(known[moid], tuple(others))
        for moid, some in may_be_of.items()
        for others in [[task for task in some if made.get(task.key, moid) == moid]]
        if _is_left(known[moid], others)
    ]
    return Imports(now, tuple(running), tuple(remains), tuple(tasks))


def _makers(machine: Machine, tasks: Sequence[ImportTask]) -> set[str]:
    """The keys of the running imports of which one makes it; none, if none does."""
    running = {task.key for task in tasks if task.running}
    if machine.stamp is not None:
        return running if judge(machine, tasks) is Is.UNDER_WAY else set()
    return running if machine.locked and not machine.used else set()


def _match(makers: Mapping[str, set[str]], locked: set[str]) -> dict[str, str]:
    """For tasks the machine each makes. A machine that only one task can make is its; that task makes no other. Where
    there are several such, debris among them, it is the one whose lease is held.
    """
    found: dict[str, str] = {}
    unsure = dict(makers)
    while True:
        sure: dict[str, list[str]] = {}
        for machine, tasks in unsure.items():
            if len(tasks) == 1:
                sure.setdefault(next(iter(tasks)), []).append(machine)
        if not sure:
            return found
        for task, its in sure.items():
            one = its if len(its) == 1 else [machine for machine in its if machine in locked]
            found.update({task: one[0]} if len(one) == 1 else {})
        unsure = {machine: tasks - sure.keys() for machine, tasks in unsure.items() if len(tasks) > 1}


def _is_left(machine: Machine, tasks: Sequence[ImportTask]) -> bool:
    """Whether nobody needs it. Without a task that tells of its import's end that isn't known."""
    return not machine.locked and judge(machine, tasks) is Is.REMAINS


def told(found: Import) -> dict[str, object]:
    """An import for the result."""
    task, machine = found.task, found.machine
    owner = machine.stamp.owner if machine is not None and machine.stamp is not None else None
    return {
        "task": task.key,
        "state": task.state,
        "entity": {"moref": task.entity, "name": task.entity_name, "kind": task.entity_kind},
        "machine": told_machine(machine) if machine is not None else None,
        "owner": owner._asdict() if owner is not None else None,
        "user": task.user,
        "queued_at": task.queued_at.isoformat(),
        "age_s": round(found.age_s, 1),
        "percentage": task.progress,
        "cancelable": task.cancelable,
    }


def told_machine(machine: Machine) -> dict[str, object]:
    """A machine for the result."""
    return {"moref": machine.moid, "name": machine.name}


class ImportTasks:
    """What an info task looks at. ``close`` ends the login."""

    def __init__(self, params: Mapping[str, Any], deadline: Deadline) -> None:
        check_timeout(params["timeout"])
        self._visit = Visit(endpoint_from(params), deadline)

    def observe(self) -> Imports:
        """See Observed."""
        return look(self._visit.session())

    def result(self, seen: Imports) -> Mapping[str, object]:
        """See Observed."""
        return {"imports": [told(found) for found in seen.running]}

    def extras(self) -> Mapping[str, object]:
        """See Observed."""
        return {}

    def warnings(self) -> Sequence[str]:
        """See Observed."""
        return self._visit.warnings

    def close(self) -> None:
        self._visit.close()
