# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An NFC lease from its beginning to its end, and what an import leaves behind when it fails.

The guard does all of it; the task itself does the same where its guard was lost. Both work by one login, since a lease
is known to the login that began it and to no other. What is needed for it is imported at once: when a task was killed,
Ansible may have removed its code before the guard comes to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

from .._core.errors import LifecycleError, RemoteFailed
from .._core.wait import Deadline, ready
from . import imports
from . import machine as machines
from .faults import NO_LOGIN, is_fault, is_no_login, is_timeout, name_of, remote_failed, told
from .machine import Machine, find_machine
from .session import Session, from_xml, log_in, may_be_done, may_have_logged_in
from .tasks import ImportTask
from .verdict import Is, candidates, judge

# What the server says of a lease that has ended already.
_ENDED = ("ManagedObjectNotFound", "InvalidState", "Timedout")
_RETRY_S = (0.2, 0.5, 1.0, 2.0)
_SLOW_EVERY_S = 5.0
# A server that can't even be asked whether it has completed is tried for so long: a restarted switch or firewall shall
# not cost an upload of hours.
_OUTAGE_S = 30.0
# A Complete that another process has sent may be under way for so long, though its answer is lost with it.
_OF_ANOTHER_S = 300.0
# An import of which no answer came may have begun or ended by now, and the server's list of tasks lags behind.
_APPEARS_S = 5.0
# Of the time for an ending: what is kept for the machine, which is locked until the lease has ended.
_REMOVAL_S = 10.0
_LOOK_EVERY_S = 0.5
_LEFT = (
    "The unfinished machine %s may be left: %s Run the task again when the server has ended the import; it removes "
    "what is left"
)
_UNTOLD = (
    "which of the server's import tasks is this one can't be told, so none was cancelled (%s). The server ends it when "
    "its lease times out"
)
_NOT_BEGUN = (
    "the server didn't answer the call that begins the import, and no task of it is known: it may still begin it, and "
    "then ends it when its lease times out. Run the task again, which finds what came of it"
)


class Outcome(str, Enum):
    """How a lease ended, as far as that is known."""

    COMPLETED = "completed"
    ABORTED = "aborted"
    ALREADY_ENDED = "already_ended"
    UNKNOWN = "unknown"


class Ended(NamedTuple):
    """``abort_fault`` is why an abort failed, if it did; ``left`` what stays on the server, and what to do about it."""

    outcome: Outcome
    abort_fault: str | None = None
    left: str | None = None


class Order(NamedTuple):
    """What is to be imported, and where: ids of the pool, the folder and the host (None: the cluster chooses), the
    machine's name, the run's id that it bears in its stamp, and the import specification as XML. ``others``: the keys
    of the import tasks that were there before, so none of them is this one.
    """

    pool: str
    folder: str | None
    host: str | None
    name: str
    run_id: str
    spec: str
    others: Sequence[str] = ()


class NotCompleted(LifecycleError):
    """The server refused to complete a lease; the machine isn't there for good."""

    kind = "not_completed"


class _Found(Enum):
    """What a lease has become of which a Complete gave no good answer."""

    COMPLETED = 1
    OPEN = 2
    FAILED = 3
    UNKNOWN = 4


_TOLD_BY_STATE = {
    "done": _Found.COMPLETED,
    "ready": _Found.OPEN,
    "initializing": _Found.OPEN,
    "error": _Found.FAILED,
}
_TOLD_BY_VERDICT = {
    Is.COMPLETE: _Found.COMPLETED,
    Is.IMPORTED: _Found.COMPLETED,
    Is.REMAINS: _Found.FAILED,
}


class Lease:
    """A lease that this import has begun, or was about to begin when its answer got lost (no ``lease_id``).

    Which machine and which of the server's tasks belong to it is told by the lease itself, by the run's id in the
    machine's stamp, and by when both began: there may be other imports of the same user into the same pool.
    """

    def __init__(self, session: Session, order: Order) -> None:
        self.session = session
        self.order = order
        self.lease_id: str | None = None
        # The machine, once the lease has told it.
        self.entity: str | None = None
        # Whether the server was asked to complete it, and may still be at it.
        self._completing = False
        # Whether it was asked to begin it, and may still be at that.
        self._beginning = False
        # Whether this is another login than the one that began it, by which it can't be named.
        self._logged_in_again = False
        # Whether the server may have made a login for it of which no answer came.
        self.login_lost = False

    @classmethod
    def of_another(
        cls, session: Session, order: Order, lease_id: str | None, entity: str | None, completing: bool
    ) -> Lease:
        """One that another process has begun, or was asked to. ``completing``: whether the server may be at that."""
        lease = cls(session, order)
        lease.lease_id, lease.entity = lease_id, entity
        lease._completing, lease._beginning = completing, lease_id is None
        return lease

    def begin(self) -> str:
        """Have the server begin it; its id. Raises RemoteFailed."""
        order, find = self.order, self.session.find
        spec = from_xml(order.spec, self.session.stub)
        try:
            lease = self.session.call(
                "starting the import of %s" % order.name,
                find("ResourcePool", order.pool).ImportVApp,
                spec,
                find("Folder", order.folder) if order.folder else None,
                find("HostSystem", order.host) if order.host else None,
            )
        except RemoteFailed as failed:
            self._beginning = may_be_done(failed)
            raise
        self.lease_id = lease._moId
        return self.lease_id

    def complete(self, deadline: Deadline) -> None:
        """Complete it, and see that it is. Where the answer is lost, what the server has done is found out first. One
        that is slow to complete it gets all the time there is.

        Raises NotCompleted where it refused, RemoteFailed where what it did can't be known.
        """
        if self._completing:
            deadline = deadline.within(_OF_ANOTHER_S)
        unanswered, self._completing = self._completing, True
        pauses = iter(_RETRY_S)
        slow = False
        outage: Deadline | None = None
        while True:
            try:
                self._object().HttpNfcLeaseComplete()
                return
            except Exception as error:
                fault = error
            if not unanswered and is_no_login(fault):
                raise self._not_completed(fault, unanswered) from fault
            # what it refuses while it may be at an earlier one, it refuses for that
            slow = slow or is_timeout(fault) or (unanswered and is_fault(fault))
            unanswered = unanswered or not is_fault(fault)
            found = self._found_out()
            if found is _Found.COMPLETED:
                return
            away = False
            if found is _Found.UNKNOWN:
                outage = outage or deadline.within(_OUTAGE_S)
                away = not outage.expired
            pause_s = next(pauses, _SLOW_EVERY_S if slow else _RETRY_S[-1] if away else None)
            last = pause_s is None or deadline.expired
            if found is _Found.FAILED or (last and found is _Found.OPEN):
                raise self._not_completed(fault, unanswered) from fault
            if last:
                raise self._failed(fault) from fault
            ready((), min(pause_s or 0.0, deadline.remaining_s()))

    def _not_completed(self, fault: Exception, unanswered: bool) -> NotCompleted:
        """``unanswered``: whether the server may be at a Complete all the same."""
        self._completing = unanswered
        failed = self._failed(fault)
        return NotCompleted(failed.message, **failed.facts)

    def _failed(self, fault: Exception) -> RemoteFailed:
        return remote_failed(fault, "completing the lease", self._server)

    def _found_out(self) -> _Found:
        """What a Complete that gave no good answer has done."""
        try:
            state = str(self._object().state)
        except Exception as error:
            if not is_fault(error):
                return _Found.UNKNOWN
            state = name_of(error)
        if state in _TOLD_BY_STATE:
            return _TOLD_BY_STATE[state]
        try:
            if state == NO_LOGIN:
                self._log_in_again()
            machine = self._found()
            if machine is None:
                return _Found.FAILED if self.entity is not None else _Found.UNKNOWN
            if self.entity is None and not self._is_own(machine):
                return _Found.UNKNOWN
            verdict = judge(machine, candidates(machine, self._possible_tasks(machine)))
        except LifecycleError:
            return _Found.UNKNOWN
        return _TOLD_BY_VERDICT.get(verdict, _Found.UNKNOWN)

    def became_whole(self, deadline: Deadline) -> bool | None:
        """Whether a Complete that gave no good answer was one, asked until the server tells. None where it doesn't, and
        the lease can be named: an Abort might cost a whole machine then. Of another login only a task that still runs
        is cancelled.
        """
        found = self._settled(deadline)
        if found is _Found.UNKNOWN and not self._logged_in_again:
            return None
        return found is _Found.COMPLETED

    def _settled(self, deadline: Deadline) -> _Found:
        while True:
            found = self._found_out()
            if found is not _Found.UNKNOWN or deadline.expired:
                return found
            ready((), min(1.0, deadline.remaining_s()))

    def _log_in_again(self) -> None:
        """The lease is unknown to a new login; its task is not. Raises RemoteFailed."""
        try:
            self.session = log_in(self.session.endpoint)
        except RemoteFailed as failed:
            self.login_lost = self.login_lost or may_have_logged_in(failed)
            raise
        self._logged_in_again = True

    def abort(self, reason: str, deadline: Deadline) -> Ended:
        """End it without a machine, and see that none is left. Raises nothing: what fails is in the answer."""
        named = self.lease_id is not None and not self._logged_in_again
        ended = self._abort(reason, deadline) if named else self._cancel(None, deadline)
        if self._completing and (self._logged_in_again or ended.outcome is not Outcome.ABORTED):
            # the server may have come to the Complete only now, and a cancelled import may take its time to end
            takes_s = deadline.remaining_s() - _REMOVAL_S if ended.outcome is Outcome.ABORTED else 0.0
            found = self._settled(deadline.within(max(_APPEARS_S, takes_s)))
            if found is _Found.COMPLETED:
                return ended._replace(outcome=Outcome.COMPLETED)
            if found is not _Found.FAILED:
                return ended._replace(outcome=Outcome.UNKNOWN)
        return ended._replace(left=self.remove_machine(deadline))

    def _abort(self, reason: str, deadline: Deadline) -> Ended:
        lease = self._object()
        left_s = deadline.remaining_s()
        patience = deadline.within(max(left_s - _REMOVAL_S, left_s / 2))
        pauses = iter(_RETRY_S)
        while True:
            try:
                lease.HttpNfcLeaseAbort(_as_fault(reason))
                return Ended(Outcome.ABORTED)
            except Exception as error:
                if is_fault(error) and name_of(error) in _ENDED:
                    return Ended(Outcome.ALREADY_ENDED)
                fault = told(error) if is_fault(error) else str(remote_failed(error, "aborting", self._server))
                if is_no_login(error):
                    return self._cancel(fault, deadline)
            if patience.expired:
                return Ended(Outcome.UNKNOWN, fault)
            ready((), min(next(pauses, _RETRY_S[-1]), patience.remaining_s()))

    def _cancel(self, fault: str | None, deadline: Deadline) -> Ended:
        """Of a lease that can't be named (any more) only its task can be ended. By a new login, if need be."""
        patience = deadline.within(deadline.remaining_s() / 2)
        while True:
            try:
                if self.lease_id is not None and not self._logged_in_again:
                    self._log_in_again()
                return self._cancel_task(fault, patience)
            except LifecycleError as error:
                if error.facts.get("fault") is not None or patience.expired:
                    return Ended(Outcome.UNKNOWN, fault or error.message)
            ready((), min(_LOOK_EVERY_S, patience.remaining_s()))

    def _cancel_task(self, fault: str | None, patience: Deadline) -> Ended:
        """Raises RemoteFailed."""
        began = self.lease_id is not None
        appears = patience if self._beginning else patience.within(_APPEARS_S)
        while True:
            machine = self._machine()
            tasks = self._possible_tasks(machine)
            running = [task for task in tasks if task.running]
            if machine is not None and candidates(machine, running):
                self._beginning, began = False, True  # it is this one's
            if not running and (began or appears.expired):
                return self._none_runs(tasks, fault)
            if machine is not None and len(running) == 1 and candidates(machine, running):
                return self._cancelled(running[0], fault)
            if patience.expired:
                untold = _UNTOLD % ", ".join(task.key for task in running)
                return Ended(Outcome.UNKNOWN, "%s; %s" % (fault, untold) if fault else untold)
            ready((), min(_LOOK_EVERY_S, patience.remaining_s()))

    def _none_runs(self, tasks: Sequence[ImportTask], fault: str | None) -> Ended:
        if not self._beginning:
            return Ended(Outcome.ALREADY_ENDED, fault)
        if len(tasks) == 1:
            return Ended(Outcome.ALREADY_ENDED, tasks[0].error)
        return Ended(Outcome.UNKNOWN, _NOT_BEGUN)

    def _cancelled(self, task: ImportTask, fault: str | None) -> Ended:
        """Raises RemoteFailed."""
        self.session.call("cancelling the import", self.session.find("Task", task.key).CancelTask)
        return Ended(Outcome.ABORTED, fault)

    def remove_machine(self, deadline: Deadline) -> str | None:
        """Destroy the machine of this very run, if the server left it; what may stay all the same, and what to do."""
        machine = None
        while True:
            try:
                machine = self._machine()
                if machine is None:
                    return None
                machines.destroy(self.session, machine, deadline)
            except LifecycleError as error:
                if deadline.expired or error.facts.get("fault") in ("NoPermission", NO_LOGIN):
                    return _LEFT % (machine.name if machine is not None else self.order.name, error.message)
                ready((), min(1.0, deadline.remaining_s()))

    def _machine(self) -> Machine | None:
        """The machine that bears this run's id, and is not complete. Raises RemoteFailed."""
        machine = self._found()
        return machine if machine is not None and self._is_own(machine) else None

    def _is_own(self, machine: Machine) -> bool:
        return machine.stamp is not None and machine.stamp.run_id == self.order.run_id

    def _found(self) -> Machine | None:
        """The machine that the lease has told, or else the one of its name. Raises RemoteFailed."""
        if self.entity is not None:
            return machines.look(self.session, self.entity)
        return find_machine(self.session, self.order.folder, self.order.name)

    def mark_complete(self, deadline: Deadline) -> None:
        """Write into the machine's stamp that it is whole, unless that was done. Raises RemoteFailed, TimedOut."""
        machine = self._found()
        if machine is None:
            raise RemoteFailed("marking %s as complete" % self.order.name, self._server, "it is not found any more")
        if self._is_own(machine):
            machines.mark_complete(self.session, machine, deadline)

    def failure(self) -> str | None:
        """Why the server gave the import up, by its task; None where no task is known to be this one's.

        Raises RemoteFailed.
        """
        tasks = self._possible_tasks(None)
        return tasks[0].error if len(tasks) == 1 else None

    def _possible_tasks(self, machine: Machine | None) -> list[ImportTask]:
        """The import tasks of which one is this one's: those that have begun since, save those of other pools and those
        that make other machines than this. Raises RemoteFailed.
        """
        found = imports.survey(self.session)
        tasks = [task for task in found.tasks if task.key not in self.order.others]
        moid = machine.moid if machine is not None else self.entity  # which may be gone by now
        own = [task for task in tasks if moid is not None and task.entity == moid]
        if own:
            return own
        makes = {other.task.key for other in found.running if other.machine not in (None, machine)}
        return [
            task
            for task in tasks
            if not task.is_of_machine
            and (not task.is_of_pool or task.entity == self.order.pool)
            and task.key not in makes
        ]

    def _object(self) -> Any:
        return self.session.find("HttpNfcLease", self.lease_id or "")

    @property
    def _server(self) -> str:
        return self.session.endpoint.server


def _as_fault(reason: str) -> Any:
    """What vCenter's task shows as the cause."""
    from pyVmomi import vmodl

    return vmodl.fault.SystemError(reason=reason, msg=reason)
