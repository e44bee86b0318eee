# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which task makes which machine, what is left of those that have ended, and which imports are to be cancelled."""

from __future__ import annotations

import datetime

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import Outcome, converge
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.stamp import Owner, Stamp
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.cleanup import (
    Fate,
    ImportCleanup,
    NotCancelled,
    Wish,
    fate,
    is_meant,
    same_user,
    wish_from,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.imports import Imports, sort, told
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.machine import Machine
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.session import Endpoint, Patience
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.tasks import ImportTask
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.visit import Visit

POOL = "resgroup-1"
OTHER_POOL = "resgroup-2"
OWNER = Owner("ci1", "deployer", 4711, "2026-11-22T02:00:00Z")
LOCK = ("PowerOnVM_Task",)
ADMIN = "VSPHERE.LOCAL\\Administrator"


def at(minute: float) -> datetime.datetime:
    """So many minutes after the beginning."""
    return datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc) + datetime.timedelta(minutes=minute)


def task(key: str, queued: float, state: str = "running", ended: float | None = None, **more: object) -> ImportTask:
    values = {
        "key": key,
        "entity": POOL,
        "entity_name": "Resources",
        "state": state,
        "progress": 7,
        "user": ADMIN,
        "queued_at": at(queued),
        "ended_at": None if ended is None else at(ended),
        "cancelable": True,
        "error": None,
        "entity_kind": "ResourcePool",
    }
    return ImportTask(**{**values, **more})


def failed(key: str, queued: float, ended: float) -> ImportTask:
    return task(key, queued, "error", ended)


def ours(moid: str, created: float | None, **more: object) -> Machine:
    """A machine that an import of ours has made, and not completed."""
    made = None if created is None else at(created)
    return Machine(moid, moid, "poweredOff", False, Stamp("d", "r", OWNER), created_at=made)._replace(**more)


def theirs(moid: str, created: float, **more: object) -> Machine:
    return ours(moid, created, stamp=None)._replace(**more)


@pytest.mark.parametrize(
    ("tasks", "machines", "made"),
    [
        pytest.param([task("a", 1)], [], {"a": None}, id="not there yet"),
        pytest.param([task("a", 1)], [ours("m", 2)], {"a": "m"}, id="ours"),
        pytest.param([task("a", 1)], [theirs("m", 2, disabled=LOCK)], {"a": "m"}, id="another client's"),
        pytest.param([task("a", 1)], [theirs("m", 2)], {"a": None}, id="one that nobody is making"),
        pytest.param(
            [task("a", 1)],
            [theirs("m", 2, disabled=LOCK, power_state="poweredOn", used_before=True)],
            {"a": None},
            id="one that runs can't be powered on either",
        ),
        pytest.param([task("a", 3)], [ours("m", 2)], {"a": None}, id="older than the task"),
        pytest.param(
            [task("a", 1), task("b", 3)],
            [ours("n", 4), ours("m", 2)],
            {"a": "m", "b": "n"},
            id="the first is one's, so the second is the other's",
        ),
        pytest.param(
            [task("a", 1), task("b", 2)],
            [ours("m", 3), ours("n", 4)],
            {"a": None, "b": None},
            id="either could be either's",
        ),
        pytest.param([task("a", 1), task("b", 2)], [ours("m", 3)], {"a": None, "b": None}, id="one machine of two"),
        pytest.param([task("a", 1)], [ours("m", 2), ours("n", 3)], {"a": None}, id="two machines of one"),
        pytest.param(
            [task("a", 1)],
            [ours("m", 2), ours("n", 3, disabled=LOCK)],
            {"a": "n"},
            id="debris beside the one that is locked",
        ),
        pytest.param([task("a", 1)], [ours("m", None)], {"a": "m"}, id="an older server tells no time of creation"),
        pytest.param(
            [task("a", 1)], [ours("m", 2, stamp=Stamp("d"))], {"a": None}, id="one that was completed meanwhile"
        ),
    ],
)
def test_which_task_makes_which_machine(tasks, machines, made):
    found = sort(at(10), tasks, {POOL: machines})
    assert {item.task.key: item.machine.moid if item.machine else None for item in found.running} == made


def test_the_machines_of_another_pool_are_none_of_its():
    tasks = [task("a", 1), task("b", 1, entity=OTHER_POOL)]
    found = sort(at(10), tasks, {POOL: [ours("m", 2)], OTHER_POOL: [ours("n", 2)]})
    assert [(item.task.key, item.machine.moid) for item in found.running if item.machine] == [("a", "m"), ("b", "n")]


def test_the_oldest_comes_first_with_its_age():
    found = sort(at(10), [task("b", 4), task("a", 1), failed("c", 0, 1)], {})
    assert [(item.task.key, item.age_s) for item in found.running] == [("a", 540), ("b", 360)]


@pytest.mark.parametrize(
    ("tasks", "machines", "left"),
    [
        pytest.param([failed("a", 1, 5)], [ours("m", 2)], ["m"], id="debris"),
        pytest.param([], [ours("m", 2)], [], id="the task is forgotten: it may be whole"),
        pytest.param([task("a", 1, "success", 5)], [ours("m", 2)], [], id="whole, and not marked so"),
        pytest.param([task("a", 1, "success", 5), failed("b", 1, 5)], [ours("m", 2)], [], id="perhaps whole"),
        pytest.param([failed("a", 1, 5)], [theirs("m", 2)], [], id="without our mark"),
        pytest.param([failed("a", 1, 5)], [ours("m", 2, stamp=Stamp("d"))], [], id="complete"),
        pytest.param([failed("a", 1, 5)], [ours("m", 2, used_before=True)], [], id="it ran, so it is whole"),
        pytest.param([failed("a", 1, 5)], [ours("m", 2, power_state="poweredOn")], [], id="it runs"),
        pytest.param([failed("a", 1, 5)], [ours("m", 2, disabled=LOCK)], [], id="the server isn't done with it"),
        pytest.param([failed("a", 1, 5)], [ours("m", 6)], [], id="made after that task's end"),
        pytest.param([failed("a", 1, 5), task("b", 1)], [ours("m", 2)], [], id="one that may make it still runs"),
        pytest.param(
            [failed("a", 1, 5), task("b", 1)],
            [ours("m", 2), ours("n", 6, disabled=LOCK)],
            ["m"],
            id="the one that runs makes another",
        ),
    ],
)
def test_what_is_left(tasks, machines, left):
    found = sort(at(10), tasks, {POOL: machines})
    assert [item.machine.moid for item in found.remains] == left
    assert all(not one.running for item in found.remains for one in item.tasks)


def test_what_is_told_of_an_import():
    [found] = sort(at(10), [task("a", 1)], {POOL: [ours("m", 2)]}).running
    assert told(found)["owner"] == OWNER._asdict()
    assert told(found._replace(machine=None))["owner"] is None


def wish(**given: object) -> Wish:
    return Wish(0, None, None, None, 60)._replace(**given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, True),
        ({"entity": POOL}, True),
        ({"entity": "Resources"}, True),
        ({"entity": "elsewhere"}, False),
        ({"initiator": "administrator"}, True),
        ({"initiator": "somebody"}, False),
    ],
)
def test_which_imports_are_meant(given, meant):
    assert is_meant(task("a", 1), wish(**given), at(2)) is meant
    assert not is_meant(task("a", 2.5), wish(**given), at(2))


@pytest.mark.parametrize(
    ("one", "watched", "expected"),
    [
        pytest.param(task("a", 1), {"a": 7}, Fate.CANCEL, id="it stands still"),
        pytest.param(task("a", 1, progress=None), {"a": None}, Fate.CANCEL, id="it never told a percentage"),
        pytest.param(task("a", 1), {"a": 6}, Fate.MOVING, id="it has got on"),
        pytest.param(task("a", 1), {"a": None}, Fate.MOVING, id="it has begun to tell"),
        pytest.param(task("a", 1), {}, Fate.MOVING, id="it was not there at the first look"),
        pytest.param(task("a", 1), None, Fate.CANCEL, id="whatever it does"),
        pytest.param(task("a", 1, cancelable=False), {"a": 7}, Fate.NOT_CANCELABLE, id="it can't be cancelled"),
        pytest.param(task("a", 1, cancelable=False), {"a": 6}, Fate.MOVING, id="it need not be"),
        pytest.param(task("a", 1, cancelable=False), None, Fate.NOT_CANCELABLE, id="nor by force"),
    ],
)
def test_what_becomes_of_an_import(one, watched, expected):
    assert fate(one, watched) is expected


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        ("VSPHERE.LOCAL\\Administrator", True),
        ("vsphere.local\\administrator", True),
        ("administrator@vsphere.local", True),
        ("Administrator", True),
        ("administrator@elsewhere", False),
        ("ELSEWHERE\\Administrator", False),
        ("admin", False),
    ],
)
def test_a_user_by_any_spelling(asked, same):
    assert same_user(ADMIN, asked) is same
    assert same_user("Administrator@VSPHERE.LOCAL", asked) is same


def test_a_user_without_a_domain_is_of_none():
    assert same_user("root", "root")
    assert not same_user("root", "root@vsphere.local")


def params(**given: object) -> dict[str, object]:
    options = {"older_than": 3600, "watch": 60, "force": False, "timeout": 300}
    return {**options, **dict.fromkeys(("name", "entity", "initiator")), **given}


def test_options():
    assert wish_from(params()) == Wish(3600, None, None, None, 60)
    assert wish_from(params(force=True, watch=1000)).watch_s is None


@pytest.mark.parametrize("given", [{"older_than": -1}, {"watch": 0}, {"watch": 300}, {"timeout": 0}])
def test_options_that_make_no_sense(given):
    with pytest.raises(BadInput, match=next(iter(given))):
        wish_from(params(**given))


def checked(*looks: Imports, **given: object) -> tuple[Outcome[Imports], ImportCleanup]:
    """What check mode makes of what is seen, look by look. No server is asked."""
    deadline = Deadline(60)
    visit = Visit(Endpoint("nowhere.invalid", 443, "nobody", "-", Patience(60)), deadline)
    subject = ImportCleanup(wish(watch_s=0.01, **given), visit, iter(looks).__next__, deadline)
    return converge(subject, check_mode=True), subject


def seen(*tasks: ImportTask, machines: tuple[Machine, ...] = ()) -> Imports:
    return sort(at(10), tasks, {POOL: machines})


def test_they_are_watched_before_it_is_told_what_would_be_cancelled():
    outcome, subject = checked(
        seen(task("a", 1), task("b", 1)), seen(task("a", 1, progress=8), task("b", 1), task("c", 1))
    )
    assert [item["task"] for item in subject.extras()["cancelled"]] == ["b"]
    assert [item["task"] for item in subject.extras()["moving"]] == ["a", "c"]
    assert [item["task"] for item in outcome.before["imports"]] == ["a", "b", "c"]
    assert [item["task"] for item in outcome.after["imports"]] == ["a", "c"]


def test_young_ones_are_not_waited_for():
    outcome, subject = checked(seen(task("a", 1)), older_than_s=3600)
    assert not outcome.changed
    assert subject.extras()["cancelled"] == subject.extras()["moving"] == []


def test_they_grow_no_older_while_they_are_watched():
    later = seen(task("a", 1), task("b", 5.5))._replace(now=at(12))
    _outcome, subject = checked(seen(task("a", 1), task("b", 5.5)), later, older_than_s=300)
    assert [item["task"] for item in subject.extras()["cancelled"]] == ["a"]


def test_what_nobody_can_cancel_fails_the_task():
    here = seen(task("a", 1, cancelable=False))
    with pytest.raises(NotCancelled, match="An import into Resources"):
        checked(here, here)


def test_what_can_be_cancelled_goes_first():
    here = seen(task("a", 1, cancelable=False), task("b", 1))
    outcome, subject = checked(here, here)
    assert outcome.changed
    assert [item["task"] for item in subject.extras()["cancelled"]] == ["b"]
    assert [item["id"] for item in subject.extras()["not_ended"]] == ["a"]


def test_by_the_name_of_a_machine_none_is_meant_that_may_make_another():
    here = seen(task("a", 1), task("b", 2), machines=(ours("m", 3), ours("n", 4)))
    outcome, subject = checked(here, name="m")
    assert not outcome.changed
    assert "a, b" in " ".join(subject.warnings())
    assert checked(here, here)[1].warnings() == []


def test_debris_is_meant_if_its_import_is():
    here = seen(failed("a", 1, 5), machines=(ours("m", 2),))
    outcome, subject = checked(here)
    assert outcome.before["remains"] == subject.extras()["removed"] == [{"moref": "m", "name": "m"}]
    assert outcome.after["remains"] == []
    for given in ({"older_than_s": 3600}, {"name": "n"}, {"entity": "elsewhere"}, {"initiator": "somebody"}):
        assert not checked(here, **given)[0].changed, given
    assert checked(here, name="m")[0].changed
