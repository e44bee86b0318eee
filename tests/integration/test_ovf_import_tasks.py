# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import_tasks_info and ovf_import_cleanup: imports that run, hang and move on a stand-in for a vCenter server, and
what is left when they were cancelled; looked at by govc.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from tests.testbed.faults import until
from tests.testbed.images import MIB
from tests.testbed.importing import NAME, PATH, Importing, end_both, finish, importing
from tests.testbed.modules import Result, run_module, start_module
from tests.testbed.ovf_packages import DiskSpec, Spec

USER = "administrator@vsphere.local"


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


def connection(bench: Importing) -> dict[str, Any]:
    return {**bench.server.options, "ca_path": str(bench.server.cafile)}


def look(bench: Importing, **given: Any) -> Result:
    return run_module("ovf_import_tasks_info", {**connection(bench), **given})


def clean(bench: Importing, check: bool = False, **given: Any) -> Result:
    """As a task would that cancels all that stand still, however young."""
    options = {**connection(bench), "older_than": 0, "watch": 1, "timeout": 60, **given}
    return run_module("ovf_import_cleanup", options, check=check, diff=True)


def stuck(bench: Importing, **given: Any) -> subprocess.Popen[bytes]:
    """An import whose upload doesn't get on for as long as a test takes, and whose client lives."""
    bench.server.upload_rule("stall", after_bytes=1000)
    uploads = len(bench.server.uploads)
    process = bench.start(stall_timeout=600, timeout=600, **given)
    until(lambda: len(bench.server.uploads) > uploads, "an upload to begin")
    return process


def orphan(bench: Importing, **given: Any) -> None:
    """An import whose client was killed, and its guard with it."""
    bench.server.set(lease_timeout_s=3600)
    end_both(stuck(bench, **given))


def stuck_govc(bench: Importing) -> None:
    """An import by another client, which is killed: its machine bears no mark."""
    bench.server.set(lease_timeout_s=3600)
    bench.server.upload_rule("stall", after_bytes=1000)
    uploads = len(bench.server.uploads)
    govc = bench.server.start_govc("import.ova", "-name", NAME, str(bench.package))
    until(lambda: len(bench.server.uploads) > uploads, "an upload to begin")
    govc.kill()
    govc.communicate()


def running(bench: Importing) -> list[str]:
    """The imports that the server is at, as govc tells its tasks."""
    tasks = bench.server.govc_json("tasks")
    return [
        task["key"]
        for task in tasks.get("recentTask") or tasks.get("tasks") or tasks
        if "ImportVApp" in task["descriptionId"] and task["state"] == "running"
    ]


def test_nothing_is_imported(bench):
    result = look(bench)
    assert not result.failed, result.msg
    assert result.json["imports"] == []
    cleaned = clean(bench)
    assert not cleaned.changed
    assert cleaned.json["cancelled"] == cleaned.json["moving"] == cleaned.json["removed"] == []
    assert bench.server.sessions == []


@pytest.mark.parametrize(
    ("names_machine", "entity"), [(True, ("VirtualMachine", NAME)), (False, ("ResourcePool", "Resources"))]
)
def test_what_an_import_is(bench, names_machine, entity):
    # the time-out is so that its client notices soon that it was ended
    bench.server.set(lease_timeout_s=30, task_names_machine=names_machine)
    process = stuck(bench)
    [lease] = bench.server.live_leases
    result = look(bench)
    assert not result.changed
    [found] = result.json["imports"]
    assert [found["task"]] == running(bench) == [lease["task"]]
    assert found["state"] == "running"
    assert (found["entity"]["kind"], found["entity"]["name"]) == entity
    assert found["machine"] == {"moref": lease["entity"], "name": NAME}
    assert found["owner"]["pid"] == process.pid
    assert found["user"] == USER
    assert found["percentage"] in (None, 0)
    assert found["cancelable"] is True
    assert 0 < found["age_s"] < 300
    # it has only looked
    assert [lease["alive"] for lease in bench.server.leases] == [True]
    assert len(bench.server.sessions) == 1
    assert clean(bench, force=True).changed
    assert finish(process).failed


def test_an_orphan_is_cancelled_once(bench):
    orphan(bench)
    assert bench.machines() == [PATH]
    [task] = running(bench)
    checked = clean(bench, check=True)
    assert checked.changed, checked.msg
    assert [item["task"] for item in checked.json["cancelled"]] == [task]
    assert [item["machine"] for item in checked.json["diff"]["before"]["imports"]] == [NAME]
    assert checked.json["diff"]["after"] == {"imports": [], "remains": []}
    assert running(bench) == [task]
    assert bench.server.counts.get("CancelTask", 0) == 0
    cleaned = clean(bench)
    assert cleaned.changed, cleaned.msg
    assert [item["machine"]["name"] for item in cleaned.json["cancelled"]] == [NAME]
    assert cleaned.json["diff"] == checked.json["diff"]
    assert running(bench) == []
    assert bench.machines() == []
    assert bench.server.live_leases == []
    again = clean(bench)
    assert not again.changed
    assert again.json["cancelled"] == []
    assert bench.server.counts["CancelTask"] == 1


def test_it_is_waited_for_until_it_has_ended(bench):
    bench.server.set(cancel_takes_s=3)
    orphan(bench)
    cleaned = clean(bench)
    assert cleaned.changed, cleaned.msg
    assert len(cleaned.json["cancelled"]) == 1
    assert running(bench) == []
    assert bench.machines() == []


def test_one_that_does_not_end_is_told(bench):
    bench.server.set(cancel_takes_s=-1, lease_allows_destroy=True)
    orphan(bench)
    failed = clean(bench, timeout=15, force=True)
    assert failed.failed
    assert failed.json["error"]["kind"] == "not_cancelled"
    assert "goes on all the same" in failed.msg
    assert failed.json["cancelled"] == failed.json["removed"] == []
    assert [item["id"] for item in failed.json["not_ended"]] == running(bench)
    assert bench.machines() == [PATH]


def test_what_the_server_leaves_is_removed(bench):
    bench.server.set(abort_keeps_vm=True)
    orphan(bench)
    cleaned = clean(bench)
    assert cleaned.changed, cleaned.msg
    assert [item["name"] for item in cleaned.json["removed"]] == [NAME]
    assert bench.machines() == []
    assert not clean(bench).changed


def test_debris_of_a_cancelled_import_is_removed_by_the_next_run(bench):
    bench.server.set(abort_keeps_vm=True)
    orphan(bench)
    rule = bench.server.fault("Destroy_Task", "NoPermission", fields={"privilegeId": "VirtualMachine.Inventory.Delete"})
    failed = clean(bench)
    assert failed.failed
    assert failed.json["error"]["kind"] == "not_cancelled"
    assert "VirtualMachine.Inventory.Delete" in failed.msg
    assert len(failed.json["cancelled"]) == 1
    assert failed.json["removed"] == []
    assert bench.machines() == [PATH]
    assert not clean(bench, initiator="somebody").changed
    assert not clean(bench, name="other").changed
    assert not clean(bench, older_than=3600).changed
    bench.server.release(rule)
    assert [item["name"] for item in clean(bench, check=True).json["removed"]] == [NAME]
    assert bench.machines() == [PATH]
    cleaned = clean(bench)
    assert cleaned.changed, cleaned.msg
    assert cleaned.json["cancelled"] == []
    assert bench.machines() == []


def test_a_machine_without_our_mark_is_never_removed(bench):
    bench.server.set(abort_keeps_vm=True)
    stuck_govc(bench)
    [found] = look(bench).json["imports"]
    assert found["machine"]["name"] == NAME
    assert found["owner"] is None
    cleaned = clean(bench)
    assert cleaned.changed, cleaned.msg
    assert cleaned.json["removed"] == []
    assert running(bench) == []
    assert bench.machines() == [PATH]
    assert not clean(bench).changed


def test_a_whole_machine_is_never_removed(bench):
    """Its lease was completed, and yet it could not be marked."""
    bench.server.fault("ReconfigVM_Task", "NoPermission")
    bench.run()
    assert bench.stamp()["vmops.ovf.state"].startswith("importing:")
    assert look(bench).json["imports"] == []
    assert not clean(bench, force=True).changed
    assert bench.machines() == [PATH]


def test_young_ones_and_others_are_left_alone(bench):
    orphan(bench)
    [found] = look(bench).json["imports"]
    for given in (
        {"older_than": 3600},
        {"name": "web2"},
        {"entity": "elsewhere"},
        {"initiator": "somebody"},
        {"initiator": "administrator@elsewhere"},
    ):
        watch_s = 50
        left = clean(bench, watch=watch_s, **given)
        assert not left.changed, given
        assert left.json["elapsed_s"] < watch_s, "there was nothing to watch"
    assert running(bench) == [found["task"]]
    entity = found["entity"]
    for given in (
        {"name": NAME},
        {"entity": entity["name"]},
        {"entity": entity["moref"]},
        {"initiator": "Administrator"},
    ):
        assert clean(bench, check=True, **given).changed, given
    assert clean(bench, name=NAME, entity=entity["moref"], initiator="VSPHERE.LOCAL\\Administrator").changed
    assert running(bench) == []


def test_one_that_moves_is_left_alone_unless_forced(tmp_path):
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(24 * MIB))
    spec = Spec(disks=(DiskSpec(size=32 * MIB, written=(f"write -s {noise} 0 24M",)),))
    with importing(tmp_path, spec) as bench:
        # its percentage is told every two seconds, and is another one each time, for two minutes
        bench.server.set(lease_timeout_s=20, rate_mb_s=0.2)
        process = bench.start(timeout=300)
        until(lambda: any(max(lease["percents"], default=0) > 0 for lease in bench.server.leases), "it to get on")
        left = clean(bench, watch=15)
        assert not left.changed
        [moving] = left.json["moving"]
        assert moving["percentage"] > 0
        assert running(bench) == [moving["task"]]
        forced = clean(bench, force=True)
        assert forced.changed, forced.msg
        assert running(bench) == []
        failed = finish(process)
        assert failed.failed
        assert failed.json["lease"]["outcome"] == "already_ended"
        bench.assert_nothing_left()


def test_one_of_several(bench):
    """By the time when each was created it is told which task makes which machine."""
    orphan(bench)
    orphan(bench, name="web2")
    imports = look(bench).json["imports"]
    assert [item["machine"]["name"] for item in imports] == [NAME, "web2"]
    assert clean(bench, name="web2").changed
    assert bench.machines() == [PATH]
    assert [item["machine"]["name"] for item in look(bench).json["imports"]] == [NAME]
    assert clean(bench).changed
    assert bench.machines() == []


def test_what_the_user_may_not_cancel(bench):
    orphan(bench)
    orphan(bench, name="web2")
    first, second = running(bench)
    rule = bench.server.fault(
        "CancelTask", "NoPermission", "Permission denied", {"privilegeId": "Global.CancelTask"}, times=1
    )
    failed = clean(bench)
    assert failed.failed
    assert failed.json["error"]["kind"] == "not_cancelled"
    assert "Global.CancelTask" in failed.msg
    assert [item["fault"] for item in failed.json["not_ended"]] == ["NoPermission"]
    [refused] = [item["id"] for item in failed.json["not_ended"]]
    assert {refused, failed.json["cancelled"][0]["task"]} == {first, second}
    # the other one was cancelled all the same
    assert running(bench) == [refused]
    bench.server.release(rule)
    assert clean(bench).changed
    assert running(bench) == []
    assert len(bench.server.sessions) == 2  # those of the killed guards


def held_cleanup(bench: Importing) -> tuple[subprocess.Popen[bytes], int]:
    """A clean-up that has chosen what it cancels, and whose first CancelTask isn't carried out yet; and the rule."""
    rule = bench.server.rule("CancelTask", "hold", times=1)
    options = {**connection(bench), "older_than": 0, "force": True, "timeout": 300}
    process = start_module("ovf_import_cleanup", options)
    bench.server.wait_held(rule)
    return process, rule


def test_two_at_the_same_time(bench):
    """What the other one has ended is no change of ours."""
    orphan(bench)
    process, rule = held_cleanup(bench)
    assert clean(bench, force=True).changed
    bench.server.release(rule)
    late = finish(process)
    assert not late.changed, late.msg
    assert late.json["cancelled"] == late.json["not_ended"] == []
    assert late.json["diff"]["before"] == late.json["diff"]["after"]


def test_one_that_completes_before_it_can_be_cancelled(bench):
    uploads = bench.server.upload_rule("silent")
    importer = bench.start(stall_timeout=600)
    until(lambda: any(upload["bytes"] for upload in bench.server.uploads), "an upload to begin")
    process, rule = held_cleanup(bench)
    bench.server.release_uploads(uploads)
    assert finish(importer).changed
    bench.server.release(rule)
    late = finish(process)
    assert not late.changed, late.msg
    bench.assert_imported()


@pytest.mark.parametrize(
    ("module", "options", "method"),
    [
        ("ovf_import_tasks_info", {}, "CurrentTime"),
        ("ovf_import_tasks_info", {}, "Login"),
        ("ovf_import_cleanup", {"older_than": 0, "force": True}, "CancelTask"),
    ],
)
def test_no_login_is_left_by_a_stopped_task(bench, module, options, method):
    orphan(bench)
    bench.server.expire_sessions()
    rule = bench.server.rule(method, "hold")
    process = start_module(module, {**connection(bench), **options})
    bench.server.wait_held(rule)
    os.kill(process.pid, signal.SIGTERM)
    bench.server.release(rule)
    result = finish(process)
    assert result.failed
    assert "Stopped by" in result.msg
    assert bench.server.sessions == []


def test_errors_are_told(bench):
    wrong = look(bench, password="wrong")
    assert wrong.json["error"]["fault"] == "InvalidLogin"
    for given in (
        {"older_than": -1},
        {"older_than": 10**15},
        {"watch": 0},
        {"watch": 60, "timeout": 60},
        {"timeout": 0},
    ):
        bad = clean(bench, **given)
        assert bad.json["error"]["kind"] == "bad_input", given
    assert bench.server.counts.get("Login", 0) == 1
