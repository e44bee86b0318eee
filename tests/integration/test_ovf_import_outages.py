# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import where the server can't be reached for a while, longer than one attempt and shorter than for ever."""

from __future__ import annotations

import os
import signal

import pytest

from tests.testbed.faults import WAIT_S, Held, until
from tests.testbed.importing import ENDING_S, PATH, end_hard, finish, guards_of, importing
from tests.testbed.modules import run_module

ATTEMPTS = 5  # more than the pauses between them are told apart by


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


def test_while_it_aborts(bench):
    bench.server.set(strict=True)
    bench.server.upload_rule("status", status=403)
    bench.server.rule("HttpNfcLeaseAbort", "drop", times=ATTEMPTS)
    result = bench.run()
    assert "HTTP 403" in result.msg
    assert result.json["lease"]["outcome"] == "aborted"
    assert bench.server.counts["HttpNfcLeaseAbort"] == ATTEMPTS + 1
    bench.assert_nothing_left()


def test_while_the_guard_of_a_killed_task_aborts(bench):
    bench.server.set(strict=True)
    bench.server.upload_rule("silent")
    bench.server.rule("HttpNfcLeaseAbort", "drop", times=ATTEMPTS)
    process = bench.start()
    bench.await_uploads()
    end_hard(process)
    bench.await_nothing_left()
    assert bench.server.counts["HttpNfcLeaseAbort"] == ATTEMPTS + 1


def unreachable_while_it_completes(bench):
    bench.server.rule("HttpNfcLeaseComplete", "drop", times=ATTEMPTS)
    bench.server.rule("Fetch", "drop", times=ATTEMPTS)


def test_while_it_completes(bench):
    unreachable_while_it_completes(bench)
    result = bench.run()
    assert result.changed, result.msg
    bench.assert_imported()


def test_while_it_completes_for_too_long(bench):
    bench.server.rule("HttpNfcLeaseComplete", "drop")
    bench.server.rule("Fetch", "drop", times=4 * ATTEMPTS)
    result = bench.run()
    assert result.failed
    assert result.json["lease"]["outcome"] == "aborted"
    bench.assert_nothing_left()
    bench.server.release()
    assert bench.run().changed
    bench.assert_imported()


def test_while_it_completes_and_it_was_completed(bench):
    bench.server.rule("HttpNfcLeaseComplete", "lose_reply", times=1)
    bench.server.rule("HttpNfcLeaseComplete", "drop", times=ATTEMPTS - 1)
    bench.server.rule("Fetch", "drop", times=ATTEMPTS)
    result = bench.run()
    assert result.changed, result.msg
    assert bench.server.counts.get("HttpNfcLeaseAbort", 0) == 0
    bench.assert_imported()


def test_while_it_completes_without_its_guard(bench):
    rule = bench.server.rule("HttpNfcLeaseComplete", "hold_drop", times=1)
    process = bench.start()
    bench.server.wait_held(rule)
    unreachable_while_it_completes(bench)
    [guard] = guards_of(process)
    held = Held(guard)
    os.kill(guard, signal.SIGKILL)
    assert held.ends_within()
    bench.server.release(rule)
    result = finish(process)
    assert result.changed, result.msg
    assert str(guard) in str(result.json["warnings"])
    assert bench.server.live_leases == []
    assert bench.machines() == [PATH]


def test_the_guard_of_a_killed_task_that_can_not_know_keeps_its_log(bench):
    bench.server.rule("HttpNfcLeaseComplete", "drop")
    rule = bench.server.rule("Fetch", "hold")
    process = bench.start()
    bench.server.wait_held(rule)
    [guard] = guards_of(process)
    held = Held(guard)
    end_hard(process)
    for method in ("Fetch", "RetrievePropertiesEx", "FindChild", "HttpNfcLeaseAbort"):
        bench.server.rule(method, "drop")
    bench.server.release(rule)
    assert held.ends_within(WAIT_S + ENDING_S)
    [log] = bench.temporary.glob("vmops-guard-*")
    assert "the machine is whole: None" in log.read_text()


ONLY_READ = [
    *(("RetrievePropertiesEx", number) for number in range(1, 9)),
    *(("FindChild", number) for number in range(1, 5)),
    ("CreateImportSpec", 1),
    ("HttpNfcLeaseGetManifest", 1),
]


@pytest.mark.parametrize(("method", "first"), ONLY_READ)
def test_a_lost_answer_of_what_is_only_read(bench, method, first):
    bench.server.rule(method, "lose_reply", first=first, times=1)
    result = bench.run()
    assert result.changed, result.msg
    bench.assert_imported()


@pytest.mark.parametrize(
    ("name", "given"),
    [("ovf_import_tasks_info", {}), ("ovf_import_cleanup", {"older_than": 1})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_login_whose_answer_is_lost_is_ended(bench, name, given):
    bench.server.rule("Login", "lose_reply", times=1)
    result = run_module(name, {**bench.server.options, "ca_path": str(bench.server.cafile), "timeout": 60, **given})
    assert result.failed
    assert bench.server.sessions == []


@pytest.mark.parametrize(
    ("name", "given"),
    [("ovf_import_tasks_info", {}), ("ovf_import_cleanup", {"older_than": 1})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_login_that_can_not_log_out_is_ended(bench, name, given):
    bench.server.rule("Logout", "drop", times=ATTEMPTS)
    result = run_module(name, {**bench.server.options, "ca_path": str(bench.server.cafile), "timeout": 120, **given})
    assert not result.failed
    assert "warnings" not in result.json
    assert bench.server.sessions == []


def test_the_lease_can_not_be_renewed_for_a_while(bench):
    """For longer than a few renewals, and not for as long as the server keeps a lease."""
    bench.server.set(lease_timeout_s=30)
    rule = bench.server.upload_rule("silent")
    process = bench.start(stall_timeout=60)
    bench.await_uploads()
    before = bench.server.counts["HttpNfcLeaseProgress"]
    renewals = bench.server.rule("HttpNfcLeaseProgress", "drop")
    until(lambda: bench.server.counts["HttpNfcLeaseProgress"] >= before + ATTEMPTS + 1, "renewals to fail")
    bench.server.release(renewals)
    bench.server.release_uploads(rule)
    result = finish(process)
    assert result.changed, result.msg
    bench.assert_imported()


def test_the_lease_can_not_be_renewed_for_so_long_that_it_ends(bench):
    bench.server.set(lease_timeout_s=4)
    bench.server.upload_rule("silent")
    process = bench.start(stall_timeout=100)
    bench.await_uploads()
    bench.server.rule("HttpNfcLeaseProgress", "drop")
    result = finish(process)
    assert result.failed
    assert result.json["elapsed_s"] < 100
    bench.assert_nothing_left()
