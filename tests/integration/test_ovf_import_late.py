# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that begins or completes an import late, after whoever asked for it was lost: nobody knows then whether it
does it at all.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.testbed.faults import Held, until
from tests.testbed.importing import finish, guards_of, importing
from tests.testbed.proxy import ConnectProxy

ATTEMPTS = 5  # as many as are made of a Complete that the server refuses


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


def kill_guard(process):
    [guard] = guards_of(process)
    held = Held(guard)
    held.kill()
    assert held.ends_within()


def halt_guard(process):
    [guard] = guards_of(process)
    os.kill(guard, signal.SIGSTOP)


def tell_to_end(process):
    """The guard is well, and waits for the server."""
    os.kill(process.pid, signal.SIGTERM)


def until_looked_for(bench):
    before = bench.server.counts["RetrievePropertiesEx"]
    until(lambda: bench.server.counts["RetrievePropertiesEx"] > before + 1, "somebody to look for the import")


LOSSES = pytest.mark.parametrize("lose", [kill_guard, halt_guard, tell_to_end])


@LOSSES
def test_it_completes_while_it_is_to_abort(bench, lose):
    completing = bench.server.rule("HttpNfcLeaseComplete", "hold")
    aborting = bench.server.rule("HttpNfcLeaseAbort", "hold")
    process = bench.start(timeout=600 if lose is tell_to_end else 10)
    bench.server.wait_held(completing)
    lose(process)
    bench.server.wait_held(aborting)
    bench.server.release(completing)
    until(lambda: [lease["state"] for lease in bench.server.leases] == ["done"], "the server to complete it")
    bench.server.release(aborting)
    result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "completed"
    assert os.path.exists(result.json["lease"]["log"])
    bench.server.release()
    again = bench.run()
    assert again.changed, again.msg
    bench.assert_imported()


def test_the_guard_is_killed_while_the_server_takes_its_time_to_complete(bench):
    """And refuses another Complete for that."""
    completing = bench.server.rule("HttpNfcLeaseComplete", "hold", times=1)
    process = bench.start(timeout=600)
    bench.server.wait_held(completing)
    bench.server.fault("HttpNfcLeaseComplete", "InvalidState")
    kill_guard(process)
    until(
        lambda: bench.server.counts["HttpNfcLeaseComplete"] > ATTEMPTS, "the module to ask more often than of its own"
    )
    bench.server.release(completing)
    result = finish(process)
    assert result.changed, result.msg
    bench.assert_imported()


@pytest.mark.parametrize("keeps", [False, True], ids=["goes", "stays"])
def test_it_is_slow_to_cancel_what_it_refused_to_complete(bench, keeps):
    bench.server.set(cancel_takes_s=8, abort_keeps_vm=keeps)
    bench.server.fault("HttpNfcLeaseComplete", "InvalidState")
    aborting = bench.server.rule("HttpNfcLeaseAbort", "hold", times=1)
    process = bench.start()
    bench.server.wait_held(aborting)
    bench.server.expire_sessions()
    bench.server.release(aborting)
    result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


@pytest.mark.parametrize("do", ["hold", "hold_drop"])
def test_the_login_ends_before_it_completes(bench, do):
    """Where the answer gets lost as well, nobody knows that it didn't."""
    completing = bench.server.rule("HttpNfcLeaseComplete", do, times=1)
    process = bench.start()
    bench.server.wait_held(completing)
    bench.server.expire_sessions()
    bench.server.release(completing)
    result = finish(process)
    assert result.failed
    assert do == "hold_drop" or result.json["error"]["fault"] == "NotAuthenticated"
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


@pytest.mark.parametrize("vanish", [False, True], ids=["stays", "vanishes"])
def test_the_guard_is_killed_when_it_has_marked_the_machine_and_the_lease(bench, vanish):
    bench.server.set(ended_leases_vanish=vanish)
    marking = bench.server.rule("ReconfigVM_Task", "hold_reply")
    process = bench.start()
    bench.server.wait_held(marking)
    until(lambda: bench.stamp().get("vmops.ovf.state") == "complete", "the machine to be marked")
    kill_guard(process)
    result = finish(process)
    assert result.changed, result.msg
    assert result.json["lease"]["outcome"] == "completed"
    bench.assert_imported()


@LOSSES
def test_it_begins_late(bench, lose):
    process, beginning = bench.held_at("ImportVApp", timeout=600)
    lose(process)
    if lose is not tell_to_end:  # the module asks for signs of it
        until_looked_for(bench)
    bench.server.release(beginning)
    result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


def test_it_begins_after_the_tasks_time(bench):
    process, beginning = bench.held_at("ImportVApp", timeout=6)
    [log] = bench.temporary.glob("vmops-guard-*")
    until(lambda: "asked to abort" in log.read_text(), "the task to give up")
    bench.server.release(beginning)
    result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


@pytest.mark.parametrize("lose", [kill_guard, lambda process: None], ids=["kill_guard", "wait"])
def test_it_never_begins_and_may(bench, lose):
    beginning = bench.server.rule("ImportVApp", "hold_drop")
    process = bench.start(timeout=6)
    bench.server.wait_held(beginning)
    lose(process)
    result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "unknown"
    assert "it may still begin it" in result.json["lease"]["abort_fault"]
    bench.server.release(beginning)
    bench.await_nothing_left()


def test_the_guard_is_killed_before_it_was_to_begin(bench):
    preparing = bench.server.rule("CreateImportSpec", "hold", times=1)
    process = bench.start(timeout=600)
    bench.server.wait_held(preparing)
    kill_guard(process)
    bench.server.release(preparing)
    result = finish(process)
    assert result.json["error"]["kind"] == "guard_lost"
    assert "lease" not in result.json
    assert "ImportVApp" not in bench.server.counts
    bench.assert_nothing_left()


def test_it_failed_at_once_and_its_answer_is_lost(bench):
    bench.server.set(lease_begins="error", lease_fault={"fault": "SystemError", "text": "the host is on fire"})
    bench.server.rule("ImportVApp", "lose_reply", times=1)
    result = bench.run()
    assert result.failed
    assert result.json["lease"]["outcome"] == "already_ended"
    assert "the host is on fire" in result.json["lease"]["abort_fault"]
    bench.assert_nothing_left()


def test_a_stranger_that_begins_meanwhile_is_no_sign_of_it(bench):
    beginning = bench.server.rule("ImportVApp", "hold", times=1)
    process = bench.start(timeout=600)
    bench.server.wait_held(beginning)
    bench.server.set(lease_delay_s=2)  # so long no machine is known to be the stranger's
    upload = bench.server.upload_rule("silent")
    stranger = bench.server.start_govc(
        "import.ova", "-name", "stranger", "-pool", bench.server.pool, str(bench.package)
    )
    until(lambda: bench.server.live_leases, "the stranger's import to begin")
    kill_guard(process)
    result = finish(process)
    assert result.json["lease"]["outcome"] == "unknown"
    assert "it may still begin it" in result.json["lease"]["abort_fault"]
    bench.server.release_uploads(upload)
    stranger.communicate()


def test_it_begins_after_the_connection_was_cut(bench):
    with ConnectProxy().running() as proxy:
        process, beginning = bench.held_at("ImportVApp", proxy_host="127.0.0.1", proxy_port=proxy.port)
        proxy.cut()
        until_looked_for(bench)
        bench.server.release(beginning)
        result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


@pytest.mark.parametrize("do", ["drop", "lose_reply"])
def test_a_login_that_has_ended_and_another_that_gets_no_answer(bench, do):
    bench.server.upload_rule("stall")
    process = bench.start(stall_timeout=3, retries=0)
    bench.await_uploads()
    bench.server.rule("Login", do, times=1)
    bench.server.expire_sessions()
    result = finish(process)
    assert result.failed
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()


def test_the_guard_is_killed_when_it_had_logged_in_again(bench):
    cancelling = bench.server.rule("CancelTask", "hold", times=1)
    bench.server.upload_rule("stall")
    process = bench.start(stall_timeout=3, retries=0)
    bench.await_uploads()
    bench.server.expire_sessions()
    bench.server.wait_held(cancelling)
    kill_guard(process)
    bench.server.release(cancelling)
    assert finish(process).failed
    bench.assert_nothing_left()


@pytest.mark.parametrize("mark", ["uploading", "marking"])
def test_a_guard_that_stands_still(bench, mark):
    """As one that is halted, on a task that isn't."""
    if mark == "uploading":
        bench.server.upload_rule("silent")
        process = bench.start(timeout=8, stall_timeout=60)
        bench.await_uploads()
    else:
        marking = bench.server.rule("ReconfigVM_Task", "hold", times=1)
        process = bench.start()
        bench.server.wait_held(marking)
    halt_guard(process)
    result = finish(process)
    if mark == "uploading":
        assert result.failed
        assert result.json["lease"]["outcome"] == "aborted"
        bench.assert_nothing_left()
    else:
        assert result.changed, result.msg
        bench.assert_imported()
