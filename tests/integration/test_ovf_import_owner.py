# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is whose: machines and tasks that look like an import's own and are others', and those that nobody knows."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.testbed.importing import NAME, PATH, Importing, end_both, finish, guards_of, importing
from tests.testbed.modules import run_module

COPY = "web2"
SERVERS = {
    "tasks name the machine, and leases let it be destroyed": {
        "task_names_machine": True,
        "lease_allows_destroy": True,
    },
    "tasks name the pool, and leases forbid that": {"task_names_machine": False, "lease_allows_destroy": False},
}


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS))
def bench(tmp_path, request):
    with importing(tmp_path) as made:
        made.server.set(**request.param)
        yield made


def lives(bench: Importing, name: str) -> bool:
    return name in [lease["entity_name"] for lease in bench.server.live_leases]


@contextmanager
def beside(bench: Importing) -> Iterator[None]:
    """Another import, of the same user into the same pool, that begins now and goes on until the test ends."""
    rule = bench.server.upload_rule("silent")
    process = bench.start(name="beside", stall_timeout=300, timeout=600)
    bench.await_uploads()
    yield
    assert lives(bench, "beside"), "it was ended by somebody else"
    bench.server.release_uploads(rule)
    result = finish(process)
    assert result.changed, result.msg
    assert not result.failed


def orphaned_beside(bench: Importing, do: str) -> str:
    """How the lease ended of an import whose guard was killed before the server's answer, and beside which another one
    began.
    """
    rule = bench.server.rule("ImportVApp", do, times=1)
    process = bench.start()
    bench.server.wait_held(rule)
    with beside(bench):
        os.kill(guards_of(process)[0], signal.SIGKILL)
        bench.server.release(rule)
        result = finish(process)
        assert result.failed
        assert bench.machines() == []
        assert not lives(bench, NAME)
    return str(result.json["lease"]["outcome"])


def test_of_two_imports_that_begin_at_once_the_one_without_an_answer_is_ended(bench):
    assert orphaned_beside(bench, "hold") == "aborted"


def test_of_two_imports_that_begin_at_once_the_other_goes_on_where_ours_did_not(bench):
    assert orphaned_beside(bench, "hold_drop") == "unknown"


def test_a_login_that_expired_ends_its_own_import_alone(bench):
    rule = bench.server.upload_rule("silent")
    process = bench.start(retries=0)
    bench.await_uploads()
    bench.server.expire_sessions()
    other = bench.start(name="beside", stall_timeout=300, timeout=600)
    bench.await_uploads(2)
    bench.server.release_uploads(rule)
    assert finish(process).failed
    assert finish(other).changed


def test_its_completion_is_found_in_the_history(bench):
    bench.killed_before_its_mark()
    bench.server.forget_tasks()
    result = bench.run()
    assert not result.failed, result.msg
    assert bench.server.counts["ImportVApp"] == 1
    assert bench.stamp()["vmops.ovf.state"] == "complete"


def test_its_failure_is_found_in_the_history(bench):
    bench.server.set(abort_keeps_vm=True)
    bench.server.upload_rule("silent")
    process = bench.start()
    bench.await_uploads()
    end_both(process)
    bench.server.release_uploads()
    bench.server.fail_leases("Timedout")
    bench.server.forget_tasks()
    assert bench.machines() == [PATH]
    result = bench.run()
    assert result.changed, result.msg
    assert bench.server.counts["ImportVApp"] == 2
    assert bench.machines() == [PATH]
    assert bench.stamp()["vmops.ovf.state"] == "complete"


def test_a_neighbour_that_failed_tells_nothing_of_it(bench):
    """Ours is whole and not marked, and its task is forgotten; another, into the same pool at that time, failed."""
    rule = bench.server.upload_rule("silent", times=1)
    neighbour = bench.start(name="beside", stall_timeout=300, timeout=600)
    bench.await_uploads()
    bench.killed_before_its_mark()
    bench.server.forget_tasks()
    bench.server.fail_leases("Timedout")
    bench.server.release_uploads(rule)
    assert finish(neighbour).failed
    connection = {**bench.server.options, "ca_path": str(bench.server.cafile)}
    cleaned = run_module("ovf_import_cleanup", {**connection, "older_than": 0, "force": True})
    assert cleaned.json["removed"] == []
    bench.run()
    assert bench.machines() == [PATH]
    assert bench.server.counts["ImportVApp"] == 2


@pytest.fixture
def unknown(bench):
    """A machine of which no task tells any more how its import ended."""
    bench.killed_before_its_mark()
    bench.server.forget_tasks()
    bench.server.fault("CreateCollectorForTasks", "NotSupported")
    return bench


@pytest.mark.parametrize("state", ["present", "absent"])
def test_what_is_perhaps_whole_is_left_alone(unknown, state):
    result = unknown.run(state=state)
    assert result.failed
    assert "don't tell whether that came to a good end" in result.msg
    assert unknown.machines() == [PATH]
    assert unknown.run(state=state, force=True).changed
    assert unknown.machines() == ([PATH] if state == "present" else [])
    assert unknown.server.counts["ImportVApp"] == (2 if state == "present" else 1)


@pytest.mark.parametrize("command", [["vm.power", "-on"], ["snapshot.create", "-vm"]], ids=["runs", "has a snapshot"])
def test_what_is_perhaps_whole_and_was_used_is_taken_over(unknown, command):
    unknown.server.govc(*command, PATH, *(["mine"] if command[0] == "snapshot.create" else []))
    result = unknown.run()
    assert not result.failed, result.msg
    assert unknown.server.counts["ImportVApp"] == 1
    assert unknown.stamp()["vmops.ovf.state"] == "complete"


def test_a_clone_is_not_the_machine_that_was_imported(bench):
    assert bench.run().changed
    bench.server.govc("vm.clone", "-vm", PATH, "-on=false", "-ds", "LocalDS_0", "-cluster", "DC0_C0", COPY)
    # the simulator's clones come without the extra configuration, which vCenter copies
    marks = [word for key, value in bench.stamp().items() for word in ("-e", f"{key}={value}")]
    bench.server.govc("vm.change", "-vm", COPY, *marks)
    for options in ({}, {"replace": True}, {"state": "absent"}, {"state": "poweredon"}):
        result = bench.run(name=COPY, **options)
        assert result.failed
        assert "it is a copy of a machine that this module imported" in result.msg
    assert not bench.run().changed
    assert f"/DC0/vm/{COPY}" in bench.server.machines()
    assert bench.run(name=COPY, state="absent", force=True).changed
    assert f"/DC0/vm/{COPY}" not in bench.server.machines()


def test_a_machine_that_was_moved_on_keeps_its_mark(bench):
    """Another name is given to it, and the task with that name finds it as it was."""
    assert bench.run().changed
    bench.server.govc("object.rename", PATH, COPY)
    assert not bench.run(name=COPY).changed
    assert Path(PATH).name not in bench.server.machines()
