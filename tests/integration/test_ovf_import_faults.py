# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import when something fails. Afterwards, looked at from outside: no lease, no login and no machine is left, and
the error names the cause.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import until
from tests.testbed.folder_server import FolderServer, Manner
from tests.testbed.images import MIB
from tests.testbed.importing import ENDING_S, NAME, PATH, Importing, importing
from tests.testbed.modules import Result, finish
from tests.testbed.ovf_packages import DiskSpec, Spec

SILENT_S = 20
"""The time that a task has whose server falls silent, and for how long that does. The task has come there by then."""
HOLDS = ("hold", "hold_reply")
RENEWED_S = 20
"""A lease's time-out, of which a tenth is how often it is renewed: soon, and yet no client is too slow for it."""
FOUR_DISKS = Spec(disks=(DiskSpec(),) * 4)


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


SILENT = [(method, do) for method in ("ImportVApp", "HttpNfcLeaseAbort", "CreateImportSpec") for do in HOLDS]
NO_ABORT = ("HttpNfcLeaseAbort", "fault")


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """Imports that end by nothing but a time limit, each into a server of its own: they wait for it all together. Each
    has come to where its server fails when the next one begins.
    """
    with ExitStack() as benches:

        def begin(method: str, do: str) -> tuple[Importing, subprocess.Popen[bytes]]:
            bench = benches.enter_context(importing(tmp_path_factory.mktemp("waiting")))
            bench.server.upload_rule("status", status=403)
            if do == "fault":
                bench.server.fault(method, "SystemError", text="no abort today")
                process = bench.start()
            else:
                rule = bench.server.rule(method, do, seconds=SILENT_S)
                process = bench.start(timeout=SILENT_S)
                bench.server.wait_held(rule)
            benches.callback(end_unasked, process)
            return bench, process

        yield {case: begin(*case) for case in (NO_ABORT, *SILENT)}


def end_unasked(process: subprocess.Popen[bytes]) -> None:
    """Where its test was not chosen."""
    if process.poll() is None:
        process.kill()
    if process.stdout is not None and not process.stdout.closed:
        process.communicate()


def fails(bench: Importing, told: str, **given: Any) -> Result:
    result = bench.run(**given)
    assert_failed(bench, result, told)
    assert_in_time(result, **given)
    return result


def assert_failed(bench: Importing, result: Result, told: str) -> None:
    assert result.failed, "it should have failed"
    assert told in result.msg
    assert not result.json.get("changed")
    bench.assert_nothing_left()


def assert_in_time(result: Result, **given: Any) -> None:
    """That a failed task took no longer than it had to wait for something, by the options given, and to end it all."""
    waits_s, what = 0.0, "nothing to wait for"
    if "timeout" in given:
        waits_s, what = given["timeout"], "its timeout to wait for"
    elif "stall_timeout" in given:
        waits_s, what = given["stall_timeout"] * (1 + given["retries"]), "each attempt's stall_timeout to wait for"
    elapsed_s = result.json["elapsed_s"]
    assert elapsed_s < waits_s + ENDING_S, f"{elapsed_s} s; it had {what} ({waits_s} s), and {ENDING_S} s to end"


# --- before the lease


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"password": "wrong"}, "Correct username and password"),
        ({"ca_path": None}, "certificate is not trusted"),
        ({"thumbprint": "aa" * 32}, "correct thumbprint"),
        ({"thumbprint": "aa"}, "hexadecimal digits"),
        ({"datastore": "nope"}, "there is no nope among the datastores"),
        ({"networks": {"VM Network": "nope"}}, "there is no nope among the networks"),
        ({"networks": {"VM Network": 100}}, "there is no 100 among the networks"),
        ({"networks": {"VM Network": True}}, "networks.VM Network: True is no name of a network"),
        ({"networks": {"VM Network": None}}, "networks.VM Network: None is no name of a network"),
        ({"folder": "/DC0/vm/nope"}, "there is no /DC0/vm/nope among the folders"),
        ({"resource_pool": "nope"}, "there is no nope among the resource pools"),
        ({"cluster": "nope"}, "there is no nope among the clusters"),
        ({"host": "nope"}, "there is no nope among the hosts"),
        ({"datacenter": "nope"}, "there is no nope among the datacenters"),
        ({"timeout": 0}, "timeout: 0 seconds"),
        ({"timeout": 10**12}, "timeout: 1000000000000 seconds are more than can be waited"),
        ({"stall_timeout": 0}, "stall_timeout: 0 seconds"),
        ({"stall_timeout": 2_000_001}, "stall_timeout: 2000001 seconds are more than can be waited. Give 2000000"),
        ({"annotation": "a\x01b"}, "annotation: it has the character U+0001"),
        ({"password": "a\x00b"}, "password: it has the character U+0000"),
        ({"networks": {"VM\x02": "x"}}, "networks.VM\x02: it has the character U+0002"),
        ({"properties": {"a": "\ufffe"}}, "properties.a: it has the character U+FFFE"),
        ({"name": "n" * 81}, "Give 1 to 80 characters"),
        ({"name": "n" * 71, "replace": True}, "Give 1 to 70 characters"),
        ({"name": "web1/prod"}, "without /, \\ and %"),
        ({"parallel_disks": 0}, "parallel_disks"),
        ({"retries": -1}, "retries"),
        ({"wait_for_ip": True}, "wait_for_ip"),
        ({"source": None}, "source"),
        ({"source": "/nowhere.ova"}, "/nowhere.ova"),
        ({"hostname": None}, "VMWARE_HOST"),
        ({"hostname": "https://127.0.0.1"}, "Give the name or the address alone"),
        ({"port": 99999}, "99999 is no port"),
    ],
)
def test_what_can_not_work_is_told_before_a_lease_begins(bench, given, told):
    result = bench.run(**given)
    assert_failed(bench, result, told)
    assert_in_time(result)  # there is nothing to wait for, whatever times are given
    assert "ImportVApp" not in bench.server.counts


@pytest.mark.parametrize("check", [True, False], ids=["checked", "done"])
def test_a_folder_has_the_name(bench, check):
    bench.server.govc("folder.create", PATH)
    try:
        result = bench.run(check=check)
        assert result.failed
        assert "a Folder of this name is there" in result.msg
        assert "ImportVApp" not in bench.server.counts
        removed = bench.run(check=check, state="absent")
        assert not removed.failed
        assert not removed.changed
    finally:
        bench.server.govc("object.destroy", PATH)


def test_nobody_listens(bench):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        fails(bench, "nobody listens there", port=unused.getsockname()[1])


@pytest.mark.parametrize(
    ("do", "told"),
    [("status", "503 Service Unavailable. See that the server is up"), ("lose_reply", "it broke the connection off")],
)
@pytest.mark.parametrize(("method", "times"), [("Login", 1), ("CreateImportSpec", 4)])
def test_the_server_is_just_starting_or_goes_away(bench, method, times, do, told):
    bench.server.rule(method, do, times=times, **({"status": 503} if do == "status" else {}))
    result = bench.run()
    assert result.failed
    assert told in result.msg
    assert bench.server.leases == []
    bench.assert_nothing_left()


def test_a_thumbprint_stands_in_place_of_the_authorities(bench):
    result = bench.run(ca_path=None, thumbprint=bench.server.thumbprint_sha256)
    assert result.changed, result.msg
    bench.assert_imported()


def test_the_datastore_has_no_room(bench):
    bench.server.set_free_space("LocalDS_0", 1000)
    fails(bench, "has 1000 bytes free")
    assert "ImportVApp" not in bench.server.counts


def test_no_right_to_import(bench):
    bench.server.fault("ImportVApp", "NoPermission", fields={"privilegeId": "VApp.Import"})
    assert "lease" not in fails(bench, "VApp.Import").json


# --- the lease


def test_the_lease_is_in_error_at_once(bench):
    bench.server.set(lease_begins="error", lease_fault={"fault": "SystemError", "text": "the host is on fire"})
    result = fails(bench, "the host is on fire")
    assert result.json["lease"]["outcome"] == "already_ended"


def test_the_lease_never_leaves_initializing(bench):
    bench.server.set(lease_begins="stuck")
    result = fails(bench, "it is initializing", timeout=10)
    assert result.json["error"]["kind"] == "timed_out"
    assert result.json["lease"]["outcome"] == "aborted"


def test_the_lease_vanishes(bench):
    bench.server.set(lease_begins="gone", lease_fault={"fault": "SystemError", "text": "the host is on fire"})
    fails(bench, "the host is on fire")


def test_the_lease_does_not_tell_where_files_go(bench):
    bench.server.set(lease_tells_info=False)
    result = fails(bench, "the server doesn't tell its machine and where files go")
    assert result.json["lease"]["outcome"] == "aborted"


def test_the_reply_that_names_the_lease_is_lost(bench):
    bench.server.rule("ImportVApp", "lose_reply")
    result = bench.run()
    assert result.failed
    assert result.json["lease"]["id"] is None
    bench.assert_nothing_left()


def test_the_name_is_taken_meanwhile(bench):
    process, rule = bench.held_at("ImportVApp")
    bench.server.govc("vm.create", "-on=false", "-net", "VM Network", NAME)
    bench.server.release(rule)
    assert "remove what has it" in finish(process).msg
    assert bench.machines() == [PATH]
    assert bench.stamp() == {}
    assert bench.server.live_leases == []
    assert bench.server.sessions == []


# --- the upload


@pytest.mark.parametrize(
    ("do", "details", "told"),
    [
        ("status", {"status": 403}, "HTTP 403"),
        ("status", {"status": 404, "after_bytes": 1000}, "HTTP 404"),
        ("status", {"status": 503}, "HTTP 503"),
        ("status", {"status": 507, "text": "no space left on device"}, "no space left on device"),
        ("reset", {"after_bytes": 50000}, "disk1.vmdk"),
        ("stall", {"after_bytes": 50000}, "disk1.vmdk"),
        ("silent", {}, "no answer in time"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_upload_that_fails_for_ever(bench, do, details, told):
    bench.server.upload_rule(do, **details)
    stalls = {"stall_timeout": 5} if do in ("stall", "silent") else {}
    result = fails(bench, told, retries=1, **stalls)
    assert "disk1.vmdk" in result.msg
    assert result.json["lease"]["outcome"] == "aborted"
    attempts = result.json["files"][0]["attempts"]
    assert len(attempts) == (1 if details.get("status") in (403, 404) else 2)
    assert all(attempt["error"] for attempt in attempts)


@pytest.mark.parametrize(
    ("do", "details"),
    [
        ("status", {"status": 503}),
        ("reset", {"after_bytes": 50000}),
        ("stall", {"after_bytes": 50000}),
        ("silent", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_upload_that_fails_once_is_sent_again(bench, do, details):
    bench.server.upload_rule(do, times=1, **details)
    stalls = {"stall_timeout": 10} if do in ("stall", "silent") else {}
    result = bench.run(**stalls)
    assert result.changed, result.msg
    attempts = result.json["files"][0]["attempts"]
    assert [bool(attempt["error"]) for attempt in attempts] == [True, False]
    bench.assert_imported()


def test_one_disk_of_four_fails(tmp_path):
    with importing(tmp_path, FOUR_DISKS) as bench:
        bench.server.upload_rule("status", status=403, target="*2.vmdk")
        result = fails(bench, "HTTP 403")
        assert result.json["lease"]["outcome"] == "aborted"


@pytest.mark.parametrize("vanish", [False, True], ids=["it can be asked", "it is gone"])
@pytest.mark.parametrize("moment", ["uploading", "completing"])
def test_the_disk_is_full_and_the_server_ends_the_lease(bench, moment, vanish):
    full = "There is no more space for the file"
    bench.server.set(lease_timeout_s=RENEWED_S, ended_leases_vanish=vanish)
    never = {"stall_timeout": 600, "timeout": 600}  # neither is what ends it
    if moment == "uploading":
        bench.server.upload_rule("silent")
        process = bench.start(**never)
        bench.await_uploads()
    else:
        rule = bench.server.rule("HttpNfcLeaseComplete", "hold", times=1)
        process = bench.start(**never)
        bench.server.wait_held(rule)
    bench.server.fail_leases("NoDiskSpace", full, {"Datastore": "LocalDS_0", "File": "web1.vmdk"})
    bench.server.release()
    result = finish(process)
    assert result.failed
    assert full in result.msg
    if not vanish:
        assert "Free space on the datastore" in result.msg
    assert result.json["lease"]["outcome"] == "already_ended"
    assert_in_time(result)
    bench.assert_nothing_left()


@pytest.fixture
def large(tmp_path):
    """A package that is larger than all that waits on a connection."""
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(4).randbytes(24 << 20))
    disk = DiskSpec(size=32 << 20, written=(f"write -s {noise} 0 24M",))
    with importing(tmp_path, Spec(archive=False, disks=(disk,))) as found:
        yield found


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - (1 << 20))


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-(1 << 20), os.SEEK_END)
        file.write(b"other bytes")


@pytest.mark.parametrize("change", [truncate, overwrite])
def test_the_source_is_changed_while_it_is_read(large, change):
    rule = large.server.upload_rule("pause", after_bytes=MIB)
    process = large.start(verify="ignore")
    large.await_uploads()
    change(large.package.parent / "disk1.vmdk")
    large.server.release_uploads(rule)
    result = finish(process)
    assert result.failed
    assert "disk1.vmdk" in result.msg
    assert "while it was read" in result.msg
    assert len(result.json["files"][0]["attempts"]) == 1, "a second one would find nothing else"
    assert result.json["lease"]["outcome"] == "aborted"
    assert "HttpNfcLeaseComplete" not in large.server.counts
    large.assert_nothing_left()


def test_a_web_server_that_cuts_its_connections(bench):
    with FolderServer(bench.package.parent, Manner(cuts=2, cut_after=20000)).running() as web:
        result = bench.run(source=web.url(bench.package.name))
        assert result.changed, result.msg
        bench.assert_imported()


# --- what arrives


def of_something_else(text: str) -> str:
    """A manifest with another digest for the disk."""
    other = hashlib.sha256(b"something else").hexdigest()
    lines = text.splitlines(keepends=True)
    return "".join(line.split("=")[0] + "= " + other + "\n" if ".vmdk" in line else line for line in lines)


def test_a_disk_is_not_what_the_manifest_says(tmp_path):
    with importing(tmp_path, Spec(archive=False, edit={".mf": of_something_else})) as bench:
        result = fails(bench, "disk1.vmdk")
        assert "sha256" in result.msg
        assert result.json["lease"]["outcome"] == "aborted"
        assert "HttpNfcLeaseComplete" not in bench.server.counts
        assert bench.run(verify="ignore").changed


def test_the_server_received_something_else(bench):
    bench.server.set(manifest_lies=True)
    result = fails(bench, "as the server received it")
    assert result.json["lease"]["outcome"] == "aborted"
    assert "HttpNfcLeaseComplete" not in bench.server.counts


# --- renewing, completing, aborting


@pytest.mark.parametrize("fault", ["Timedout", "InvalidState", "NotAuthenticated"])
def test_the_lease_can_not_be_renewed(bench, fault):
    bench.server.set(lease_timeout_s=RENEWED_S)
    bench.server.upload_rule("silent")
    bench.server.fault("HttpNfcLeaseProgress", fault, first=2)
    fails(bench, fault)


@pytest.mark.parametrize("do", ["drop", "lose_reply"])
def test_a_renewal_that_gets_lost_is_no_end(bench, do):
    bench.server.set(lease_timeout_s=RENEWED_S)
    rule = bench.server.upload_rule("silent")
    bench.server.rule("HttpNfcLeaseProgress", do, first=2, times=2)
    process = bench.start()
    until(lambda: bench.server.counts.get("HttpNfcLeaseProgress", 0) >= 4, "the renewal after those")
    bench.server.release_uploads(rule)
    result = finish(process)
    assert result.changed, result.msg
    bench.assert_imported()


def test_the_true_percentage_is_told(large):
    large.server.set(lease_timeout_s=RENEWED_S)
    rule = large.server.upload_rule("pause", after_bytes=8 * MIB)
    process = large.start()

    def told() -> list[int]:
        return [percent for lease in large.server.leases for percent in lease["percents"]]

    # so much has come of 24 MiB, and some more may be on its way
    until(lambda: any(30 < percent < 90 for percent in told()), "the percentage to be told")
    large.server.release_uploads(rule)
    assert finish(process).changed
    assert told() == sorted(told())


@pytest.mark.parametrize("fault", ["Timedout", "InvalidState", "SystemError", "NotAuthenticated"])
def test_completing_is_refused(bench, fault):
    bench.server.fault("HttpNfcLeaseComplete", fault)
    fails(bench, fault)


@pytest.mark.parametrize("vanish", [False, True])
def test_the_reply_to_complete_is_lost_and_the_machine_survives(bench, vanish):
    bench.server.set(ended_leases_vanish=vanish)
    bench.server.rule("HttpNfcLeaseComplete", "lose_reply")
    result = bench.run()
    assert result.changed, result.msg
    assert result.json["lease"]["outcome"] == "completed"
    bench.assert_imported()


def test_complete_gets_lost_on_its_way_there_and_is_sent_again(bench):
    bench.server.rule("HttpNfcLeaseComplete", "drop", times=1)
    result = bench.run()
    assert result.changed, result.msg
    bench.assert_imported()


def test_a_server_that_is_slow_to_complete_gets_the_time_there_is(bench):
    """Longer than a call waits for its answer. What it says to those who ask again meanwhile is no refusal."""
    first = bench.server.rule("HttpNfcLeaseComplete", "hold", times=1)
    again = bench.server.fault("HttpNfcLeaseComplete", "InvalidState")
    process = bench.start(timeout=300)
    # more often than an answer that got lost is asked for
    until(lambda: bench.server.counts.get("HttpNfcLeaseComplete", 0) > 6, "it to ask again and again", 240)
    assert bench.server.counts.get("HttpNfcLeaseAbort", 0) == 0
    bench.server.release(first)
    result = finish(process)
    bench.server.release(again)
    assert result.changed, result.msg
    assert result.json["lease"]["outcome"] == "completed"
    bench.assert_imported()


def test_the_mark_can_not_be_written_and_the_next_run_does_it(bench):
    rule = bench.server.fault("ReconfigVM_Task", "SystemError")
    first = bench.run()
    assert bench.server.live_leases == []
    assert bench.machines() == [PATH]
    moref = first.json["lease"]["id"]
    assert moref
    bench.server.release(rule)
    second = bench.run()
    assert second.changed, second.msg
    assert bench.server.counts["ImportVApp"] == 1
    bench.assert_imported()


def test_aborting_fails_once(bench):
    bench.server.upload_rule("status", status=403)
    bench.server.fault("HttpNfcLeaseAbort", "SystemError", times=1)
    result = fails(bench, "HTTP 403")
    assert result.json["lease"]["outcome"] == "aborted"


def test_aborting_fails_for_ever_and_the_first_error_is_told_first(waiting):
    bench, process = waiting[NO_ABORT]
    result = finish(process)
    assert result.failed
    assert result.msg.index("HTTP 403") < result.msg.index("no abort today")
    assert result.json["lease"]["outcome"] == "unknown"
    assert "no abort today" in result.json["lease"]["abort_fault"]
    assert "no abort today" in Path(result.json["lease"]["log"]).read_text()
    assert bench.server.sessions == []


def test_the_lease_is_gone_when_it_is_to_be_aborted(bench):
    bench.server.set(ended_leases_vanish=True)
    bench.server.upload_rule("status", status=403)
    process, rule = bench.held_at("HttpNfcLeaseAbort")
    bench.server.fail_leases("Timedout")
    bench.server.release(rule)
    result = finish(process)
    assert result.failed
    assert "HTTP 403" in result.msg
    assert result.json["lease"]["outcome"] == "already_ended"
    assert_in_time(result)
    bench.assert_nothing_left()


def test_a_complete_that_the_server_comes_to_late_loses_no_machine(bench):
    complete = bench.server.rule("HttpNfcLeaseComplete", "hold")
    abort = bench.server.rule("HttpNfcLeaseAbort", "hold", times=1)
    process = bench.start(timeout=12)
    bench.server.wait_held(abort)
    bench.server.release(complete)
    until(lambda: not bench.server.live_leases, "the lease to be completed")
    bench.server.release(abort)
    result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "completed"
    again = bench.run()
    assert again.changed, again.msg
    assert bench.server.counts["ImportVApp"] == 1
    bench.assert_imported()


def test_the_machine_of_an_aborted_import_may_not_be_removed(bench):
    bench.server.set(abort_keeps_vm=True)
    bench.server.upload_rule("status", status=403)
    bench.server.fault("Destroy_Task", "NoPermission")
    result = bench.run()
    assert result.failed
    assert "The unfinished machine web1" in str(result.json["secondary_errors"])
    assert bench.server.counts["Destroy_Task"] == 1
    assert bench.server.live_leases == []
    assert bench.server.sessions == []


def test_the_server_leaves_the_machine_of_an_aborted_import(bench):
    bench.server.set(abort_keeps_vm=True)
    bench.server.upload_rule("status", status=403)
    fails(bench, "HTTP 403")


def test_the_session_expires_midway(bench):
    bench.server.set(lease_timeout_s=RENEWED_S)
    bench.server.upload_rule("silent")
    process = bench.start()
    bench.await_uploads()
    bench.server.expire_sessions()
    assert "NotAuthenticated" in str(finish(process).json)
    bench.assert_nothing_left()


@pytest.mark.parametrize(("method", "do"), SILENT)
def test_a_server_that_falls_silent(waiting, method, do):
    bench, process = waiting[method, do]
    result = finish(process)
    assert result.failed
    assert_in_time(result, timeout=SILENT_S)
    bench.await_nothing_left()


def test_a_server_that_lets_nobody_in(bench):
    rule = bench.server.rule("Login", "hold_drop")
    result = bench.run(timeout=10)
    assert result.failed
    assert_in_time(result, timeout=10)
    assert "logging in" in result.msg
    assert bench.server.leases == []
    bench.server.release(rule)
    bench.assert_nothing_left()


def test_completed_its_answer_lost_and_the_login_gone_the_machine_survives(bench):
    bench.server.set(ended_leases_vanish=True)
    rule = bench.server.rule("HttpNfcLeaseComplete", "hold_reply", times=1)
    process = bench.start()
    bench.server.wait_held(rule)
    bench.server.expire_sessions()
    bench.server.rule("HttpNfcLeaseComplete", "drop")
    bench.server.release(rule)
    result = finish(process)
    assert result.json["lease"]["outcome"] == "completed"
    assert bench.machines() == [PATH]
    again = bench.run()
    assert not again.failed, again.msg
    assert bench.server.counts["ImportVApp"] == 1
    bench.assert_imported()
