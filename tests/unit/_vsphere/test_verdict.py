# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine is, from its mark, its state and the server's tasks."""

from __future__ import annotations

import datetime

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.stamp import Owner, Stamp
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.machine import Machine
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.tasks import ImportTask
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.verdict import Is, candidates, is_certain, judge

IMPORTING = Stamp("d" * 64, "run", Owner("ci1", "deployer", 4711, "2026-11-22T02:00:00Z"))
NOON = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.timezone.utc)


def machine(stamp: Stamp | None = IMPORTING, power: str = "poweredOff", **given: object) -> Machine:
    return Machine("vm-1", "web1", power, bool(given.pop("template", False)), stamp, **given)  # type: ignore[arg-type]


def task(state: str, queued: int = -60, ended: int | None = None) -> ImportTask:
    """Times are seconds from noon."""
    second = datetime.timedelta(seconds=1)
    return ImportTask(
        key="task-1",
        entity="resgroup-1",
        entity_name="Resources",
        state=state,
        progress=None,
        user="deployer",
        queued_at=NOON + queued * second,
        ended_at=None if ended is None else NOON + ended * second,
        cancelable=True,
        error=None,
    )


@pytest.mark.parametrize(
    ("found", "tasks", "expected"),
    [
        pytest.param(None, [], Is.ABSENT, id="there is none"),
        pytest.param(machine(None), [], Is.FOREIGN, id="no mark"),
        pytest.param(machine(IMPORTING.finished(None)), [], Is.COMPLETE, id="marked as complete"),
        pytest.param(machine(IMPORTING.finished("u"), uuid="u"), [], Is.COMPLETE, id="marked as complete, itself"),
        pytest.param(machine(IMPORTING.finished("u"), uuid="v"), [], Is.COPY, id="a clone bears the mark of another"),
        pytest.param(machine(), [task("running")], Is.UNDER_WAY, id="its task runs"),
        pytest.param(machine(), [task("queued")], Is.UNDER_WAY, id="its task is about to"),
        pytest.param(machine(), [task("success")], Is.IMPORTED, id="its task succeeded"),
        pytest.param(machine(), [task("error")], Is.REMAINS, id="its task failed"),
        pytest.param(machine(), [task("success"), task("error")], Is.UNCLEAR, id="one of two tasks succeeded"),
        pytest.param(machine(), [task("success"), task("running")], Is.UNDER_WAY, id="one of two runs"),
        pytest.param(machine(), [], Is.UNCLEAR, id="no task is known any more"),
        pytest.param(machine(disabled=("PowerOnVM_Task",)), [], Is.UNDER_WAY, id="a lease keeps it locked"),
        pytest.param(machine(power="poweredOn"), [], Is.IMPORTED, id="it runs, so somebody has use of it"),
        pytest.param(machine(power="suspended"), [], Is.IMPORTED, id="it has run, and is suspended"),
        pytest.param(machine(used_before=True), [task("error")], Is.IMPORTED, id="it has run"),
        pytest.param(machine(template=True), [], Is.IMPORTED, id="it was made a template"),
    ],
)
def test_judge(found, tasks, expected):
    assert judge(found, tasks) is expected


@pytest.mark.parametrize(
    ("queued", "ended", "meant"),
    [(-60, None, True), (-60, 60, True), (-60, -1, False), (1, None, False)],
    ids=["it runs", "it was under way then", "it had ended before", "it came later"],
)
def test_candidates(queued, ended, meant):
    tasks = [task("success", queued, ended)]
    assert candidates(machine(created_at=NOON), tasks) == (tasks if meant else [])


def test_without_a_time_of_creation_any_import_may_be_meant():
    tasks = [task("success", 5), task("running", -5)]
    assert candidates(machine(), tasks) == tasks


def test_a_task_that_names_a_machine_is_that_machines_alone():
    own = task("success", 5)._replace(entity="vm-1", entity_kind="VirtualMachine")
    others = task("error")._replace(entity="vm-2", entity_kind="VirtualMachine")
    assert candidates(machine(created_at=NOON), [task("error"), own, others]) == [own]
    assert is_certain(machine(), [own])
    assert candidates(machine(created_at=NOON), [others]) == []


def test_a_task_that_names_another_pool_is_none_of_its():
    pooled = task("error")._replace(entity_kind="ResourcePool")
    assert candidates(machine(created_at=NOON, pool="resgroup-1"), [pooled]) == [pooled]
    assert not is_certain(machine(), [pooled])
    assert candidates(machine(created_at=NOON, pool="resgroup-2"), [pooled]) == []
