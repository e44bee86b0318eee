# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How ovf_import ends: that it logs out whatever stands in its way or tells of it, how long that takes, which error is
told first, and what it leaves on its own host.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from urllib.parse import urlsplit

import pytest

from tests.testbed.faults import WAIT_S, Held, children, until
from tests.testbed.importing import ENDING_S, PATH, Importing, end_hard, finish, guards_of, importing, run_after
from tests.testbed.module_main import ROOT
from tests.testbed.modules import Result
from tests.testbed.ovf_packages import Spec, make_package
from tests.testbed.web_server import Temper, WebServer, certificate

pytestmark = pytest.mark.usefixtures("deaf")  # whose end takes a minute and a half: the others run meanwhile

GRACE_S = 15.0
"""How much later than the module's own limit a guard begins to act that has heard nothing of it."""
LOGOUTS = 5
"""The attempts that each of the two makes."""
REFUSED = {"do": "status", "status": 403}


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


def logs(bench: Importing) -> list[Path]:
    return sorted(bench.temporary.glob("vmops-guard-*"))


def warnings(result: Result) -> list[str]:
    return [str(warning) for warning in result.json.get("warnings", ())]


# --- the login


@pytest.mark.parametrize(
    "fault",
    [{"do": "drop"}, {"do": "lose_reply"}, {"do": "status", "status": 503}, {"do": "fault", "fault": "Timedout"}],
)
def test_a_logout_that_fails_is_tried_again(bench, fault):
    bench.server.rule("Logout", times=2, **fault)
    result = bench.run()
    assert result.changed, result.msg
    assert warnings(result) == []
    bench.assert_imported()


def test_the_module_logs_out_where_its_guard_can_not(bench):
    bench.server.rule("Logout", "drop", times=LOGOUTS)
    result = bench.run()
    assert result.changed, result.msg
    assert warnings(result) == []
    assert bench.server.counts["Login"] == 1
    bench.assert_imported()


def test_a_login_that_can_not_log_out_is_ended_by_another(bench):
    bench.server.rule("Logout", "drop", times=2 * LOGOUTS)
    result = bench.run()
    assert result.changed, result.msg
    assert warnings(result) == []
    assert bench.server.counts["TerminateSession"] == 1
    bench.assert_imported()


def test_a_login_that_nobody_can_end_is_told_of_and_the_import_succeeds(bench):
    bench.server.rule("Logout", "drop")
    bench.server.fault("TerminateSession", "NoPermission", fields={"privilegeId": "Sessions.TerminateSession"})
    result = bench.run()
    assert result.changed, result.msg
    [warning] = warnings(result)
    assert bench.server.username in warning
    assert "Sessions.TerminateSession" in warning
    assert "The server ends it when it has been idle" in warning
    assert bench.stamp()["vmops.ovf.state"] == "complete"


def test_a_login_that_nobody_can_end_does_not_hide_why_the_import_failed(bench):
    bench.server.upload_rule(**REFUSED)
    bench.server.rule("Logout", "drop")
    bench.server.fault("TerminateSession", "NoPermission")
    result = bench.run()
    assert result.failed
    assert "HTTP 403" in result.msg
    assert "Logging out" not in result.msg
    assert len(warnings(result)) == 1


def test_a_login_whose_answer_never_came_is_ended(bench):
    bench.server.rule("Login", "hold_reply", times=1)
    result = bench.run(timeout=10)
    assert result.failed
    assert warnings(result) == []
    assert bench.server.counts["TerminateSession"] == 1
    assert bench.server.sessions == []


# --- the time


def test_a_guard_gives_the_module_time_to_act_first(bench):
    bench.server.set(lease_begins="stuck")
    timeout_s = 12
    # both the module's beginning and our look may come some seconds late
    resumes = time.monotonic() + timeout_s + GRACE_S / 2
    process = bench.start(timeout=timeout_s)
    until(lambda: bench.server.live_leases, "the lease to begin")
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: time.monotonic() > resumes, "the time limit to pass")
    assert bench.server.live_leases
    os.kill(process.pid, signal.SIGCONT)
    result = finish(process)
    assert "it is initializing" in result.msg
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


def test_an_ending_at_a_server_that_falls_silent_costs_a_bounded_time(bench):
    bench.server.upload_rule(**REFUSED)
    process, _rule = bench.held_at("HttpNfcLeaseAbort", timeout=3600)
    os.kill(bench.server.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        result = finish(process)
    finally:
        os.kill(bench.server.pid, signal.SIGCONT)
    assert "HTTP 403" in result.msg
    assert time.monotonic() - began < ENDING_S, "and the task has not even had its time"
    assert result.json["lease"]["outcome"] == "unknown"
    assert any("The server ends it" in warning for warning in warnings(result))
    assert logs(bench) == [Path(result.json["lease"]["log"])]


# --- servers that let a machine be destroyed during its lease, and others


@pytest.fixture(params=[False, True], ids=["leases forbid Destroy", "leases allow Destroy"])
def either(bench, request):
    bench.server.set(lease_allows_destroy=request.param)
    return bench


def test_the_machine_of_a_lease_that_can_not_be_aborted(either):
    either.server.upload_rule(**REFUSED)
    either.server.fault("HttpNfcLeaseAbort", "SystemError", text="no abort today")
    either.server.set(lease_timeout_s=10)
    result = either.run()
    assert result.msg.index("HTTP 403") < result.msg.index("no abort today")
    assert result.json["lease"]["outcome"] == "unknown"
    either.await_nothing_left()


def test_of_a_replacement_that_can_not_be_aborted_the_old_machine_stays(either):
    assert either.run(annotation="old").changed
    imported = either.stamp()
    either.server.upload_rule(**REFUSED)
    either.server.fault("HttpNfcLeaseAbort", "SystemError", text="no abort today")
    either.server.set(lease_timeout_s=10)
    assert either.run(annotation="new", replace=True).failed
    until(lambda: not either.server.live_leases and either.machines() == [PATH], "the lease to end")
    either.assert_imported()
    assert either.stamp() == imported


def test_a_machine_that_somebody_destroys_during_its_lease(bench):
    bench.server.set(lease_allows_destroy=True)
    rule = bench.server.upload_rule("silent")
    process = bench.start()
    bench.await_uploads()
    bench.server.govc("vm.destroy", PATH)
    bench.server.release_uploads(rule)
    result = finish(process)
    assert result.failed
    assert "The machine was removed" in result.msg
    assert result.json["lease"]["outcome"] == "already_ended"
    bench.assert_nothing_left()


def test_no_other_task_destroys_a_machine_during_its_lease(either):
    rule = either.server.upload_rule("silent")
    process = either.start(stall_timeout=300)
    either.await_uploads()
    for given in ({}, {"replace": True, "force": True}, {"state": "absent", "force": True}):
        assert f"process {process.pid}" in either.run(**given).msg
    assert either.machines() == [PATH]
    either.server.release_uploads(rule)
    assert finish(process).changed
    either.assert_imported()
    assert [lease["state"] for lease in either.server.leases] == ["done"]


# --- the first error


@pytest.mark.parametrize("method", ["HttpNfcLeaseAbort", "Logout"])
def test_a_stop_while_it_ends_does_not_hide_why(bench, method):
    bench.server.upload_rule(**REFUSED)
    process, rule = bench.held_at(method)
    os.kill(process.pid, signal.SIGTERM)
    bench.server.release(rule)
    result = finish(process)
    assert result.msg.index("HTTP 403") < result.msg.index("SIGTERM")
    assert result.json["error"]["kind"] == "transfer_failed"
    assert "told to end: SIGTERM" in result.json["secondary_errors"]
    bench.assert_nothing_left()


@pytest.mark.parametrize("vanish", [False, True])
def test_a_lease_that_its_server_ends_and_what_is_sent_then(bench, vanish):
    bench.server.set(ended_leases_vanish=vanish)
    rule = bench.server.upload_rule("stall", after_bytes=1000)
    process = bench.start(retries=1)
    until(lambda: any(upload["bytes"] for upload in bench.server.uploads), "the upload to begin")
    bench.server.fail_leases("NoDiskSpace", "The datastore is full", {"Datastore": "LocalDS_0"})
    bench.server.release_uploads(rule)
    result = finish(process)
    assert result.msg.startswith("Importing web1 failed")
    assert "The datastore is full (NoDiskSpace)" in result.msg
    assert "disk1.vmdk" in str(result.json["secondary_errors"])
    assert result.json["lease"]["outcome"] == "already_ended"
    bench.assert_nothing_left()


def test_a_lease_that_its_server_ends_is_noticed_by_its_renewal(bench):
    bench.server.set(lease_timeout_s=20)
    bench.server.upload_rule("silent")
    process = bench.start()
    until(lambda: any(upload["bytes"] for upload in bench.server.uploads), "the upload to begin")
    bench.server.fail_leases("HostConnectFault", "The host is gone")
    result = finish(process)
    assert "The host is gone" in result.msg
    assert "Renewing the lease failed" in str(result.json["secondary_errors"])
    bench.assert_nothing_left()


# --- the mark


def test_no_right_to_write_the_mark(bench):
    rule = bench.server.fault(
        "ReconfigVM_Task", "NoPermission", fields={"privilegeId": "VirtualMachine.Config.AdvancedConfig"}
    )
    result = bench.run(state="poweredon")
    assert result.changed, result.msg
    assert result.json["lease"]["outcome"] == "completed"
    assert result.json["vm"]["power_state"] == "poweredOn"
    [warning] = warnings(result)
    assert "web1 is imported and whole" in warning
    assert "privilege VirtualMachine.Config.AdvancedConfig" in warning
    assert logs(bench) == [Path(result.json["lease"]["log"])]
    assert "could not mark" in logs(bench)[0].read_text()
    again = bench.run(state="poweredon")
    assert not again.failed, again.msg
    assert not again.changed, "it could not be marked, and nothing else is to be done"
    assert "web1 is imported and whole" in warnings(again)[0]
    bench.server.release(rule)
    assert bench.run(state="poweredon").changed
    bench.assert_imported()


def test_a_mark_that_could_not_be_written_keeps_nobody_from_replacing(bench):
    rule = bench.server.fault("ReconfigVM_Task", "NoPermission")
    assert bench.run().changed
    result = bench.run(annotation="another", replace=True)
    assert result.changed, result.msg
    [old, new] = warnings(result)
    assert "web1 is imported and whole" in old
    assert "web1.vmops-new is imported and whole" in new
    assert bench.machines() == [PATH]
    bench.server.release(rule)
    assert bench.run(annotation="another").changed
    bench.assert_imported()


def test_a_mark_that_gets_lost_is_written_by_the_module(bench):
    bench.server.fault("ReconfigVM_Task", "SystemError", times=1)
    result = bench.run()
    assert result.changed, result.msg
    assert warnings(result) == []
    bench.assert_imported()


# --- the guard's log


def test_no_log_is_left_of_what_went_well(bench):
    for given in ({}, {}, {"state": "absent"}, {"state": "absent"}):
        assert not bench.run(check=True, **given).failed
        assert not bench.run(**given).failed
    assert logs(bench) == []


def test_somebody_clears_temporary_files_meanwhile(bench):
    rule = bench.server.rule("HttpNfcLeaseComplete", "hold")
    process = bench.start()
    bench.server.wait_held(rule)
    [log] = logs(bench)
    log.unlink()
    logins = bench.server.counts["Login"]
    bench.server.release(rule)
    assert finish(process).changed
    assert bench.server.counts["Login"] == logins, "its end was not believed"
    bench.assert_imported()


def test_no_log_is_left_of_an_import_that_was_refused(bench):
    bench.server.fault("ImportVApp", "NoPermission")
    assert bench.run().failed
    assert logs(bench) == []


def test_no_log_is_left_of_a_killed_module(bench):
    bench.server.set(lease_begins="stuck")
    process = bench.start()
    until(lambda: bench.server.live_leases, "the lease to begin")
    assert len(logs(bench)) == 1
    end_hard(process)
    bench.await_nothing_left()
    until(lambda: not logs(bench), "the guard to remove its log")


def test_a_log_is_kept_where_the_guard_of_a_killed_module_could_not_end_all(bench):
    bench.server.rule("Logout", "drop")
    process, rule = bench.held_at("CreateImportSpec")
    end_hard(process)
    bench.server.release(rule)
    [log] = logs(bench)
    until(lambda: "could not log out" in log.read_text(), "the guard to give up")


def test_a_log_that_an_error_names_is_kept(bench):
    process, rule = bench.held_at("CreateImportSpec")
    os.kill(guards_of(process)[0], signal.SIGKILL)
    bench.server.release(rule)
    rule = bench.server.rule("ImportVApp", "hold")
    result = finish(process)
    [log] = logs(bench)
    assert str(log) in result.msg
    bench.assert_nothing_left()


# --- how it was started


def test_children_that_nobody_can_wait_for(bench):
    result = run_after(bench, "signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    assert result.changed, result.msg
    assert warnings(result) == []
    assert bench.server.counts["Logout"] == 1
    bench.assert_imported()


@pytest.fixture(scope="module")
def deaf(tmp_path_factory):
    """The guard's pid of a killed module, and the process that learns how it ended. Its server goes on answering for
    ever, some bytes at a time: nothing reaches it, neither the module's end nor a signal, and no call is too long.
    """
    folder = tmp_path_factory.mktemp("deaf")
    pem = certificate(folder / "web.pem")
    package = make_package(folder / "package", Spec())
    with WebServer(bytes(1 << 20), Temper.DRIPS, pem).running() as server:
        url = urlsplit(server.url)
        options = {
            "hostname": url.hostname,
            "port": url.port,
            "username": "nobody",
            "password": "none",
            "ca_path": str(pem),
            "source": str(package),
            "name": "web1",
            "timeout": DEAF_TIMEOUT_S,
            "_ansible_remote_tmp": "/tmp",
        }
        environ = {**os.environ, "TMPDIR": str(folder)}
        words = [sys.executable, "-c", REAPER]
        reaper = subprocess.Popen(words, stdin=PIPE, stdout=PIPE, env=environ, cwd=ROOT, text=True)
        assert reaper.stdin is not None
        assert reaper.stdout is not None
        reaper.stdin.write(json.dumps(options))
        reaper.stdin.close()
        reaper.stdin = None
        module = int(reaper.stdout.readline())
        assert server.midway.wait(WAIT_S), "nobody came"
        [guard] = children(module)
        held = Held(guard)
        os.kill(module, signal.SIGKILL)
        os.kill(guard, signal.SIGTERM)
        yield guard, reaper
        if not held.ends_within(0.0):
            held.kill()
        reaper.kill()
        reaper.communicate()


DEAF_TIMEOUT_S = 5
REAPER = """
import ctypes, json, os, time
from tests.testbed import module_main
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER (linux/prctl.h): orphans come to us
began = time.monotonic()
module = os.fork()
if module == 0:
    module_main.run("ovf_import")
print(module, flush=True)
ended = {}
for _each in ("module", "guard"):
    pid, status = os.wait()
    ended[pid] = (os.waitstatus_to_exitcode(status), time.monotonic() - began)
print(json.dumps(ended))
"""


def test_a_guard_that_nothing_reaches_ends_by_its_alarm(deaf):
    guard, reaper = deaf
    limit_s = DEAF_TIMEOUT_S + ENDING_S
    told, _errors = reaper.communicate(timeout=limit_s + WAIT_S)
    code, elapsed_s = json.loads(told)[str(guard)]
    assert code == -signal.SIGALRM
    assert limit_s <= elapsed_s < limit_s + WAIT_S


def test_told_to_stop_as_soon_as_there_is_a_guard(bench):
    result = run_after(bench, "os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))")
    assert "SIGTERM" in result.msg
    assert logs(bench) == []
    bench.assert_nothing_left()


LOST_IN_A_FINALIZER = """
module_main.find_collection()
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere import %(where)s
call = %(where)s.%(what)s
class Debris:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGHUP)
def calling(*given):
    Debris()
    return call(*given)
%(where)s.%(what)s = calling
sys.unraisablehook = lambda told: None
"""


def test_told_to_stop_while_the_interpreter_tidies_up(bench):
    """What a signal raises in a finalizer, as of an old connection, is dropped by the interpreter."""
    bench.server.set(lease_begins="stuck")
    result = run_after(bench, LOST_IN_A_FINALIZER % {"where": "run_import", "what": "read"})
    assert result.msg.startswith("Stopped by SIGHUP")
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


def test_told_to_stop_while_the_interpreter_tidies_up_before_it_removes(bench):
    assert bench.run().changed
    words = LOST_IN_A_FINALIZER % {"where": "importer", "what": "find_folder"}
    result = run_after(bench, words, state="absent")
    assert result.msg.startswith("Stopped by SIGHUP")
    bench.assert_imported()
