# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans carried out on a model of a server, from whatever may be there, step by step as the module does it: each step
is planned anew, so a run that ends after any of them is tried as well.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import Refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.stamp import Owner, Stamp
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.machine import Machine
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.plan import (
    NOTHING,
    Desired,
    Seen,
    State,
    Step,
    There,
    debris,
    steps,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.verdict import Is

WANTED, OTHER, THIRD = "wanted", "other", "third"
OWNER = Owner("ci1", "deployer", 4711, "2026-11-22T02:00:00Z")
MOST_STEPS = 20


class Kind(NamedTuple):
    """Of what may be under a name."""

    verdict: Is
    digest: str = ""
    on: bool = False


KINDS = [
    Kind(Is.ABSENT),
    *(Kind(Is.COMPLETE, digest, on) for digest in (WANTED, OTHER) for on in (False, True)),
    Kind(Is.COMPLETE, THIRD),
    *(Kind(Is.IMPORTED, digest) for digest in (WANTED, OTHER)),
    Kind(Is.REMAINS, WANTED),
    Kind(Is.UNCLEAR, WANTED),
    *(Kind(Is.FOREIGN, on=on) for on in (False, True)),
    Kind(Is.COPY, WANTED),
]
WHOLE = {Is.COMPLETE, Is.IMPORTED, Is.FOREIGN, Is.COPY}


def there(kind: Kind, moid: str) -> There:
    if kind.verdict is Is.ABSENT:
        return NOTHING
    stamp = None if kind.verdict is Is.FOREIGN else Stamp(kind.digest, "r", OWNER)
    if kind.verdict in (Is.COMPLETE, Is.COPY) and stamp is not None:
        stamp = stamp.finished(None)
    return There(Machine(moid, moid, "poweredOn" if kind.on else "poweredOff", False, stamp), kind.verdict)


class Server:
    """``seen`` is what is there; it refuses what a server refuses."""

    def __init__(self, desired: Desired, seen: Seen) -> None:
        self.desired = desired
        self.seen = seen
        self.removed: list[There] = []
        self.powered_off: list[There] = []

    def do(self, step: Step) -> None:
        getattr(self, step.name.lower())()

    def _set(self, **names: There) -> None:
        self.seen = self.seen._replace(**names)

    def _move(self, source: str, target: str) -> None:
        assert getattr(self.seen, target) is NOTHING, f"the name of {target} is taken"
        self._set(**{target: getattr(self.seen, source), source: NOTHING})

    def _remove(self, name: str) -> None:
        it: There = getattr(self.seen, name)
        assert it.machine is not None
        assert not it.machine.powered_on, "a server removes no machine that runs"
        self.removed.append(it)
        self._set(**{name: NOTHING})

    def _power(self, name: str, state: str) -> None:
        it: There = getattr(self.seen, name)
        assert it.machine is not None
        self._set(**{name: There(it.machine._replace(power_state=state), it.verdict)})

    def remove_remains(self) -> None:
        gone = debris(self.desired, self.seen)
        assert gone
        for name in Seen._fields:
            it: There = getattr(self.seen, name)
            if it.machine is None or it.machine not in gone:
                continue
            if it.machine.powered_on:
                self.powered_off.append(it)
                self._power(name, "poweredOff")
            self._remove(name)

    def _adopt(self, name: str) -> None:
        machine = getattr(self.seen, name).machine
        self._set(**{name: There(machine._replace(stamp=machine.stamp.finished(None)), Is.COMPLETE)})

    def adopt(self) -> None:
        self._adopt("machine")

    def adopt_new(self) -> None:
        self._adopt("new")

    def _import(self, name: str) -> None:
        assert getattr(self.seen, name) is NOTHING, "the name is taken"
        self._set(**{name: there(Kind(Is.COMPLETE, WANTED), "imported")})

    def import_(self) -> None:
        self._import("machine")

    def import_new(self) -> None:
        self._import("new")

    def power_off(self) -> None:
        self.powered_off.append(self.seen.machine)
        self._power("machine", "poweredOff")

    def power_off_old(self) -> None:
        self.powered_off.append(self.seen.old)
        self._power("old", "poweredOff")

    def power_on(self) -> None:
        running = [it for it in self.seen if it.machine is not None and it.machine.powered_on]
        assert running == [], "its address may be theirs"
        self._power("machine", "poweredOn")

    def remove(self) -> None:
        self._remove("machine")

    def remove_old(self) -> None:
        self._remove("old")

    def put_back(self) -> None:
        self._move("old", "machine")

    def take_old(self) -> None:
        self._move("old", "new")

    def set_aside(self) -> None:
        self._move("machine", "old")

    def rename_new(self) -> None:
        self._move("new", "machine")


setattr(Server, "import", Server.import_)


def whole(seen: Seen) -> list[There]:
    return [it for it in seen if it.verdict in WHOLE]


def fitting(seen: Seen) -> list[There]:
    return [
        it
        for it in seen
        if it.verdict in (Is.COMPLETE, Is.IMPORTED) and it.machine is not None and it.machine.stamp is not None
        if it.machine.stamp.digest == WANTED
    ]


def walk(server: Server) -> bool:
    """Whether it comes to its end; else it was refused on the way."""
    try:
        may_come = steps(server.desired, server.seen)
    except Refused:
        return False
    done = []
    for _count in range(MOST_STEPS):
        try:
            left = steps(server.desired, server.seen)
        except Refused:
            assert set(done) <= {Step.REMOVE_REMAINS, Step.RENAME_NEW, Step.PUT_BACK, Step.ADOPT_NEW}, done
            return False
        if not left:
            return True
        assert left[0] in may_come, f"{left[0]} after {done}, of {may_come}"
        may_come.remove(left[0])
        had = len(whole(server.seen))
        server.do(left[0])
        done.append(left[0])
        if server.desired.state is not State.ABSENT and had:
            assert whole(server.seen), f"nothing whole is left after {done}"
    raise AssertionError(f"it comes to no end: {done}")


def asked(state: State, replace: bool, force: bool) -> Desired:
    return Desired("web1", state, None if state is State.ABSENT else WANTED, replace, force)


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
@pytest.mark.parametrize("replace", [False, True], ids=["", "replace"])
@pytest.mark.parametrize("state", [State.PRESENT, State.POWERED_ON, State.ABSENT])
def test_from_whatever_is_there(state, replace, force):
    ended = 0
    for kinds in product(KINDS, repeat=3):
        server = Server(asked(state, replace, force), Seen(*map(there, kinds, ("vm-1", "vm-2", "vm-3"))))
        before = server.seen
        try:
            done = walk(server)
            assert_nobody_is_hurt(server, before)
            if done:
                assert_as_declared(server, before)
        except AssertionError as error:
            raise AssertionError(f"{error}: {kinds}") from error
        ended += done
    assert ended, "some of them come to an end"


def assert_nobody_is_hurt(server: Server, before: Seen) -> None:
    force, state = server.desired.force, server.desired.state
    for it in server.removed:
        assert force or it.verdict not in (Is.FOREIGN, Is.COPY, Is.UNCLEAR)
    if state is not State.ABSENT:
        assert force or not server.powered_off
        if fitting(before):
            assert fitting(server.seen), "one that fits is not thrown away"


def assert_as_declared(server: Server, before: Seen) -> None:
    seen = server.seen
    assert (seen.new, seen.old) == (NOTHING, NOTHING)
    if server.desired.state is State.ABSENT:
        assert seen.machine is NOTHING
        return
    machine = seen.machine.machine
    assert seen.machine.verdict is Is.COMPLETE
    assert machine is not None
    assert machine.stamp is not None
    assert machine.stamp.digest == WANTED
    assert server.desired.state is State.PRESENT or machine.powered_on
    if fitting(before):
        assert machine.moid != "imported", "what is there is used"
