# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import where one machine takes another's place: ended between any two of its steps, and two at the same time.
A whole machine is there at every moment, and the next run leads to the new one.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.testbed.faults import until
from tests.testbed.importing import NAME, PATH, Importing, finish, importing

ANOTHER = {"annotation": "new", "replace": True}
# How many names are looked for to see what is there.
LOOK = 3
REPLACE = {**ANOTHER, "force": True, "state": "poweredon"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with importing(tmp_path_factory.mktemp("replace")) as found:
        yield found


@pytest.fixture
def bench(server):
    yield server
    server.server.release()
    server.server.release_uploads()
    server.server.fail_leases("SystemError")
    for path in server.machines():
        server.server.govc("vm.destroy", path)
    server.server.expire_sessions()
    server.server.forget_uploads()
    server.server.forget_calls()


def morefs(bench: Importing) -> dict[str, str]:
    """The machines' ids by their names."""
    machines = bench.server.govc_json("vm.info", "/DC0/vm/" + NAME + "*")["virtualMachines"]
    return {machine["name"]: machine["self"]["value"] for machine in machines or ()}


def old_one(bench: Importing, state: str = "poweredon") -> None:
    """A machine that is to be replaced."""
    first = bench.run(annotation="old", state=state)
    assert first.changed, first.msg


def notes(bench: Importing) -> str:
    machine = bench.server.govc_json("vm.info", PATH)["virtualMachines"][0]
    return str(machine["config"]["annotation"])


def assert_replaced(bench: Importing) -> None:
    bench.assert_imported()
    assert notes(bench) == "new"


STEPS = [
    pytest.param("ReconfigVM_Task", 1, id="marked as whole"),
    pytest.param("Rename_Task", 1, id="old one set aside"),
    pytest.param("Rename_Task", 2, id="new one named"),
    pytest.param("PowerOffVM_Task", 1, id="old one off"),
    pytest.param("PowerOnVM_Task", 1, id="new one on"),
    pytest.param("Destroy_Task", 1, id="old one removed"),
]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(("step", "nth"), STEPS)
def test_ended_after_a_step(bench, step, nth, number):
    old_one(bench)
    old = morefs(bench)[NAME]
    rule = bench.server.rule(step, "hold_reply", first=nth, times=1)
    process = bench.start(**REPLACE)
    bench.server.wait_held(rule)
    os.kill(process.pid, number)
    bench.server.release(rule)
    result = finish(process)
    if number is signal.SIGTERM:
        assert "Stopped by SIGTERM" in result.msg or not result.failed
    until(lambda: not bench.server.sessions, "the guard to log out")
    assert bench.server.live_leases == []
    left = morefs(bench)
    assert old in left.values() or left[NAME] != old, "the old one goes only when the new one has its name"
    again = bench.run(**REPLACE)
    assert not again.failed, again.msg
    assert bench.server.counts["ImportVApp"] == 2, "the new one that was whole is used"
    assert_replaced(bench)
    assert "poweredOn" in bench.server.govc("vm.info", PATH)


def test_again_and_again(bench):
    """The machine's files keep the name that it had while it was imported."""
    for annotation in ("old", "new", "old", "new"):
        result = bench.run(annotation=annotation, replace=True)
        assert result.changed, result.msg
        bench.assert_imported()
        assert notes(bench) == annotation


@pytest.mark.parametrize("nth", [1, 2], ids=["old one", "new one"])
def test_one_who_may_not_rename_loses_nothing(bench, nth):
    old_one(bench)
    old = morefs(bench)[NAME]
    bench.server.fault("Rename_Task", "NoPermission", first=nth, times=1)
    result = bench.run(**REPLACE)
    assert result.failed
    assert "Renaming" in result.msg
    assert "NoPermission" in result.msg
    assert old in morefs(bench).values()
    assert "poweredOn" in bench.server.govc("vm.info", "/DC0/vm/" + NAME + "*"), "it still runs"
    again = bench.run(**REPLACE)
    assert not again.failed, again.msg
    assert bench.server.counts["ImportVApp"] == 2, "the new one that was whole is used"
    assert_replaced(bench)


def test_the_new_one_is_lost_before_it_has_the_name(bench):
    old_one(bench, "present")
    old = morefs(bench)[NAME]
    bench.server.fault("Rename_Task", "NoPermission", first=2, times=1)
    assert bench.run(**ANOTHER).failed
    assert sorted(morefs(bench)) == [f"{NAME}.vmops-new", f"{NAME}.vmops-old"]
    bench.server.govc("vm.destroy", f"{PATH}.vmops-new")
    back = bench.run(annotation="old")
    assert back.changed, back.msg
    assert morefs(bench) == {NAME: old}
    assert not bench.run(annotation="old").changed


def test_one_who_goes_back_gets_the_old_one_as_it_was(bench):
    old_one(bench, "present")
    old = morefs(bench)[NAME]
    bench.server.fault("Destroy_Task", "SystemError", times=1)
    assert bench.run(**ANOTHER).failed
    assert morefs(bench)[f"{NAME}.vmops-old"] == old
    back = bench.run(annotation="old", replace=True)
    assert back.changed, back.msg
    assert morefs(bench) == {NAME: old}
    assert bench.server.counts["ImportVApp"] == 2, "the old one, and the new one that is given up"


def test_the_new_one_runs_before_the_old_one_goes(bench):
    old_one(bench)
    bench.server.fault("PowerOnVM_Task", "SystemError", times=1)
    assert bench.run(**REPLACE).failed
    assert sorted(morefs(bench)) == [NAME, f"{NAME}.vmops-old"]
    again = bench.run(**REPLACE)
    assert again.changed, again.msg
    assert list(morefs(bench)) == [NAME]
    assert_replaced(bench)


def test_all_of_it_goes_when_none_is_wanted(bench):
    old_one(bench)
    bench.server.fault("Rename_Task", "NoPermission", first=2, times=1)
    assert bench.run(**REPLACE).failed
    gone = bench.run(state="absent", source=None)
    assert gone.changed, gone.msg
    assert bench.machines() == []


def test_two_at_the_same_time(bench):
    old_one(bench)
    rule = bench.server.rule("ImportVApp", "hold")
    both = [bench.start(**REPLACE), bench.start(**REPLACE)]
    until(lambda: bench.server.held(rule) == 2, "both to begin")
    bench.server.release(rule)
    results = [finish(process) for process in both]
    assert sorted(result.failed for result in results) == [False, True]
    [loser] = [result for result in results if result.failed]
    assert "already exists" in loser.msg
    assert_replaced(bench)


def test_the_second_one_does_not_remove_what_the_first_one_has_put_there(bench):
    old_one(bench, "present")
    removal = bench.server.rule("Destroy_Task", "hold", times=1)
    first = bench.start(**ANOTHER)
    bench.server.wait_held(removal)
    # the second one plans to remove the old machine; when it looks for that again, that is gone
    looks = bench.server.counts["FindChild"]
    rule = bench.server.rule("FindChild", "hold", first=LOOK + 1, times=1)
    second = bench.start(**ANOTHER)
    bench.server.wait_held(rule)
    assert bench.server.counts["FindChild"] == looks + LOOK + 1
    bench.server.release(removal)
    assert finish(first).changed
    placed = morefs(bench)
    bench.server.release(rule)
    late = finish(second)
    assert not late.failed, late.msg
    assert morefs(bench) == placed
    assert_replaced(bench)


def test_what_the_first_one_needs_is_gone_before_it_has_removed_the_old_one(bench):
    """A second one that wants something else removes the new machine of the first."""
    old_one(bench, "present")
    old = morefs(bench)
    rule = bench.server.rule("ReconfigVM_Task", "hold_reply", times=1)
    first = bench.start(**ANOTHER)
    bench.server.wait_held(rule)
    assert sorted(morefs(bench)) == [NAME, f"{NAME}.vmops-new"]
    bench.server.govc("vm.destroy", f"{PATH}.vmops-new")
    bench.server.release(rule)
    late = finish(first)
    assert morefs(bench) == old
    assert "changed while the task was at work" in late.msg
