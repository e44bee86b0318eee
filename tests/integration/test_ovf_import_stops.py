# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import when it is told to stop, when it is killed, when its guard is, and when two do the same at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.testbed.faults import WAIT_S, Held, until
from tests.testbed.importing import PATH, Importing, end_both, finish, guards_of, importing
from tests.testbed.modules import start_module


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


def before_the_reply(bench: Importing) -> tuple[subprocess.Popen[bytes], Callable[[], None]]:
    """The import has begun, and nobody was told so yet."""
    rule = bench.server.rule("ImportVApp", "hold_reply")
    process = bench.start()
    bench.server.wait_held(rule)
    return process, lambda: bench.server.release(rule)


def waiting(bench: Importing) -> tuple[subprocess.Popen[bytes], Callable[[], None]]:
    bench.server.set(lease_begins="stuck")
    process = bench.start()
    until(lambda: bench.server.live_leases, "the lease to begin")
    until(lambda: _asked_after_it_began(bench), "the module to know the lease")
    return process, lambda: None


def _asked_after_it_began(bench: Importing) -> bool:
    calls = bench.server.calls
    return "RetrievePropertiesEx" in calls[calls.index("ImportVApp") :]


def uploading(bench: Importing) -> tuple[subprocess.Popen[bytes], Callable[[], None]]:
    rule = bench.server.upload_rule("silent")
    process = bench.start()
    bench.await_uploads()
    return process, lambda: bench.server.release_uploads(rule)


def aborting(bench: Importing) -> tuple[subprocess.Popen[bytes], Callable[[], None]]:
    bench.server.upload_rule("status", status=403)
    rule = bench.server.rule("HttpNfcLeaseAbort", "hold")
    process = bench.start()
    bench.server.wait_held(rule)
    return process, lambda: bench.server.release(rule)


MOMENTS = [before_the_reply, waiting, uploading, aborting]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_ended_by_a_signal(bench, moment, number):
    process, go_on = moment(bench)
    os.kill(process.pid, number)
    go_on()
    result = finish(process)
    if number is not signal.SIGKILL:
        assert result.failed
        assert ("HTTP 403" if moment is aborting else number.name) in result.msg
        assert result.json["lease"]["outcome"] == "aborted"
    bench.await_nothing_left()


def test_one_that_was_started_by_nohup_goes_on(bench):
    rule = bench.server.upload_rule("silent")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:  # by an interpreter of its own, which inherits that
        process = start_module(
            "ovf_import", bench.options(), env={"TMPDIR": str(bench.temporary)}, python=sys.executable
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    bench.await_uploads()
    for pid in (process.pid, *guards_of(process)):
        os.kill(pid, signal.SIGHUP)
    bench.server.release_uploads(rule)
    result = finish(process)
    assert result.changed, result.msg
    bench.assert_imported()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("do", ["hold", "hold_reply"])
def test_ended_by_a_signal_while_it_completes_and_the_machine_survives(bench, number, do):
    rule = bench.server.rule("HttpNfcLeaseComplete", do)
    process = bench.start()
    bench.server.wait_held(rule)
    os.kill(process.pid, number)
    bench.server.release(rule)
    result = finish(process)
    if number is not signal.SIGKILL:
        assert result.json["lease"]["outcome"] == "completed"
    until(lambda: not bench.server.sessions, "the guard to log out")
    bench.assert_imported()
    assert not bench.run().changed


@pytest.mark.parametrize("moment", MOMENTS[1:3])
def test_the_guard_is_killed_and_the_module_aborts(bench, moment):
    process, go_on = moment(bench)
    [guard] = guards_of(process)
    held = Held(guard)
    held.kill()
    assert held.ends_within()  # else the module could finish before it knows
    if moment is waiting:
        os.kill(process.pid, signal.SIGTERM)
    go_on()
    result = finish(process)
    assert result.failed
    assert f"process {guard}" in result.msg
    assert bench.server.live_leases == []
    assert bench.machines() == []
    assert bench.server.sessions == []


def test_the_guard_is_killed_before_anybody_knows_the_lease(bench):
    process, go_on = before_the_reply(bench)
    [guard] = guards_of(process)
    os.kill(guard, signal.SIGKILL)
    go_on()
    result = finish(process)
    assert result.failed
    bench.assert_nothing_left()


def test_the_guard_is_killed_before_anybody_knows_its_login_and_others_keep_theirs(bench):
    other, importing_still = bench.held_at("CreateImportSpec")
    rule = bench.server.rule("Login", "hold_reply", times=1)
    process = bench.start()
    bench.server.wait_held(rule)
    [guard] = guards_of(process)
    os.kill(guard, signal.SIGKILL)
    result = finish(process)
    bench.server.release(rule)
    assert result.failed
    assert f"process {guard}" in result.msg
    assert len(bench.server.sessions) == 1
    bench.server.release(importing_still)
    assert not finish(other).failed
    bench.assert_imported()


def test_a_login_that_the_user_may_not_end_is_told_of(bench):
    rule = bench.server.rule("Login", "hold_reply", times=1)
    bench.server.fault("TerminateSession", "NoPermission")
    process = bench.start()
    bench.server.wait_held(rule)
    os.kill(guards_of(process)[0], signal.SIGKILL)
    result = finish(process)
    bench.server.release(rule)
    assert result.failed
    [warning] = result.json["warnings"]
    assert "Ending a login that was left failed" in str(warning)


@pytest.mark.parametrize("do", ["hold", "hold_reply"])
def test_the_guard_is_killed_while_it_completes_and_the_machine_survives(bench, do):
    rule = bench.server.rule("HttpNfcLeaseComplete", do, times=1)
    process = bench.start()
    bench.server.wait_held(rule)
    [guard] = guards_of(process)
    os.kill(guard, signal.SIGKILL)
    bench.server.release(rule)
    result = finish(process)
    assert result.changed, result.msg
    assert str(guard) in str(result.json["warnings"])
    bench.assert_imported()


def test_the_guard_is_killed_when_it_has_marked_the_machine(bench):
    rule = bench.server.rule("ReconfigVM_Task", "hold_reply", times=1)
    process = bench.start()
    bench.server.wait_held(rule)
    os.kill(guards_of(process)[0], signal.SIGKILL)
    bench.server.release(rule)
    result = finish(process)
    assert result.changed, result.msg
    bench.assert_imported()


@pytest.mark.parametrize("number", SIGNALS[:3], ids=lambda number: number.name)
def test_a_guard_that_is_told_to_end_aborts(bench, number):
    process, go_on = uploading(bench)
    [guard] = guards_of(process)
    os.kill(guard, number)
    go_on()
    result = finish(process)
    assert result.failed
    bench.await_nothing_left()


def test_killed_between_complete_and_the_mark_it_survives_and_is_adopted(bench):
    bench.killed_before_its_mark()
    assert bench.stamp()["vmops.ovf.state"].startswith("importing:")
    again = bench.run()
    assert again.changed, again.msg
    assert bench.server.counts["ImportVApp"] == 1
    assert bench.machines() == [PATH]
    assert bench.stamp()["vmops.ovf.state"] == "complete"


@pytest.mark.parametrize("moment", [waiting, uploading])
def test_killed_together_the_next_run_removes_what_is_left(bench, moment):
    process, go_on = moment(bench)
    end_both(process)
    go_on()
    if moment is uploading:
        refused = bench.run()
        assert refused.failed
        assert f"process {process.pid}" in refused.msg
    bench.server.fail_leases("Timedout")  # as the server does by itself when nobody has renewed it for so long
    bench.server.set(lease_begins="ready")
    result = bench.run()
    assert result.changed, result.msg
    assert bench.machines() == [PATH]
    assert bench.stamp()["vmops.ovf.state"] == "complete"


def leave_a_machine(bench):
    """Of an import that was killed with its guard, and whose lease the server has ended."""
    bench.server.set(abort_keeps_vm=True)
    process, go_on = uploading(bench)
    end_both(process)
    go_on()
    bench.server.fail_leases("Timedout")


def test_killed_together_and_the_server_keeps_the_machine(bench):
    leave_a_machine(bench)
    assert bench.machines() == [PATH]
    assert bench.run(state="absent").changed
    assert bench.machines() == []


def test_what_is_left_does_not_keep_itself_there_by_the_room_it_takes(bench):
    leave_a_machine(bench)
    bench.server.set_free_space("LocalDS_0", 1000)
    assert bench.machines() == [PATH]
    result = bench.run()
    assert result.changed, result.msg
    bench.server.set_free_space("LocalDS_0", 1 << 40)
    assert bench.machines() == [PATH]
    assert bench.stamp()["vmops.ovf.state"] == "complete"


def test_the_readers_of_its_result_are_gone(bench):
    process, go_on = uploading(bench)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    go_on()
    process.wait(WAIT_S)
    process.stderr.close()
    bench.await_nothing_left()


def test_two_import_the_same_name_at_once(bench):
    rule = bench.server.rule("ImportVApp", "hold")
    first, second = bench.start(), bench.start()
    until(lambda: bench.server.held(rule) == 2, "both to begin")
    bench.server.release(rule)
    results = [finish(first), finish(second)]
    assert sorted(result.failed for result in results) == [False, True]
    [loser] = [result for result in results if result.failed]
    assert "already exists" in loser.msg
    bench.assert_imported()


def test_a_second_one_that_comes_later_is_told_who_imports(bench):
    process, go_on = uploading(bench)
    refused = bench.run()
    assert refused.failed
    assert f"process {process.pid}" in refused.msg
    go_on()
    finish(process)
    bench.assert_imported()


def test_the_guard_has_no_secret_on_its_command_line_and_its_log_is_named(bench):
    bench.server.upload_rule("status", status=403)
    rule = bench.server.rule("HttpNfcLeaseAbort", "hold")
    process = bench.start()
    bench.server.wait_held(rule)
    [guard] = guards_of(process)
    assert bench.server.password.encode() not in Path(f"/proc/{guard}/cmdline").read_bytes()
    assert os.getsid(guard) == guard
    bench.server.release(rule)
    result = finish(process)
    log = Path(result.json["lease"]["log"])
    text = log.read_text()
    assert "aborted" in text
    assert bench.server.password not in text
    assert log.stat().st_mode & 0o077 == 0
    log.unlink()


def test_a_guard_outlives_no_limit_of_a_task_that_stands_still(bench):
    """As a task does on a host that swaps, or that somebody has halted."""
    bench.server.upload_rule("silent")
    process = bench.start(timeout=10)
    bench.await_uploads()
    [guard] = guards_of(process)
    held = Held(guard)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        until(lambda: not bench.server.live_leases and not bench.server.sessions, "the guard's limit to pass")
        assert bench.machines() == []
        assert held.ends_within()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    result = finish(process)
    assert result.failed
    bench.assert_nothing_left()
