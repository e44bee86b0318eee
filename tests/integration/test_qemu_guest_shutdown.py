# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_shutdown against real QEMU processes: what each kind of guest, and each state that it may be in, ends
as.
"""

from __future__ import annotations

import os
import signal

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.ladder import WINDOWS_GAP_S
from tests.testbed.boot_guest import BootGuest, Kind, Qmp, until
from tests.testbed.modules import finish, run_module, start_module
from tests.testbed.shut_down import sent, shutdown, start_slow_job


def test_a_willing_guest_goes_by_the_power_button(boot):
    guest = boot()
    result = shutdown(guest)
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["method"], record["graceful"], record["shutdown_reason"]) == ("acpi", True, "guest-shutdown")
    assert (record["state_before"], record["state"], record["pid"]) == ("running", "absent", None)
    assert not guest.alive()
    assert guest.said() == "BRP"
    assert sent(result) == ["system_powerdown"]
    press = record["attempts"][-1]
    assert press["outcome"] == "ended"
    assert press["events"] == ["POWERDOWN", "SHUTDOWN"]
    assert 0 <= press["started"] <= press["ended"] <= result.json["elapsed_s"]
    assert result.json["diff"]["before"]["guests"][0]["state"] == "up"
    assert result.json["diff"]["after"]["guests"][0]["state"] == "down"
    assert "warnings" not in result.json


def test_the_second_run_changes_nothing(boot):
    guest = boot()
    assert shutdown(guest).changed
    again = shutdown(guest)
    assert not again.changed
    assert again.json["guest"]["state_before"] == "absent"
    assert again.json["guest"]["attempts"] == []


def test_check_mode_only_queries_and_names_the_first_rung(boot):
    guest = boot()
    result = shutdown(guest, check=True)
    assert result.changed
    assert result.json["guest"]["first_rung"] == "acpi"
    assert result.json["guest"]["attempts"] == []
    assert result.json["diff"]["after"]["guests"][0]["state"] == "down"
    assert guest.alive()
    assert guest.said() == "BR"


def test_a_press_that_came_too_early_is_followed_by_another(boot):
    guest = boot(kind=Kind.LISTENS_AFTER_A_KEY, second_monitor=True)
    with Qmp(guest.second_qmp_socket) as inside:
        running = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 60, "max_rung": "acpi"})
        inside.wait_for_event("POWERDOWN")
        assert "R" not in guest.said(), "the press was meant to come before the guest listens"
        inside.execute("send-key", keys=[{"type": "qcode", "data": "a"}])
        result = finish(running)
    assert result.changed, result.json
    assert sent(result) == ["system_powerdown", "system_powerdown"]
    assert result.json["guest"]["graceful"] is True
    assert guest.said() == "BRP"


def test_a_guest_that_ignores_acpi_is_told_to_quit_with_a_warning(boot):
    guest = boot(kind=Kind.IGNORES)
    result = shutdown(guest, timeout=10)
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["method"], record["graceful"], record["shutdown_reason"]) == ("quit", False, "host-qmp-quit")
    assert "did not shut down by itself" in str(result.json["warnings"])
    assert not guest.alive()


def test_never_past_max_rung(boot):
    guest = boot(kind=Kind.IGNORES)
    result = shutdown(guest, timeout=6, max_rung="acpi")
    assert result.failed
    assert "still alive after acpi" in result.msg
    assert "max_rung: quit" in result.msg
    assert result.json["changed"] is True, "the guest may act on the press later"
    assert result.json["guest"]["state"] == "running"
    assert result.json["elapsed_s"] < 60, "its time is over"
    assert guest.alive()


def test_require_graceful_fails_although_the_guest_is_down(boot):
    guest = boot(kind=Kind.IGNORES)
    result = shutdown(guest, timeout=10, require_graceful=True)
    assert result.failed
    assert "by quit" in result.msg
    assert result.json["changed"] is True
    assert result.json["error"]["guests"][0]["guest"] == str(guest.pidfile)
    assert not guest.alive()


@pytest.mark.parametrize(
    ("kind", "extra", "reason", "words"),
    [
        (Kind.PANICS_WHEN_PRESSED, ["-device", "pvpanic"], "guest-panic", "it panicked on its way"),
        (Kind.REBOOTS, ["-no-reboot"], "guest-reset", "it rebooted instead"),
    ],
    ids=["panic", "reset"],
)
def test_a_guest_that_ends_otherwise_than_by_a_shutdown_is_not_graceful(boot, kind, extra, reason, words):
    guest = boot(kind=kind, extra=extra)
    result = shutdown(guest, require_graceful=True)
    assert result.failed
    assert words in result.msg
    assert result.json["changed"] is True
    record = result.json["guest"]
    assert (record["method"], record["graceful"], record["shutdown_reason"]) == ("acpi", False, reason)
    assert not guest.alive()
    tolerant = boot("tolerant", kind=kind, extra=extra)
    assert words in str(shutdown(tolerant).json["warnings"])


@pytest.mark.parametrize("max_rung", ["agent", "acpi", "quit"])
def test_the_hint_names_a_rung_that_would_reach_the_guest(boot, max_rung):
    """Its monitor is held by another client, so the power button and quit would not."""
    guest = boot(agent=True)
    with Qmp(guest.qmp_socket):
        result = shutdown(guest, timeout=10, max_rung=max_rung, agent_socket=str(guest.agent_socket))
    assert result.failed
    assert "still alive after" in result.msg
    assert result.msg.endswith("max_rung: terminate.")
    assert guest.alive()


def test_a_windows_like_guest_needs_two_presses(boot):
    guest = boot(presses=2)
    result = shutdown(guest, profile="windows", max_rung="acpi")
    assert result.changed, result.json
    first, second = [a for a in result.json["guest"]["attempts"] if a["sent"] == "system_powerdown"]
    assert second["started"] > WINDOWS_GAP_S, "as the ladder has no second press before"
    assert second["started"] - first["started"] < 9, "the next pair comes after 9 s at the earliest"
    assert guest.said() == "BRPP"


def test_a_guest_that_reboots_instead_is_pressed_again(boot):
    guest = boot(kind=Kind.REBOOTS, second_monitor=True)
    with Qmp(guest.second_qmp_socket) as inside:
        running = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 120})
        for _press in range(2):
            inside.wait_for_event("POWERDOWN")
            inside.wait_for_event("RESET")
        inside.send("quit")
        result = finish(running)
    assert result.changed, result.json
    record = result.json["guest"]
    assert record["guest_rebooted"] >= 2
    presses = [attempt for attempt in record["attempts"] if attempt["sent"] == "system_powerdown"]
    assert [attempt["n"] for attempt in presses[:2]] == [1, 2]
    gaps = [after["started"] - before["started"] for before, after in zip(presses, presses[1:], strict=False)]
    assert min(gaps) < 9, "the system that has come is not kept waiting for as long as one that heard nothing"
    assert (record["method"], record["graceful"]) == ("acpi", False)


@pytest.mark.parametrize(
    ("policy", "method", "graceful"), [("resume", "acpi", True), ("force", "quit", False)], ids=["resume", "force"]
)
def test_a_paused_guest_is_resumed_or_ended_as_it_is(boot, policy, method, graceful):
    guest = boot()
    pause(guest)
    result = shutdown(guest, paused=policy)
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["state_before"], record["method"], record["graceful"]) == ("paused", method, graceful)
    first = {"resume": ("prepare", 1, "cont"), "force": ("quit", 1, "quit")}[policy]
    assert [(a["rung"], a["n"], a["sent"]) for a in record["attempts"]] == [
        first,
        *([("acpi", 1, "system_powerdown")] if policy == "resume" else []),
    ]
    assert not guest.alive()


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_a_paused_guest_is_left_alone_unless_allowed(boot, check):
    guest = boot()
    pause(guest)
    result = shutdown(guest, check=check)
    assert result.failed
    assert "paused: resume" in result.msg
    assert sent(result) == []
    assert guest.alive()


def pause(guest: BootGuest) -> None:
    with Qmp(guest.qmp_socket) as monitor:
        monitor.execute("stop")


@pytest.mark.parametrize("how", ["-S", "-preconfig"])
def test_a_guest_that_never_ran_is_told_to_quit(boot, how):
    guest = boot(extra=[how], wait=False)
    result = shutdown(guest)
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["state_before"], record["method"]) == ("prelaunch", "quit")
    assert not guest.alive()


def test_no_shutdown_does_not_keep_the_process(boot):
    guest = boot(extra=["-no-shutdown"])
    result = shutdown(guest, max_rung="acpi")
    record = result.json["guest"]
    assert (record["method"], record["graceful"], record["shutdown_reason"]) == ("acpi", True, "guest-shutdown")
    assert not guest.alive()


def test_a_guest_that_is_off_already_only_needs_its_process_ended(boot):
    guest = boot(extra=["-no-shutdown"])
    with Qmp(guest.qmp_socket) as monitor:
        monitor.execute("system_powerdown")
        until(lambda: monitor.execute("query-status")["status"] == "shutdown", "the guest to be off")
    result = shutdown(guest, max_rung="acpi", require_graceful=True)
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["state_before"], record["method"], record["graceful"]) == ("shutdown", "quit", True)
    assert not guest.alive()


def test_a_suspended_guest_is_woken_first(boot):
    guest = boot(kind=Kind.SLEEPS)
    with Qmp(guest.qmp_socket) as monitor:
        monitor.execute("system_powerdown")
        until(lambda: monitor.execute("query-status")["status"] == "suspended", "the guest to sleep")
    result = shutdown(guest, timeout=10)
    assert result.changed, result.json
    assert result.json["guest"]["state_before"] == "suspended"
    assert sent(result)[0] == "system_wakeup"
    assert result.json["guest"]["attempts"][0]["rung"] == "prepare"
    assert not guest.alive()


def test_a_panicked_guest_can_only_be_told_to_quit(boot):
    guest = boot(kind=Kind.PANICS, extra=["-device", "pvpanic", "-action", "panic=pause"])
    with Qmp(guest.qmp_socket) as monitor:
        until(lambda: monitor.execute("query-status")["status"] == "guest-panicked", "the guest to panic")
    assert "max_rung is acpi" in shutdown(guest, max_rung="acpi").msg
    assert guest.alive()
    result = shutdown(guest)
    assert (result.json["guest"]["state_before"], result.json["guest"]["method"]) == ("broken", "quit")
    assert not guest.alive()


def test_a_guest_being_received_is_left_alone_unless_forced(boot):
    guest = boot(extra=["-incoming", "defer"], wait=False)
    refused = shutdown(guest)
    assert refused.failed
    assert "migrated" in refused.msg
    assert guest.alive()
    assert shutdown(guest, paused="force").changed
    assert not guest.alive()


def test_named_paths_go_with_the_guest_and_nothing_else(boot, tmp_path):
    guest = boot()
    shared = tmp_path / "shm"
    shared.write_bytes(b"x")
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "precious").write_bytes(b"x")
    result = shutdown(guest, cleanup_paths=[str(shared), str(empty), str(full), str(tmp_path / "never was")])
    assert result.failed
    assert "full was left behind: Directory not empty" in result.msg
    record = result.json["guest"]
    assert record["cleaned"] == [str(shared), str(empty)]
    assert record["left_behind"][0]["path"] == str(full)
    assert (full / "precious").exists()
    assert guest.disk.exists()
    assert not guest.alive()


def test_a_named_path_of_an_absent_guest_is_removed_too(tmp_path):
    path = tmp_path / "shm"
    path.write_bytes(b"x")
    options = {"pidfile": str(tmp_path / "pid"), "cleanup_paths": [str(path)]}
    assert run_module("qemu_guest_shutdown", options, check=True).changed
    assert path.exists()
    assert run_module("qemu_guest_shutdown", options).changed
    assert not path.exists()
    assert not run_module("qemu_guest_shutdown", options).changed


def test_named_paths_that_a_living_guest_uses_stay(boot, tmp_path):
    guest, other = boot(), boot("web2")
    own = tmp_path / "shm"
    own.write_bytes(b"x")
    used = [other.qmp_socket, other.pidfile, other.disk, other.serial]
    result = shutdown(guest, cleanup_paths=[str(own), *map(str, used)])
    assert not result.failed, result.msg
    assert all(path.exists() for path in used)
    record = result.json["guest"]
    assert str(own) in record["cleaned"]
    said = [(entry["path"], entry["outcome"], entry["reason"]) for entry in record["left_behind"]]
    assert said == [
        (str(other.qmp_socket), "kept", "another process listens there"),
        (str(other.pidfile), "kept", "process %d has locked it" % other.pid),
        (str(other.disk), "kept", "another process has locked it"),
        (str(other.serial), "kept", "process %d has it open for writing" % other.pid),
    ]
    again = shutdown(guest, cleanup_paths=[str(path) for path in used])
    assert not again.changed
    assert again.json["guest"]["left_behind"] == record["left_behind"]
    other.end()
    assert shutdown(guest, cleanup_paths=[str(path) for path in used]).changed
    assert not any(path.exists() for path in used)


def test_a_named_path_whose_user_ends_just_after_the_guest_is_no_fault(boot):
    """The first guest's files are taken away while the second one, in a later group, still writes to its log."""
    guest, other = boot(), boot("web2")
    first = {**guest.options, "cleanup_paths": [str(other.serial)]}
    result = run_module("qemu_guest_shutdown", {"guests": [first, {**other.options, "group": 1}]})
    assert not result.failed, result.msg
    assert result.json["guests"][0]["left_behind"][0]["path"] == str(other.serial)
    assert run_module("qemu_guest_shutdown", first).json["guest"]["cleaned"] == [str(other.serial)]


def test_by_pid_alone(boot):
    guest = boot()
    refused = run_module("qemu_guest_shutdown", {"pid": guest.pid})
    assert refused.failed
    assert "max_rung is quit" in refused.msg
    assert guest.alive()
    result = run_module("qemu_guest_shutdown", {"pid": guest.pid, "max_rung": "terminate"})
    assert result.changed, result.json
    assert result.json["guest"]["method"] == "terminate"
    assert not guest.alive()


@pytest.mark.parametrize("module", ["qemu_guest_info", "qemu_guest_shutdown"])
def test_a_number_that_no_process_has_is_an_absent_guest(boot, module):
    guest = boot()
    thread = max(int(entry) for entry in os.listdir("/proc/%d/task" % guest.pid))
    assert thread != guest.pid
    for number in (thread, 1 << 40):
        result = run_module(module, {"pid": number})
        assert (result.failed, result.changed) == (False, False), result.msg
        assert result.json["guest"]["state"] == "absent"
    assert guest.alive()


def test_by_name_alone_it_is_found_and_its_sockets_with_it(boot, tmp_path):
    name = "only-%d" % os.getpid()
    guest = boot(name)
    other = boot(name + "-not-this")
    result = run_module("qemu_guest_shutdown", {"name": name})
    assert result.changed, result.json
    assert (result.json["guest"]["method"], result.json["guest"]["graceful"]) == ("acpi", True)
    assert not guest.alive()
    assert other.alive()
    assert not run_module("qemu_guest_shutdown", {"name": name}).changed


def test_by_name_alone_its_agent_is_found_too(boot):
    name = "agent-%d" % os.getpid()
    guest = boot(name, agent=True)
    result = run_module("qemu_guest_shutdown", {"name": name})
    assert [a["rung"] for a in result.json["guest"]["attempts"]] == ["agent", "acpi"], result.json
    assert not guest.alive()
    hung = boot(name, agent=True)
    hung.stop()
    result = run_module("qemu_guest_shutdown", {"name": name, "max_rung": "kill"})
    assert sent(result) == ["SIGKILL"], result.json
    assert result.json["guest"]["cleaned"] == [str(hung.pidfile), str(hung.qmp_socket), str(hung.agent_socket)]
    assert not hung.agent_socket.exists()


def test_a_name_that_two_guests_bear_is_refused(boot, tmp_path):
    name = "twin-%d" % os.getpid()
    one, two = boot("a/" + name), boot("b/" + name)
    result = run_module("qemu_guest_shutdown", {"name": name})
    assert result.failed
    assert str(one.pid) in result.msg
    assert str(two.pid) in result.msg
    assert one.alive()
    assert two.alive()


@pytest.mark.parametrize(
    "option",
    [{"name": "somebody"}, {"uuid": "6f1d2c0e-8a43-4a57-9a52-1f0f6f0a4c11"}],
    ids=["name", "uuid"],
)
def test_another_name_or_uuid_means_another_guest(boot, option):
    guest = boot()
    result = shutdown(guest, **option)
    assert result.failed
    assert result.json["guest"]["state"] == "identity_mismatch"
    assert sent(result) == []
    assert guest.alive()


def test_block_jobs_are_waited_for_cancelled_or_respected(boot, tmp_path):
    guest = boot(content_mib=8)
    target = tmp_path / "copy.img"
    start_slow_job(guest.qmp_socket, target)
    respected = shutdown(guest, block_jobs="fail")
    assert respected.failed
    assert "backup" in respected.msg
    assert sent(respected) == []
    waited = shutdown(guest, block_jobs="wait", timeout=6)
    assert waited.failed
    assert "have not ended" in waited.msg
    assert guest.said() == "BR"
    result = shutdown(guest, block_jobs="cancel")
    assert result.changed, result.json
    assert result.json["guest"]["block_jobs_cancelled"] == ["copy"]
    assert (result.json["guest"]["method"], result.json["guest"]["graceful"]) == ("acpi", True)


def test_a_job_that_ends_in_time_is_waited_for(boot, tmp_path):
    guest = boot(content_mib=8)
    start_slow_job(guest.qmp_socket, tmp_path / "copy.img", bytes_per_s=4 << 20)  # two seconds
    result = shutdown(guest)
    assert result.changed, result.json
    assert result.json["guest"]["block_jobs_cancelled"] == []
    assert result.json["guest"]["graceful"] is True


def test_a_job_that_the_shutdown_itself_cancels_is_told(boot, tmp_path):
    """It begins after the first press, so nothing could be decided about it; the second one powers the guest off."""
    guest = boot(kind=Kind.LISTENS_AFTER_A_KEY, content_mib=8, second_monitor=True)
    with Qmp(guest.second_qmp_socket) as inside:
        running = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 60})
        inside.wait_for_event("POWERDOWN")
    start_slow_job(guest.second_qmp_socket, tmp_path / "copy.img")
    with Qmp(guest.second_qmp_socket) as inside:
        inside.execute("send-key", keys=[{"type": "qcode", "data": "a"}])
    result = finish(running)
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["method"], record["graceful"], record["block_jobs_cancelled"]) == ("acpi", True, ["copy"])
    assert "its shutdown cancelled block jobs (copy)" in str(result.json["warnings"])


def test_single_presses_once_where_others_would_press_again(boot):
    guest = boot(presses=2)
    result = shutdown(guest, profile="single", timeout=24)
    assert result.changed, result.json
    assert sent(result) == ["system_powerdown", "quit"]
    press, quitting = result.json["guest"]["attempts"]
    assert quitting["started"] - press["started"] > 12, "the default profile presses again after 11 s at the latest"
    assert guest.said() == "BRP"


def test_without_cleanup_a_killed_guests_files_stay(boot, tmp_path):
    guest = boot()
    guest.stop()
    named = tmp_path / "shm"
    named.write_bytes(b"x")
    result = shutdown(guest, max_rung="kill", cleanup=False, cleanup_paths=[str(named)])
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["method"], record["state"], record["cleaned"]) == ("kill", "stale", [])
    assert not guest.alive()
    assert guest.pidfile.exists()
    assert guest.qmp_socket.exists()
    assert named.exists()


def test_an_empty_fleet_is_down():
    result = run_module("qemu_guest_shutdown", {"guests": []})
    assert not result.changed
    assert result.json["guests"] == []


@pytest.mark.every_core
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no guest is named"),
        ({"pidfile": "/run/a", "guests": [{"pidfile": "/run/b"}]}, "either guests, or"),
        ({"guests": [{"group": 1}]}, "guests[0].pidfile: nothing tells which guest is meant"),
        ({"guests": [{"pidfile": "/run/a"}, {"pidfile": "/run/a", "pid": 7}]}, "given for two guests"),
        ({"guests": [{"name": "a"}, {"name": "a", "group": 1}]}, "two entries mean the same guest"),
        ({"uuid": "12"}, "is no UUID"),
        ({"pid": 1}, "1 is no guest's"),
        ({"pidfile": "/run/a", "timeout": 0}, "are no time"),
        ({"pidfile": "/run/a", "parallel": -1}, "is negative"),
        ({"guests": [{"pidfile": "/run/a"}], "cleanup_paths": ["/tmp/x"]}, "isn't clear whose"),
    ],
)
def test_bad_input_is_told_before_anything_is_touched(options, words):
    result = run_module("qemu_guest_shutdown", options)
    assert result.failed
    assert words in result.msg


@pytest.mark.parametrize("means", ["name", "pid", "agent_socket"])
def test_one_guest_named_by_two_means_is_told_before_anything_is_sent(boot, means):
    guest = boot("twice-%d" % os.getpid(), agent=True)
    second = {"name": guest.folder.name, "pid": guest.pid, "agent_socket": str(guest.agent_socket)}[means]
    result = run_module("qemu_guest_shutdown", {"guests": [guest.options, {means: second, "group": 1}]})
    assert result.failed
    assert "two entries mean the same guest" in result.msg
    assert "both process %d" % guest.pid in result.msg
    assert not result.changed
    assert guest.alive()
    assert "P" not in guest.said()


def test_a_pidfile_that_may_not_be_used_is_an_error_with_advice(tmp_path):
    (tmp_path / "pid").mkdir()
    result = run_module("qemu_guest_shutdown", {"pidfile": str(tmp_path / "pid")})
    assert result.failed
    assert str(tmp_path / "pid") in result.msg


def test_the_signal_is_what_ended_it(boot):
    guest = boot(kind=Kind.IGNORES)
    with Qmp(guest.qmp_socket):
        result = shutdown(guest, max_rung="terminate")
    assert result.changed, result.json
    assert result.json["guest"]["state_before"] == "monitor_busy"
    assert sent(result) == [signal.SIGTERM.name]
