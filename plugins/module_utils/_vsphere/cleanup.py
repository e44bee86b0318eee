# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Imports that nobody ended, cancelled by ``converge``; and what they left, removed."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Any, NamedTuple, Union

from .._core.converge import Plan, View
from .._core.errors import BadInput, LifecycleError, RemoteFailed
from .._core.wait import LONGEST_TIMEOUT_S, Deadline, check_timeout, ready
from .declare import endpoint_from
from .faults import NO_LOGIN
from .imports import Import, Imports, Remains, look, told, told_machine
from .machine import destroy, look_all
from .tasks import ImportTask, import_tasks
from .visit import Visit

_EVERY_S = 0.5
# Nothing is older than this: no import is meant until the server's clock was read.
_NOT_YET = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
# What the server says of a task that has ended, or of a machine that is gone.
_OVER = ("InvalidState", "ManagedObjectNotFound")
# What it says of a machine that it is still busy with.
_BUSY = ("InvalidState", "MethodDisabled", "ResourceInUse", "TaskInProgress")


class Wish(NamedTuple):
    """Which imports are meant, and how carefully. ``watch_s``: how long an import has to stand still; None: none has
    to.
    """

    older_than_s: float
    name: str | None
    entity: str | None
    initiator: str | None
    watch_s: float | None


def wish_from(params: Mapping[str, Any]) -> Wish:
    """Raises BadInput."""
    check_timeout(params["timeout"])
    if not 0 <= params["older_than"] <= LONGEST_TIMEOUT_S:
        told = "%d seconds are no age of an import" % params["older_than"]
        raise BadInput("older_than", told, "Give a number from 0 to %d" % LONGEST_TIMEOUT_S)
    if not params["force"] and not 0 < params["watch"] < params["timeout"]:
        raise BadInput(
            "watch",
            "imports can't be watched for %d of the task's %d seconds" % (params["watch"], params["timeout"]),
            "Give a number of seconds from 1, and timeout a higher one",
        )
    watch_s = None if params["force"] else float(params["watch"])
    return Wish(float(params["older_than"]), params["name"], params["entity"], params["initiator"], watch_s)


class Fate(str, Enum):
    """What is to become of an import that is meant."""

    CANCEL = "cancel"
    MOVING = "moving"
    NOT_CANCELABLE = "not_cancelable"


class Cancel(NamedTuple):
    """A step: end this import."""

    found: Import


class Remove(NamedTuple):
    """A step: destroy this machine."""

    remains: Remains


Step = Union[Cancel, Remove]


def is_meant(task: ImportTask, wish: Wish, before: datetime.datetime) -> bool:
    """Whether a task, by itself, is one of those asked for: queued so early, by this user, at this entity."""
    if task.queued_at > before:
        return False
    if wish.initiator is not None and not same_user(task.user, wish.initiator):
        return False
    return wish.entity in (None, task.entity, task.entity_name)


def fate(task: ImportTask, watched: Mapping[str, int | None] | None) -> Fate:
    """``watched``: the percentages at the first look; None: it may be moving."""
    if watched is not None and (task.key not in watched or watched[task.key] != task.progress):
        return Fate.MOVING
    return Fate.CANCEL if task.cancelable else Fate.NOT_CANCELABLE


def same_user(told_name: str, asked: str) -> bool:
    """``DOMAIN\\name`` and ``name@domain`` are one user. Asked for without a domain, of whatever domain."""
    (name, domain), (asked_name, asked_domain) = _split(told_name), _split(asked)
    return name == asked_name and asked_domain in ("", domain)


def _split(user: str) -> tuple[str, str]:
    """Name and domain."""
    if "\\" in user:
        domain, name = user.split("\\", 1)
    else:
        name, _at, domain = user.partition("@")
    return name.lower(), domain.lower()


class Failure(NamedTuple):
    """What could not be done: ``id`` of the task or the machine, its name for messages, why not."""

    id: str
    what: str
    reason: str
    fault: str | None = None


class NotCancelled(LifecycleError):
    """An import that was to be cancelled goes on, or a machine that was to be removed is still there."""

    kind = "not_cancelled"


class ImportCleanup:
    """What the module manages: there is no import of those that are meant. ``look`` tells what there is now.
    ``close`` ends the login.
    """

    def __init__(self, wish: Wish, visit: Visit, look: Callable[[], Imports], deadline: Deadline) -> None:
        self._wish = wish
        self._visit = visit
        self._look = look
        self._deadline = deadline
        self._before = _NOT_YET
        self._watched: dict[str, int | None] | None = None
        self._seen: Imports | None = None
        self._applied = False
        # What became of imports and machines, by their ids.
        self._cancelled: list[Import] = []
        self._removed: list[Remains] = []
        self._failed: list[Failure] = []
        self._ended: list[Import] = []
        self._warnings: list[str] = []

    def observe(self) -> Imports:
        """See Observed. The first time it takes as long as imports are to be watched, if there are any."""
        seen = self._look()
        if self._before is _NOT_YET:
            self._before = seen.now - datetime.timedelta(seconds=self._wish.older_than_s)
            if self._wish.watch_s is not None:
                self._watched = {found.task.key: found.task.progress for found in seen.running}
                if self._meant(seen):
                    ready((), min(self._wish.watch_s, self._deadline.remaining_s()))
                    self._deadline.check("the imports to be watched")
                    seen = self._look()
            self._warn_of_unnamed(seen)
        self._seen = seen
        return seen

    def _warn_of_unnamed(self, seen: Imports) -> None:
        """By a machine's name only those imports are meant that are known to make it."""
        wish, before = self._wish, self._before
        keys = [item.task.key for item in seen.running if item.machine is None and is_meant(item.task, wish, before)]
        if wish.name is not None and keys:
            self._warnings.append(
                "It can't be told which machines these imports make, so they were left alone: %s" % ", ".join(keys)
            )

    def _meant(self, seen: Imports) -> list[Import]:
        wish, before = self._wish, self._before
        meant = [found for found in seen.running if is_meant(found.task, wish, before)]
        if wish.name is None:
            return meant
        return [found for found in meant if found.machine is not None and found.machine.name == wish.name]

    def _meant_remains(self, seen: Imports) -> list[Remains]:
        wish, before = self._wish, self._before
        return [
            found
            for found in seen.remains
            if wish.name in (None, found.machine.name) and all(is_meant(task, wish, before) for task in found.tasks)
        ]

    def _fated(self, seen: Imports, wanted: Fate) -> list[Import]:
        return [found for found in self._meant(seen) if fate(found.task, self._watched) is wanted]

    def plan(self, seen: Imports) -> Plan[Step]:
        """See Subject. Raises NotCancelled where all that is left to do can't be done."""
        cancel, remove = self._fated(seen, Fate.CANCEL), self._meant_remains(seen)
        if not self._applied:
            self._cancelled, self._removed = cancel, remove
        steps: list[Step] = [*map(Cancel, cancel), *map(Remove, remove)]
        if not steps:
            self._refuse_unended(seen)
        left = seen._replace(
            running=tuple(found for found in seen.running if found not in cancel),
            remains=tuple(found for found in seen.remains if found not in remove),
        )
        return Plan(steps, self.view(left))

    def _not_ended(self, seen: Imports) -> list[Failure]:
        stuck = self._fated(seen, Fate.NOT_CANCELABLE)
        return [*self._failed, *(_failure(found, "the server lets nobody cancel it") for found in stuck)]

    def _refuse_unended(self, seen: Imports) -> None:
        """What can't be done fails the task when all else is done. Raises NotCancelled."""
        left = self._not_ended(seen)
        if not left:
            return
        raise NotCancelled(
            "Not all could be cancelled and removed. %s. Log in as a user who may cancel others' tasks (the privilege "
            "Global.CancelTask) and remove machines; or wait until the server ends the lease by itself."
            % "; ".join("%s (%s): %s" % (item.what, item.id, item.reason.rstrip(".")) for item in left),
            ids=[item.id for item in left],
        )

    def exclusive(self) -> AbstractContextManager[object]:
        """See Subject. To cancel what another has cancelled does no harm."""
        return nullcontext()

    def apply(self, plan: Plan[Step]) -> None:
        """See Subject. Does all that can be done; then raises NotCancelled, if that wasn't all."""
        self._applied, self._cancelled, self._removed = True, [], []
        asked = [step.found for step in plan.steps if isinstance(step, Cancel) and self._cancel(step.found)]
        self._await_ends(asked)
        self._await_unlocked()
        seen = self._seen = self._look()
        for found in self._meant_remains(seen):
            self._remove(found)
        if self._failed:
            self._refuse_unended(seen)

    def _cancel(self, found: Import) -> bool:
        """Whether the server took it on. Raises RemoteFailed where the server can't be talked to."""
        session = self._visit.session()
        try:
            session.call("cancelling %s" % found.task.key, session.find("Task", found.task.key).CancelTask)
        except RemoteFailed as failed:
            fault = failed.facts.get("fault")
            if fault is None or fault == NO_LOGIN:
                raise
            if fault in _OVER:
                self._ended.append(found)
            else:
                self._failed.append(_failure(found, str(failed.facts["reason"]), str(fault)))
            return False
        return True

    def _await_ends(self, asked: Sequence[Import]) -> None:
        """Until each has really ended. One that had come to its end before is none that we cancelled."""
        waiting = list(asked)
        while waiting:
            now = {task.key: task for task in import_tasks(self._visit.session())}
            for found in list(waiting):
                task = now.get(found.task.key)
                if task is None or not task.running:
                    waiting.remove(found)
                    (self._ended if task is not None and task.succeeded else self._cancelled).append(found)
            if waiting and self._deadline.expired:
                self._failed += [_failure(found, "it was cancelled, and goes on all the same") for found in waiting]
                return
            ready((), min(_EVERY_S, self._deadline.remaining_s()) if waiting else 0)

    def _await_unlocked(self) -> None:
        """Until the server has let go of what it leaves behind."""
        for found in self._cancelled:
            if found.machine is None:
                continue
            session, moid = self._visit.session(), found.machine.moid
            while any(machine.locked for machine in look_all(session, [moid])) and not self._deadline.expired:
                ready((), min(_EVERY_S, self._deadline.remaining_s()))

    def _remove(self, found: Remains) -> None:
        """Destroy a machine, once the server is done with it. Raises RemoteFailed where it can't be talked to."""
        machine = found.machine
        while True:
            try:
                destroy(self._visit.session(), machine, self._deadline)
            except LifecycleError as failed:
                fault = failed.facts.get("fault")
                if isinstance(failed, RemoteFailed) and (fault is None or fault == NO_LOGIN):
                    raise
                if fault == "ManagedObjectNotFound":
                    return  # the import's own client was quicker
                if fault in _BUSY and not self._deadline.expired:
                    ready((), min(_EVERY_S, self._deadline.remaining_s()))
                    continue
                name = str(fault) if fault is not None else None
                self._failed.append(Failure(machine.moid, "Removing %s" % machine.name, failed.message, name))
                return
            self._removed.append(found)
            return

    def view(self, seen: Imports) -> View:
        """See Subject. Without what changes by itself; an import that ended by itself is no change of ours."""
        imports = sorted([*self._meant(seen), *self._ended], key=lambda found: found.task.key)
        return {
            "imports": [_shown(found) for found in imports],
            "remains": [told_machine(found.machine) for found in self._meant_remains(seen)],
        }

    def result(self, seen: Imports) -> View:
        """See Observed."""
        return {}

    def extras(self) -> View:
        """See Observed."""
        if self._seen is None:
            return {}
        return {
            "cancelled": [told(found) for found in self._cancelled],
            "removed": [told_machine(found.machine) for found in self._removed],
            "moving": [told(found) for found in self._fated(self._seen, Fate.MOVING)],
            "not_ended": [item._asdict() for item in self._not_ended(self._seen)],
        }

    def warnings(self) -> Sequence[str]:
        """See Observed."""
        return [*self._warnings, *self._visit.warnings]

    def close(self) -> None:
        self._visit.close()


def build(params: Mapping[str, Any], deadline: Deadline) -> ImportCleanup:
    """Raises BadInput."""
    wish = wish_from(params)
    visit = Visit(endpoint_from(params), deadline)
    return ImportCleanup(wish, visit, lambda: look(visit.session()), deadline)


def _failure(found: Import, reason: str, fault: str | None = None) -> Failure:
    machine = found.machine
    what = "The import of %s" % machine.name if machine is not None else "An import into %s" % found.task.entity_name
    return Failure(found.task.key, what, reason, fault)


def _shown(found: Import) -> dict[str, str | None]:
    task, machine = found.task, found.machine
    return {
        "task": task.key,
        "entity": task.entity_name,
        "machine": machine.name if machine is not None else None,
        "user": task.user,
    }
