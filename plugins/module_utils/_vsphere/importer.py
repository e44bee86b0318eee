# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine that comes from an OVF package, under management by ``converge``."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

from .._core.converge import Plan, View
from .._core.errors import LifecycleError, RemoteFailed
from .._core.wait import Deadline, poll_until
from .._ovf.package import open_package
from .._ovf.preflight import IGNORE, wants_all
from .._ovf.source import Access
from .._ovf.stamp import Owner, Stamp
from . import machine as machines
from .entrance import Entered, Entrance
from .inquiry import inquire
from .lease import Order, Outcome
from .machine import Machine, find_machine
from .place import find_folder
from .plan import Desired, Seen, State, Step, There, debris, steps
from .prepare import Preparation, Prepared
from .run_import import ImportRun, Means
from .session import Endpoint, Session, require_pyvmomi, to_xml
from .spec import add_extra_config
from .tasks import import_tasks
from .telling import told_machine, told_spec, told_unmarked, view_of
from .verdict import Is, judge
from .wish import NEW, OLD, Wish

_ADDRESS_EVERY_S = 2.0
_REMOVALS = (Step.REMOVE_REMAINS, Step.REMOVE_OLD)


class OvfImport:
    """What the module manages. ``close`` ends the login."""

    def __init__(self, wish: Wish, endpoint: Endpoint, access: Access, deadline: Deadline) -> None:
        require_pyvmomi()
        self._wish = wish
        self._deadline = deadline
        self._run_id = uuid.uuid4().hex
        self._entrance = Entrance(endpoint._replace(agent="vmops.lifecycle import %s" % self._run_id), deadline)
        self._open = ExitStack()
        self._desired = Desired(wish.name, wish.state, None, wish.replace, wish.force, wish.wait_for_ip)
        self._preparation: Preparation | None = None
        self._prepared: Prepared | None = None
        self._run: ImportRun | None = None
        # The ids of machines that are known to be whole, and could not be marked so.
        self._whole: set[str] = set()
        self._warnings: list[str] = []
        if wish.source is not None and wish.state is not State.ABSENT:
            package = self._open.enter_context(open_package(wish.source, access, deadline))
            self._preparation = Preparation(wish, access, package)
            self._desired = self._desired._replace(**self._preparation.digests)
        self._open.callback(lambda: self._entrance.close(self._names_log))

    def observe(self) -> Seen:
        at = self._entrance.enter()
        preparation = self._preparation
        if preparation is not None:
            preparation.refuse_unfit(at)
        seen = self._seen(at)
        planned = steps(self._desired, seen)
        if preparation is not None and _imports(planned):
            # its files are called after it, so the new one's are not the old one's
            name = self._wish.name + (NEW if Step.IMPORT_NEW in planned else "")
            if self._prepared is None or self._prepared.name != name:
                self._prepared = preparation.prepare(at, name, room_is_made=_removes_first(planned))
        return seen

    def _seen(self, at: Entered) -> Seen:
        folder = find_folder(at.inventory, self._wish.place).moid
        wanted = self._wish.state is not State.ABSENT
        names = (self._wish.name, self._wish.name + NEW, self._wish.name + OLD)
        return Seen(*(self._there(find_machine(at.session, folder, name, wanted), at.session) for name in names))

    def _there(self, machine: Machine | None, session: Session) -> There:
        if machine is None or machine.stamp is None or machine.stamp.is_complete:
            return There(machine, judge(machine, ()))
        if machine.moid in self._whole:
            return There(machine, Is.COMPLETE)
        return There(machine, inquire(session, machine, import_tasks(session)))

    def plan(self, seen: Seen) -> Plan[Step]:
        planned = steps(self._desired, seen)
        return Plan(planned, self._predicted(seen, planned))

    def _predicted(self, seen: Seen, planned: Sequence[Step]) -> View:
        state = self._desired.state
        if state is State.ABSENT:
            return view_of(self._desired.name, None)
        machine = seen.machine.machine
        if _imports(planned):
            machine = None
        elif Step.PUT_BACK in planned or Step.TAKE_OLD in planned:
            machine = seen.old.machine
        elif Step.RENAME_NEW in planned:
            machine = seen.new.machine
        power = machine.power_state if machine is not None else "poweredOff"
        return {
            "vm": {
                "name": self._desired.name,
                "exists": True,
                "complete": True,
                "digest": self._desired.digest,
                "power_state": "poweredOn" if state is State.POWERED_ON else power,
                "template": state is State.TEMPLATE or (machine is not None and machine.template),
            }
        }

    def view(self, seen: Seen) -> View:
        beside = seen.new.machine is not None or seen.old.machine is not None
        return view_of(self._desired.name, seen.machine.machine, remains=beside)

    def exclusive(self) -> AbstractContextManager[object]:
        return nullcontext()  # the server lets one machine of a name come to be: whoever is second is told so

    def apply(self, plan: Plan[Step]) -> None:
        """Each step is planned anew from what is there by then: another task may be at work on the same name, and what
        it has put there is none that this one meant to remove.
        """
        at = self._entrance.enter()
        may_come = list(plan.steps)
        while True:
            seen = self._seen(at)
            left = steps(self._desired, seen)
            if not left:
                return
            if left[0] not in may_come:
                raise _changed(self._wish.name)
            may_come.remove(left[0])
            _DOES[left[0]](self, at, seen)

    def _remove_remains(self, at: Entered, seen: Seen) -> None:
        for machine in debris(self._desired, seen):
            if machine.powered_on:
                machines.set_power(at.session, machine, False, self._deadline)
            machines.destroy(at.session, machine, self._deadline)

    def _adopt(self, at: Entered, seen: Seen) -> None:
        self._mark(at, _one(seen.machine))

    def _adopt_new(self, at: Entered, seen: Seen) -> None:
        self._mark(at, _one(seen.new))

    def _mark(self, at: Entered, machine: Machine) -> None:
        """That it can't be done is no reason not to use a machine that is whole."""
        try:
            machines.mark_complete(at.session, machine, self._deadline)
        except RemoteFailed as failed:
            self._whole.add(machine.moid)
            self._warnings.append(told_unmarked(machine.name, failed))

    def _import(self, at: Entered, _seen: Seen) -> None:
        self._import_as(at, self._wish.name)

    def _import_new(self, at: Entered, _seen: Seen) -> None:
        self._import_as(at, self._wish.name + NEW)

    def _import_as(self, at: Entered, name: str) -> None:
        if self._prepared is None or self._prepared.name != name:
            raise _changed(self._wish.name)
        name, package, place, spec, fetching = self._prepared
        stamp = Stamp(self._desired.digest or "", self._run_id, _owner(), inputs=self._desired.inputs)
        add_extra_config(spec.body, stamp.to_extra_config())
        order = Order(
            pool=place.pool.moid,
            folder=place.folder.moid,
            host=place.host.moid if place.host is not None else None,
            name=name,
            run_id=self._run_id,
            spec=to_xml(spec.body, at.session.stub.version),
            others=[task.key for task in import_tasks(at.session)],
        )
        wish = self._wish
        # disks that build on each other have to arrive in order
        parallel = 1 if any(disk.parent_id for disk in package.envelope.disks) else wish.parallel
        means = Means(
            session=at.session,
            guard=at.guard,
            package=package,
            parallel=parallel,
            retries=wish.retries,
            stall_s=wish.stall_s,
            verify=wish.verify != IGNORE,
            fetching=fetching,
            strict=wants_all(wish.verify),
        )
        self._run = ImportRun(means, order, spec.files, self._deadline)
        self._run.carry_out()
        if self._run.unmarked is not None:
            self._whole.add(self._run.unmarked)

    def _power_off(self, at: Entered, seen: Seen) -> None:
        machines.set_power(at.session, _one(seen.machine), False, self._deadline)

    def _remove(self, at: Entered, seen: Seen) -> None:
        machines.destroy(at.session, _one(seen.machine), self._deadline)

    def _put_back(self, at: Entered, seen: Seen) -> None:
        machines.rename(at.session, _one(seen.old), self._wish.name, self._deadline)

    def _take_old(self, at: Entered, seen: Seen) -> None:
        machines.rename(at.session, _one(seen.old), self._wish.name + NEW, self._deadline)

    def _set_aside(self, at: Entered, seen: Seen) -> None:
        machines.rename(at.session, _one(seen.machine), self._wish.name + OLD, self._deadline)

    def _rename_new(self, at: Entered, seen: Seen) -> None:
        machines.rename(at.session, _one(seen.new), self._wish.name, self._deadline)

    def _power_off_old(self, at: Entered, seen: Seen) -> None:
        machines.set_power(at.session, _one(seen.old), False, self._deadline)

    def _remove_old(self, at: Entered, seen: Seen) -> None:
        machines.destroy(at.session, _one(seen.old), self._deadline)

    def _power_on(self, at: Entered, seen: Seen) -> None:
        machines.set_power(at.session, _one(seen.machine), True, self._deadline)

    def _await_address(self, at: Entered, seen: Seen) -> None:
        machine = _one(seen.machine)

        def is_told() -> bool:
            found = machines.look(at.session, machine.moid)
            return found is None or found.reachable

        none = "its tools report none that others can reach"
        poll_until(is_told, self._deadline, "an address of %s" % machine.name, _ADDRESS_EVERY_S, none)

    def _make_template(self, at: Entered, seen: Seen) -> None:
        machines.mark_as_template(at.session, _one(seen.machine))

    def result(self, seen: Seen) -> View:
        machine = seen.machine.machine
        return {"vm": told_machine(machine, self._path()) if machine is not None else None}

    def _path(self) -> str:
        inventory = self._entrance.enter().inventory
        return "%s/%s" % (inventory.path(find_folder(inventory, self._wish.place)), self._wish.name)

    def extras(self) -> View:
        found: dict[str, object] = {}
        run = self._run
        if run is not None and run.ended is not None:
            found["lease"] = {
                "id": run.lease_id,
                "outcome": run.ended.outcome.value,
                "abort_fault": run.ended.abort_fault,
                "log": self._log_path,
            }
            found["files"] = run.files()
            found["upload"] = run.by
        if self._prepared is not None:
            _name, package, place, spec, _fetching = self._prepared
            found["imported" if self._went_well and run is not None else "would_import"] = told_spec(
                spec, package, place
            )
        return found

    @property
    def _went_well(self) -> bool:
        run = self._run
        return run is None or (run.ended is not None and run.ended.outcome is Outcome.COMPLETED)

    @property
    def _log_path(self) -> str | None:
        guard = self._entrance.guard
        return guard.log_path if guard is not None and os.path.exists(guard.log_path) else None

    def warnings(self) -> Sequence[str]:
        of_spec = self._prepared.spec.warnings if self._prepared is not None else ()
        of_run = self._run.warnings if self._run is not None else ()
        of_package = self._preparation.warnings if self._preparation is not None else ()
        return [*of_package, *self._warnings, *self._entrance.warnings, *of_spec, *of_run]

    def close(self) -> None:
        try:
            self._open.close()
        finally:
            if self._entrance.guard is not None and not self._names_log:
                self._entrance.guard.forget_log()

    @property
    def _names_log(self) -> bool:
        """Whether the result, or an error, names the guard's log."""
        run, guard = self._run, self._entrance.guard
        if guard is not None and guard.is_lost:
            return True
        if run is None or run.ended is None:
            return False
        return run.unmarked is not None or run.ended.outcome is not Outcome.COMPLETED


_DOES = {
    Step.REMOVE_REMAINS: OvfImport._remove_remains,
    Step.ADOPT: OvfImport._adopt,
    Step.ADOPT_NEW: OvfImport._adopt_new,
    Step.IMPORT: OvfImport._import,
    Step.IMPORT_NEW: OvfImport._import_new,
    Step.POWER_OFF: OvfImport._power_off,
    Step.REMOVE: OvfImport._remove,
    Step.PUT_BACK: OvfImport._put_back,
    Step.TAKE_OLD: OvfImport._take_old,
    Step.SET_ASIDE: OvfImport._set_aside,
    Step.RENAME_NEW: OvfImport._rename_new,
    Step.POWER_OFF_OLD: OvfImport._power_off_old,
    Step.REMOVE_OLD: OvfImport._remove_old,
    Step.POWER_ON: OvfImport._power_on,
    Step.AWAIT_ADDRESS: OvfImport._await_address,
    Step.MAKE_TEMPLATE: OvfImport._make_template,
}


def _imports(planned: Sequence[Step]) -> bool:
    return Step.IMPORT in planned or Step.IMPORT_NEW in planned


def _removes_first(planned: Sequence[Step]) -> bool:
    """Whether a machine goes before another one comes."""
    first = next(step for step in planned if step in (*_REMOVALS, Step.IMPORT, Step.IMPORT_NEW))
    return first in _REMOVALS


def _changed(name: str) -> LifecycleError:
    """What was seen when it was planned is no more so."""
    return LifecycleError("%s changed while the task was at work. Run the task again." % name)


def _one(there: There) -> Machine:
    if there.machine is None:
        raise LifecycleError("The machine went away while the task was at work. Run the task again.")
    return there.machine


def _owner() -> Owner:
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Owner(host=socket.gethostname(), user=_user(), pid=os.getpid(), started=started)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
