# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be done about a machine: pure, from what was asked and what is there."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from .._core.errors import Refused
from .._ovf.stamp import PACKAGE, Stamp, differing
from .machine import Machine
from .verdict import Is


class State(str, Enum):
    """What the option ``state`` asks for."""

    PRESENT = "present"
    POWERED_ON = "poweredon"
    TEMPLATE = "template"
    ABSENT = "absent"


class Step(str, Enum):
    """In the order in which they are done."""

    REMOVE_REMAINS = "remove what is left of an earlier import"
    ADOPT = "mark as complete"
    ADOPT_NEW = "mark the new one as complete"
    IMPORT = "import"
    IMPORT_NEW = "import beside the old one"
    POWER_OFF = "power off"
    REMOVE = "remove"
    PUT_BACK = "give the old one its name back"
    TAKE_OLD = "take the old one again"
    SET_ASIDE = "set the old one aside"
    RENAME_NEW = "give the new one the name"
    POWER_OFF_OLD = "power off the old one"
    REMOVE_OLD = "remove the old one"
    POWER_ON = "power on"
    AWAIT_ADDRESS = "wait for its address"
    MAKE_TEMPLATE = "make a template"


class Desired(NamedTuple):
    """``digest`` is that of the descriptor and of the choices; None for ``absent``. ``inputs`` are those of each."""

    name: str
    state: State
    digest: str | None
    replace: bool = False
    force: bool = False
    wait_for_ip: bool = False
    inputs: Mapping[str, str] = {}


class There(NamedTuple):
    """A machine of one name, or none."""

    machine: Machine | None
    verdict: Is


NOTHING = There(None, Is.ABSENT)


class Seen(NamedTuple):
    """What has the wanted name, the name that a new one bears until it takes that one's place, and the name that the
    old one bears from then on until it is removed.
    """

    machine: There
    new: There
    old: There = NOTHING


# Why a machine is none that this module may change unasked.
_NOT_OURS = {
    Is.FOREIGN: "it bears no mark of having been imported by this module",
    Is.COPY: "it is a copy of a machine that this module imported",
}


def steps(desired: Desired, seen: Seen) -> list[Step]:
    """In what order a machine takes another's place: nothing is removed before its successor bears the name, and runs
    if it is to. So at every moment one of the two is there, and whole.

    Raises Refused.
    """
    _refuse_under_way(desired, seen)
    if desired.state is State.ABSENT:
        return _removal(desired, seen)
    left = debris(desired, seen)
    for machine in left:
        _refuse_in_use(desired, machine, "remove")
    found = [Step.REMOVE_REMAINS] if left else []
    if _is_gone(desired, seen.old):
        seen = seen._replace(old=NOTHING)
    if _is_gone(desired, seen.machine):
        return found + _of_nameless(desired, seen)
    here, _new, old = seen
    if here.verdict is Is.IMPORTED:
        found.append(Step.ADOPT)
    if not _fits(desired, here):
        return found + _replacement(desired, seen)
    if old.machine is not None:
        _refuse_in_use(desired, old.machine, "remove")
    return [*found, *_powered_off(old), *_finish(desired, here.machine), *_removed(old)]


def _of_nameless(desired: Desired, seen: Seen) -> list[Step]:
    """Where nothing has the name. A run may have been killed when the one had it no more, and the other not yet."""
    _here, new, old = seen
    adopted = [Step.ADOPT_NEW] if new.verdict is Is.IMPORTED else []
    if _waits(desired, new):
        return [
            *adopted,
            Step.RENAME_NEW,
            *_powered_off(old),
            *_finish(desired, new.machine),
            *_removed(old),
        ]
    if old.machine is not None and (_fits(desired, old) or not _is_whole(new)):
        return [Step.PUT_BACK, *_once_named(desired, Seen(old, new if _is_whole(new) else NOTHING))]
    if _is_whole(new):
        named = Seen(There(new.machine, Is.COMPLETE), NOTHING, old)
        return [*adopted, Step.RENAME_NEW, *_once_named(desired, named)]
    return [Step.IMPORT, *_finish(desired, None)]


def _once_named(desired: Desired, seen: Seen) -> list[Step]:
    """What then is refused is so when it comes to that: first a machine gets its name, which needs nobody's leave."""
    try:
        return steps(desired, seen)
    except Refused:
        return []


def _replacement(desired: Desired, seen: Seen) -> list[Step]:
    """Raises Refused."""
    here, new, old = seen
    _refuse_other(desired, here)
    if _waits(desired, new):
        found = [Step.ADOPT_NEW] if new.verdict is Is.IMPORTED else []
    elif _fits(desired, old):
        return [Step.TAKE_OLD, *_replacement(desired, Seen(here, old))]
    else:
        found = [Step.IMPORT_NEW]
    if old.machine is not None:  # its name is needed
        _refuse_in_use(desired, old.machine, "remove")
        found = [*_powered_off(old), *_removed(old), *found]
    machine = new.machine if _waits(desired, new) else None
    return [
        *found,
        Step.SET_ASIDE,
        Step.RENAME_NEW,
        *_powered_off(here),
        *_finish(desired, machine),
        *_removed(here),
    ]


def _powered_off(old: There) -> list[Step]:
    return [Step.POWER_OFF_OLD] if old.machine is not None and old.machine.powered_on else []


def _removed(old: There) -> list[Step]:
    return [Step.REMOVE_OLD] if old.machine is not None else []


def debris(desired: Desired, seen: Seen) -> list[Machine]:
    """The machines that REMOVE_REMAINS removes: what is left of imports, and a whole new one that nobody wants any more
    where there is another machine.
    """
    here, new = seen.machine, seen.new
    kept = desired.state is not State.ABSENT and _is_whole(new)
    if kept and not _is_gone(desired, here):
        kept = _waits(desired, new) and not _fits(desired, here)
    left = [there for there in (here, seen.old) if _is_given_up(desired, there)]
    left += [] if kept else [new]
    return [there.machine for there in left if there.machine is not None]


def _is_gone(desired: Desired, here: There) -> bool:
    return here.verdict is Is.ABSENT or _is_given_up(desired, here)


def _is_whole(there: There) -> bool:
    return there.verdict in (Is.COMPLETE, Is.IMPORTED)


def _is_given_up(desired: Desired, there: There) -> bool:
    """Whether a machine is what is left of an import; where nobody can tell, the user may say so by ``force``."""
    return there.verdict is Is.REMAINS or (there.verdict is Is.UNCLEAR and desired.force)


def _refuse_under_way(desired: Desired, seen: Seen) -> None:
    for there in (seen.new, seen.old):
        # one that was not ours may have been set aside, by force
        if there.machine is None or there.verdict not in _NOT_OURS or (there is seen.old and desired.force):
            continue
        raise Refused(
            "touch %s" % there.machine.name,
            "%s, but it has the name that only this module gives" % _NOT_OURS[there.verdict],
            "Rename or remove it",
        )
    for there in seen:
        if there.machine is None or there.verdict not in (Is.UNDER_WAY, Is.UNCLEAR) or _is_given_up(desired, there):
            continue
        stamp = there.machine.stamp
        owner = _told(stamp)
        if there.verdict is Is.UNDER_WAY:
            raise Refused(
                "touch %s" % there.machine.name,
                "it is being imported by %s" % owner,
                "Wait until that import has ended, or cancel its task in vCenter",
            )
        raise Refused(
            "touch %s" % there.machine.name,
            "%s imported it, and the server's tasks don't tell whether that came to a good end" % owner,
            "Look at the machine: if it is whole, power it on and run the task while it runs, which takes it over; if "
            "not, set force=true to have it removed",
        )


def _told(stamp: Stamp | None) -> str:
    owner = stamp.owner if stamp is not None else None
    if owner is None:
        return "a task that isn't known"
    return "process %d of %s on %s, begun at %s," % (owner.pid, owner.user, owner.host, owner.started)


def _removal(desired: Desired, seen: Seen) -> list[Step]:
    here = seen.machine
    found = []
    if debris(desired, seen):
        found.append(Step.REMOVE_REMAINS)
    if not _is_gone(desired, seen.old):
        found += [*_powered_off(seen.old), *_removed(seen.old)]
    if _is_gone(desired, here):
        return found
    if here.verdict in _NOT_OURS and not desired.force:
        raise Refused(
            "remove %s" % desired.name, _NOT_OURS[here.verdict], "If it is the one that is meant, set force=true"
        )
    if here.machine is not None and here.machine.powered_on:
        found.append(Step.POWER_OFF)
    return [*found, Step.REMOVE]


def _refuse_other(desired: Desired, here: There) -> None:
    if here.verdict in _NOT_OURS and not (desired.replace and desired.force):
        raise Refused(
            "import %s" % desired.name,
            "a machine of this name is there, and %s" % _NOT_OURS[here.verdict],
            "Choose another name, or remove it; replace=true with force=true puts the new one in its place",
        )
    if not desired.replace:
        names = _differing(desired, here)
        raise Refused(
            "import %s" % desired.name,
            "a machine of this name is there, imported %s" % _otherwise(names),
            "Choose another name, or set replace=true to have the new one take its place",
            differs=names,
        )
    if here.machine is not None:
        _refuse_in_use(desired, here.machine)


def _differing(desired: Desired, here: There) -> list[str]:
    """What of the package and the choices is another; nothing where the machine's stamp doesn't tell."""
    stamp = here.machine.stamp if here.machine is not None else None
    return differing(stamp.inputs, desired.inputs) if stamp is not None and stamp.inputs else []


def _otherwise(names: list[str]) -> str:
    if not names:
        return "from another package or with other choices"
    choices = [name for name in names if name != PACKAGE]
    told = ["from another package"] if PACKAGE in names else []
    told += ["with other choices (%s)" % ", ".join(choices)] if choices else []
    return " and ".join(told)


def _refuse_in_use(desired: Desired, machine: Machine, what: str = "replace") -> None:
    if machine.in_use and not desired.force:
        raise Refused(
            "%s %s" % (what, machine.name),
            "it is powered on or suspended",
            "Power it off first, or set force=true to have that done",
        )


def _finish(desired: Desired, machine: Machine | None) -> list[Step]:
    """What is to become of a machine, None: of one that is imported anew. Raises Refused."""
    if desired.state is State.POWERED_ON:
        return _run(desired, machine)
    if desired.state is State.TEMPLATE and (machine is None or not machine.template):
        if machine is not None and machine.in_use:
            raise Refused("make %s a template" % desired.name, "it is powered on or suspended", "Power it off first")
        return [Step.MAKE_TEMPLATE]
    return []


def _run(desired: Desired, machine: Machine | None) -> list[Step]:
    """An address counts only of a machine that runs; one that has none yet is waited for on every run."""
    waits = [Step.AWAIT_ADDRESS] if desired.wait_for_ip else []
    if machine is None or not machine.powered_on:
        if machine is not None and machine.template:
            raise Refused("power on %s" % desired.name, "it is a template", "Make it a virtual machine again first")
        return [Step.POWER_ON, *waits]
    return [] if machine.reachable else waits


def _fits(desired: Desired, there: There) -> bool:
    return there.verdict is not Is.COPY and _digest(there) == desired.digest


def _waits(desired: Desired, new: There) -> bool:
    """Whether the new one is whole, and only its name is still to be given to it."""
    return _is_whole(new) and _digest(new) == desired.digest


def _digest(there: There) -> str | None:
    stamp = there.machine.stamp if there.machine is not None else None
    return stamp.digest if stamp is not None else None
