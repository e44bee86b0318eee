# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_info against real QEMU processes, which must be as they were afterwards."""

from __future__ import annotations

import os
import signal
import uuid
from typing import Any

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import STATES, Guest
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.observe import look
from tests.testbed.boot_guest import BootGuest, Qmp, until
from tests.testbed.modules import run_module
from tests.testbed.others_guest import ordinary_python
from tests.testbed.playbooks import run_tasks
from tests.testbed.stalled import Stalled
from tests.testbed.start_bench import Bench

# The whole host is searched for a UUID, and other runs of these tests may go on beside this one.
UUID = str(uuid.uuid4())


def info(arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
    result = run_module("qemu_guest_info", arguments, **options)
    assert not result.failed, result.json
    assert not result.changed
    return result.json["guest"]


def test_a_running_guest(boot):
    guest = boot(agent=True, extra=["-uuid", UUID])
    seen = info({**guest.options, "agent_socket": str(guest.agent_socket), "name": "web1", "uuid": UUID.upper()})
    assert (seen["state"], seen["status"], seen["pid"]) == ("running", "running", guest.pid)
    assert (seen["name"], seen["uuid"]) == ("web1", UUID)
    assert seen["machine"].startswith("pc-i440fx-")
    assert seen["version"].count(".") == 2
    assert seen["agent_connected"] is False
    assert [(block["file"], block["format"]) for block in seen["block_devices"]] == [(str(guest.disk), "raw")]
    assert seen["images"] == [str(guest.disk)]
    assert seen["block_jobs"] == []
    assert guest.said() == "BR"
    with Qmp(guest.qmp_socket):  # the monitor is free again
        pass


def test_an_agents_socket_is_known_by_whatever_way_it_is_reached(bench: Bench) -> None:
    bench.runs.mkdir()
    linked = bench.folder / "linked"
    linked.symlink_to(bench.runs, target_is_directory=True)
    started = bench.start(run_dir=str(linked)).json["guest"]
    assert started["agent_socket"] == str(bench.place("agent.sock"))
    by_link = {"pidfile": "qemu.pid", "qmp_socket": "qmp.sock", "agent_socket": "agent.sock"}
    seen = info({option: str(linked / "g" / name) for option, name in by_link.items()})
    assert (seen["state"], seen["agent_connected"]) == ("running", False)


def test_block_jobs_are_listed(boot, tmp_path):
    guest = boot(content_mib=8)
    with Qmp(guest.qmp_socket) as monitor:
        device = monitor.execute("query-block")[0]["device"]
        monitor.execute(
            "drive-backup",
            device=device,
            target=str(tmp_path / "copy"),
            format="raw",
            sync="full",
            speed=1024,
            **{"job-id": "copy"},
        )
    (job,) = info(guest.options)["block_jobs"]
    assert (job["name"], job["kind"], job["ready"]) == ("copy", "backup", False)
    assert job["length_bytes"] == guest.disk.stat().st_size


def stop(guest: BootGuest) -> None:
    with Qmp(guest.qmp_socket) as monitor:
        monitor.execute("stop")


def hang(guest: BootGuest) -> None:
    guest.stop()


def kill(guest: BootGuest) -> None:
    guest.signal(signal.SIGKILL)
    until(lambda: not guest.alive(), "the guest to die")


def end(guest: BootGuest) -> None:
    with Qmp(guest.qmp_socket) as monitor:
        monitor.execute("quit")
    until(lambda: not guest.alive(), "the guest to end")


@pytest.mark.parametrize(
    ("happens", "state"), [(stop, "paused"), (hang, "monitor_hung"), (kill, "stale"), (end, "absent")]
)
def test_each_state_is_told(boot, happens, state):
    guest = boot()
    happens(guest)
    seen = info(guest.options)
    assert seen["state"] == state
    assert seen["leftovers"] == ([str(guest.pidfile), str(guest.qmp_socket)] if state == "stale" else [])
    assert guest.pidfile.exists() is (state != "absent")


def test_every_status_that_qemu_knows_has_a_meaning(boot):
    guest = boot()
    with Qmp(guest.qmp_socket) as monitor:
        kinds = monitor.execute("query-qmp-schema")
    command = next(kind for kind in kinds if kind["name"] == "query-status")
    answer = next(kind for kind in kinds if kind["name"] == command["ret-type"])
    word = next(member["type"] for member in answer["members"] if member["name"] == "status")
    known = next(kind for kind in kinds if kind["name"] == word)["values"]
    assert "finish-migrate" in known
    assert set(known) <= set(STATES)


def test_a_busy_monitor_and_a_process_without_one(boot):
    guest = boot()
    with Qmp(guest.qmp_socket):
        assert info(guest.options)["state"] == "monitor_busy"
    seen = info({"pidfile": str(guest.pidfile)})
    assert (seen["state"], seen["pid"], seen["process_state"] in "RSD") == ("no_monitor", guest.pid, True)


def test_a_monitor_that_is_silent_while_its_process_runs(boot, tmp_path):
    guest = boot()
    with Stalled(guest, tmp_path):
        with Qmp(guest.qmp_socket) as monitor:
            monitor.send("quit")
            monitor.wait_for_event("SHUTDOWN")
        seen = info(guest.options)
        assert (seen["state"], seen["pid"]) == ("monitor_hung", guest.pid)
        assert seen["process_state"] in "RSD"


@pytest.mark.every_core
@pytest.mark.parametrize("option", ["name", "uuid", "pidfile", "qmp_socket", "agent_socket"])
@pytest.mark.parametrize("module", ["qemu_guest_info", "qemu_guest_shutdown"])
def test_a_variable_without_a_value_names_no_guest(module, option):
    for given, told in (({option: ""}, option), ({"guests": [{"pid": 4194304, option: " "}]}, "guests[0].%s" % option)):
        result = run_module(module, given)
        assert result.failed
        assert result.json["error"]["kind"] == "bad_input"
        assert "%s: it is empty. Give it a value, or leave the option out." % told in result.msg


def test_a_path_with_a_zero_byte_is_none():
    for given in ({"pidfile": "/run/a\0b"}, {"pidfile": "/run/a", "cleanup_paths": ["/run/a\0b"]}):
        result = run_module("qemu_guest_info", given)
        assert result.failed
        assert "zero byte" in result.msg or "null character" in result.msg  # the newest core says so itself


def test_a_mismatch_is_an_answer(boot):
    guest, other = boot(), boot("other")
    seen = info({"pidfile": str(guest.pidfile), "qmp_socket": str(other.qmp_socket)})
    assert seen["state"] == "identity_mismatch"
    assert str(guest.pid) in seen["problem"]
    assert str(other.pid) in seen["problem"]


def test_a_guest_is_found_by_its_uuid(boot):
    guest = boot("byuuid-%d" % os.getpid(), extra=["-uuid", UUID])
    seen = info({"uuid": UUID})
    assert (seen["state"], seen["pid"], seen["name"]) == ("running", guest.pid, guest.folder.name)


def test_an_agent_that_nobody_named_and_that_can_not_be_reached_is_done_without(boot, tmp_path):
    guest = boot("unreached-%d" % os.getpid(), agent=True)
    guest.agent_socket.chmod(0)
    ordinary = ordinary_python(tmp_path)
    seen = info({"name": guest.folder.name}, python=ordinary)
    assert (seen["state"], seen["pid"], seen["agent_connected"]) == ("running", guest.pid, None)
    named = info({**guest.options, "agent_socket": str(guest.agent_socket)}, python=ordinary)
    assert named["state"] == "unproven"
    assert "this user may not connect to %s" % guest.agent_socket in named["problem"]


def test_many_at_once_with_one_that_hangs(boot):
    guests = [boot("vm%d" % number) for number in range(3)]
    hang(guests[1])
    result = run_module("qemu_guest_info", {"guests": [guest.options for guest in guests]})
    assert [record["state"] for record in result.json["guests"]] == ["running", "monitor_hung", "running"]
    assert "guest" not in result.json
    sights = look([Guest(str(guest.pidfile), str(guest.qmp_socket)) for guest in guests], Deadline(60))
    asked = [sight.identity.monitor.outstanding or sight.identity.monitor.replies != {} for sight in sights]
    for sight in sights:
        sight.identity.close()
    assert asked == [True, False, True], "one whose process is stopped is not waited for"


def test_another_systems_view(boot):
    guest = boot()
    hidden = {"VMOPS_HIDE_CAPABILITIES": "pidfd,proc"}
    seen = info({**guest.options, "name": "web1"}, env=hidden)
    assert (seen["state"], seen["pid"], seen["process_state"]) == ("running", guest.pid, None)
    assert info(guest.options, env=hidden)["state"] == "unproven"


@pytest.mark.every_core
def test_through_ansible_itself(boot, tmp_path):
    """The whole matrix in one play: look, check mode, shut down with --diff, again, look."""
    guest = boot()
    shut = {"vmops.lifecycle.qemu_guest_shutdown": guest.options}
    play = run_tasks(
        tmp_path,
        [
            {"name": "look", "vmops.lifecycle.qemu_guest_info": guest.options},
            {"name": "would", **shut, "check_mode": True},
            {"name": "do", **shut},
            {"name": "again", **shut},
            {"name": "look again", "vmops.lifecycle.qemu_guest_info": guest.options, "check_mode": True},
        ],
        "--diff",
    )
    assert play.rc == 0, play.text
    assert [play.tasks[name]["changed"] for name in ("look", "would", "do", "again")] == [False, True, True, False]
    assert play.tasks["look"]["guest"]["state"] == "running"
    assert play.tasks["would"]["guest"]["first_rung"] == "acpi"
    assert play.tasks["do"]["guest"]["graceful"] is True
    assert play.tasks["do"]["diff"]["before"]["guests"][0]["state"] == "up"
    assert play.tasks["look again"]["guest"]["state"] == "absent"
    assert not guest.alive()
