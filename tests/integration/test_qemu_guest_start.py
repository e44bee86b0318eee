# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_start against real QEMU, with a boot sector as the guest: up in 0.1 s."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.record import digest
from tests.testbed.boot_guest import Kind, Qmp, image, is_stopped, until
from tests.testbed.modules import finish, imported_by, run_module, start_module
from tests.testbed.playbooks import run_tasks
from tests.testbed.start_bench import Bench, arguments, ask, held_by, running, wait_for_the_wait
from tests.testbed.untouched import untouched

# ---- the matrix: create, again, change, check mode, diff ----


def test_a_guest_is_started_and_ready(bench: Bench) -> None:
    result = bench.start()
    assert result.changed, result.msg
    guest = result.json["guest"]
    assert guest["state"] == "running"
    assert running(bench.folder) == [guest["pid"]] == [bench.pid()]
    assert bench.place("console.log").read_bytes() == b"BR"
    assert result.json["commands"] == [arguments(guest["pid"])]
    assert "guest=g" in arguments(guest["pid"])
    assert {entry.name for entry in bench.place("").iterdir()} == {
        "agent.sock",
        "console.log",
        "guest.json",
        "qemu.log",
        "qemu.pid",
        "qmp.sock",
    }
    assert ask(bench.place("qmp.sock"), "query-status")["status"] == "running"


def test_running_as_declared_is_unchanged(bench: Bench) -> None:
    first = bench.start()
    before = untouched(bench.place("guest.json"))
    again = bench.start(diff=True)
    assert not again.changed
    assert again.json["commands"] == []
    assert again.json["drift"] == []
    assert again.json["guest"] == first.json["guest"]
    assert again.json["diff"]["before"] == again.json["diff"]["after"]
    assert untouched(bench.place("guest.json")) == before


def test_info_reads_the_same_record(bench: Bench) -> None:
    places = {"pidfile": str(bench.place("qemu.pid")), "qmp_socket": str(bench.place("qmp.sock"))}
    started = bench.start().json["guest"]
    seen = run_module("qemu_guest_info", places).json["guest"]
    assert seen["definition_digest"] == started["digest"]
    assert (seen["definition"]["memory"], seen["definition"]["disks"][0]["path"]) == (32 * 1024**2, str(bench.disk))
    drift = bench.start(memory="48M").json["drift"]
    assert [(item["option"], item["running"]) for item in drift] == [("memory", seen["definition"]["memory"])]

    record = json.loads(bench.place("guest.json").read_text())
    bench.place("guest.json").write_text(json.dumps({**record, "pid": record["pid"] + 1}))
    seen = run_module("qemu_guest_info", places).json["guest"]
    assert (seen["definition"], seen["definition_digest"]) == (None, None), "that record is of another process"


def test_info_tells_of_a_guest_that_is_not_ready_yet(bench: Bench) -> None:
    bench.start_unready()
    seen = run_module("qemu_guest_info", {"pidfile": str(bench.place("qemu.pid"))}).json["guest"]
    assert seen["definition_digest"] == bench.start().json["guest"]["digest"]


@pytest.mark.parametrize("change", [{"uid": 12345}, {"mode": 0o777}], ids=str)
def test_a_directory_that_others_can_write_proves_nothing(bench: Bench, change: Mapping[str, int]) -> None:
    """Not even that the guest runs as declared: a stranger can lock a pidfile and write a record too."""
    bench.start()
    if "uid" in change:
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(bench.place(""), change["uid"], -1)
    else:
        bench.place("").chmod(change["mode"])
    for check in (False, True):
        result = bench.start(check=check)
        assert result.failed
        assert "isn't a directory of this user alone" in result.msg
    assert len(running(bench.folder)) == 1


@pytest.mark.parametrize("left", [None, "1"], ids=["removed", "replaced"])
def test_a_guest_without_its_pidfile_is_not_started_twice(bench: Bench, left: str | None) -> None:
    """A diskless guest would really run twice; and a living one must not lose its sockets to a failed second start."""
    bench.start(disks=[], ready="none")
    pid = bench.pid()
    bench.place("qemu.pid").unlink()
    if left is not None:
        bench.place("qemu.pid").write_text(left)
    before = {entry.name: entry.stat().st_ino for entry in bench.place("").iterdir()}
    result = bench.start(disks=[], ready="none")
    assert result.failed
    assert "it may be running already" in result.msg
    assert str(pid) in result.msg
    assert running(bench.folder) == [pid]
    assert {entry.name: entry.stat().st_ino for entry in bench.place("").iterdir()} == before
    assert ask(bench.place("qmp.sock"), "query-status")["status"] == "running"


def test_a_pidfile_that_is_a_fifo_keeps_nobody_waiting(bench: Bench) -> None:
    bench.place("").mkdir(parents=True, mode=0o700)
    os.mkfifo(bench.place("qemu.pid"))
    for module, options in (
        ("qemu_guest_start", bench.options()),
        ("qemu_guest_shutdown", {"pidfile": str(bench.place("qemu.pid"))}),
    ):
        result = run_module(module, options)
        assert result.failed
        assert "is no regular file" in result.msg


def test_the_same_size_in_other_words_is_the_same(bench: Bench) -> None:
    bench.start(memory="32M")
    assert not bench.start(memory=str(32 * 1024 * 1024)).changed


def test_a_uuid_in_other_letters_is_the_same(bench: Bench) -> None:
    mixed = str(uuid.uuid4())
    bench.start(uuid=mixed.upper())
    assert bench.start(uuid=mixed).json["drift"] == []


@pytest.mark.parametrize("timeout", [0, -1])
def test_no_time_is_bad_input(bench: Bench, timeout: int) -> None:
    result = bench.start(timeout=timeout)
    assert result.json["error"]["option"] == "timeout"
    assert "are no time" in result.msg
    assert not bench.runs.exists()


@pytest.mark.parametrize(("words", "status"), [(["-S"], "prelaunch"), (["-incoming", "defer"], "inmigrate")], ids=str)
def test_a_wait_that_is_over_tells_of_a_guest_that_does_not_run(bench: Bench, words: list[str], status: str) -> None:
    assert bench.start(extra_args=words, ready="none", ready_text=None).changed
    result = bench.start(extra_args=words, timeout=4)
    assert result.failed
    assert "QEMU calls it %s" % status in result.msg


def test_what_is_waited_for_is_no_part_of_the_machine(bench: Bench) -> None:
    bench.start()
    for ready in ({"ready": "none"}, {"ready_text": "R"}):
        again = bench.start(**ready, timeout=20)
        assert not again.changed, again.msg
        assert again.json["drift"] == []


@pytest.mark.parametrize(
    ("ready", "named"),
    [
        ({"ready": "agent"}, "the guest agent of g"),
        ({"ready": "port", "ready_port": 1}, "port 1 of g"),
        ({"ready_text": "NEVER"}, "'NEVER' on the console of g"),
    ],
    ids=str,
)
def test_a_running_guest_is_waited_for_where_another_readiness_is_asked_for(
    bench: Bench, ready: Mapping[str, Any], named: str
) -> None:
    pid = bench.start().json["guest"]["pid"]
    late = bench.start(**ready, timeout=3)
    assert late.failed
    assert not late.changed
    assert named in late.msg
    assert not bench.start(**ready, check=True).changed
    assert not bench.start().changed
    assert running(bench.folder) == [pid]


def test_a_readiness_once_reached_is_not_waited_for_again(bench: Bench) -> None:
    bench.start()
    bench.start(ready_text="R")
    before = untouched(bench.place("guest.json"))
    for text in ("BR", "R"):
        assert not bench.start(ready_text=text).failed
    assert untouched(bench.place("guest.json")) == before


def test_a_readiness_that_cannot_be_is_told_also_of_a_running_guest(bench: Bench) -> None:
    bench.start(agent=False)
    for check in (True, False):
        assert "no agent channel" in bench.start(agent=False, ready="agent", check=check).msg


def test_the_record_of_an_older_version_counts_as_ready_and_shows_no_drift(bench: Bench) -> None:
    """It knows nothing of what was waited for, and holds addresses and networks as they were written."""
    card = {"mac": "52:54:00:aa:00:01"}
    bench.start(networks=[card])
    record = json.loads(bench.place("guest.json").read_text())
    del record["reached"]
    record["definition"]["networks"][0]["mac"] = "52-54-00-AA-00-01"
    bench.place("guest.json").write_text(json.dumps(record))
    again = bench.start(networks=[card], ready="agent", timeout=20)
    assert not again.failed, again.msg
    assert not again.changed
    assert again.json["drift"] == []


@pytest.mark.parametrize(
    ("networks", "others"),
    [
        ([{"mac": "52:54:00:aa:00:01"}], [{"mac": "52-54-00-AA-00-01"}]),
        (None, [{}]),
        ([{}], [{"mode": "user", "model": "virtio", "forwards": []}]),
    ],
    ids=str,
)
def test_the_same_cards_in_other_words_are_the_same(bench: Bench, networks: Any, others: Any) -> None:
    first = bench.options()
    del first["networks"]
    if networks is not None:
        first["networks"] = networks
    pid = run_module("qemu_guest_start", first).json["guest"]["pid"]
    again = bench.start(networks=others, restart="if_needed")
    assert not again.changed
    assert again.json["drift"] == []
    assert running(bench.folder) == [pid]


def test_check_mode_starts_nothing(bench: Bench) -> None:
    result = bench.start(check=True)
    assert result.changed
    assert result.json["diff"]["after"]["state"] == "running"
    assert not bench.runs.exists()
    assert running(bench.folder) == []


def test_check_mode_knows_disks_that_are_not_there_yet(bench: Bench) -> None:
    assert bench.start(check=True, disks=[{"path": str(bench.folder / "later.qcow2")}]).changed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"emulator": "qemu-nope"}, "qemu-nope was not found"),
        ({"emulator": "/nope/qemu"}, "Looked in: /nope."),
        ({"networks": [{"mode": "tap", "interface": "nope0"}]}, "no network device nope0"),
        ({"run_dir": "/proc/self/status"}, "is no directory"),
        ({"run_dir": "/proc/self/status/below"}, "is no directory"),
    ],
    ids=str,
)
def test_check_mode_promises_nothing_that_the_run_refuses(bench: Bench, changes: Mapping[str, Any], named: str) -> None:
    for check in (True, False):
        assert named in bench.start(check=check, **changes).msg
    assert [entry.name for entry in bench.folder.iterdir()] == ["boot.img"]


@pytest.mark.parametrize("kind", ["open to all", "file", "dangling link"])
def test_check_mode_sees_that_guests_cannot_run_there(bench: Bench, kind: str) -> None:
    if kind == "open to all":
        bench.runs.mkdir()
        bench.runs.chmod(0o777)
    elif kind == "file":
        bench.runs.write_text("")
    else:
        bench.runs.symlink_to(bench.folder / "none")
    for check in (True, False):
        result = bench.start(check=check)
        assert result.failed
        assert result.json["error"]["kind"] == "refused"
        assert "Choose a" in result.msg
    assert not (bench.folder / "none").exists()


@pytest.mark.parametrize("first", ["by its own name", "by a link"])
def test_a_guest_is_the_same_by_whatever_way_its_directory_is_reached(bench: Bench, first: str) -> None:
    bench.runs.mkdir(mode=0o700)
    link = bench.folder / "link"
    link.symlink_to(bench.runs)
    ways = [str(bench.runs), str(link)]
    if first == "by a link":
        ways.reverse()
    pid = bench.start(run_dir=ways[0], disks=[], ready="none").json["guest"]["pid"]
    again = bench.start(run_dir=ways[1], disks=[], ready="none")
    assert not again.changed
    assert again.json["guest"]["run_dir"] == str(bench.place(""))
    shutil.rmtree(bench.place(""))
    for way in ways:
        assert "it may be running already" in bench.start(run_dir=way, disks=[], ready="none").msg
        down = run_module("qemu_guest_shutdown", {"qmp_socket": way + "/g/qmp.sock"})
        assert "only terminate or kill would end it" in down.msg
        assert down.json["guest"]["pid"] == pid
    assert running(bench.folder) == [pid]
    assert run_module("qemu_guest_shutdown", {"qmp_socket": ways[1] + "/g/qmp.sock", "max_rung": "terminate"}).changed
    assert running(bench.folder) == []


def test_check_mode_of_a_running_guest_is_unchanged(bench: Bench) -> None:
    bench.start()
    assert not bench.start(check=True).changed


def test_drift_is_reported_and_left_alone(bench: Bench) -> None:
    first = bench.start()
    result = bench.start(memory="48M", cpus=2, diff=True)
    assert not result.changed
    assert result.json["drift"] == [
        {"option": "cpus", "running": 1, "declared": 2},
        {"option": "memory", "running": 32 * 1024**2, "declared": 48 * 1024**2},
    ]
    diff = result.json["diff"]
    assert (diff["before"]["definition"]["cpus"], diff["after"]["definition"]["cpus"]) == (1, 2)
    assert "cpus, memory" in str(result.json["warnings"])
    assert running(bench.folder) == [first.json["guest"]["pid"]]


def test_drift_is_acted_on_where_that_is_allowed(bench: Bench) -> None:
    first = bench.start()
    predicted = bench.start(memory="48M", restart="if_needed", check=True)
    assert predicted.changed
    assert running(bench.folder) == [first.json["guest"]["pid"]]
    result = bench.start(memory="48M", restart="if_needed")
    assert result.changed, result.msg
    assert result.json["diff"] == predicted.json["diff"]
    assert running(bench.folder) == [result.json["guest"]["pid"]] != [first.json["guest"]["pid"]]
    assert [attempt["outcome"] for attempt in result.json["attempts"] if attempt["rung"] == "acpi"] == ["ended"]
    assert not bench.start(memory="48M", restart="if_needed").changed


def test_a_restart_is_not_begun_with_a_missing_disk(bench: Bench) -> None:
    first = bench.start()
    other = [{"path": str(bench.folder / "gone.img"), "format": "raw", "interface": "ide"}]
    result = bench.start(disks=other, restart="if_needed")
    assert result.failed
    assert "gone.img is not there" in result.msg
    assert running(bench.folder) == [first.json["guest"]["pid"]]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cpu": "nonsense"}, "unable to find CPU model"),
        ({"machine": "nonsense"}, "unsupported machine type"),
        ({"machine": "pc,nonsense=on"}, "nonsense"),
        ({"cpus": 4000}, "4000"),
        ({"display": "nonsense"}, "nonsense"),
        ({"display": "vnc=127.0.0.1:1,nonsense=on"}, "nonsense"),
        ({"kernel": __file__}, "invalid kernel header"),
    ],
    ids=str,
)
def test_a_restart_is_not_begun_with_what_qemu_does_not_take(
    bench: Bench, wrong: Mapping[str, Any], words: str
) -> None:
    first = bench.start()
    result = bench.start(**wrong, restart="if_needed")
    assert result.failed
    assert not result.changed
    assert result.json["error"]["kind"] == "declaration_not_taken"
    assert words in result.msg
    assert "left running as it was" in result.msg
    assert running(bench.folder) == [first.json["guest"]["pid"]]
    assert not bench.start().changed


def test_a_restart_is_not_begun_with_a_disk_of_another_format(bench: Bench) -> None:
    """The running guest has it locked, which keeps nobody from looking at it."""
    pid = bench.start().json["guest"]["pid"]
    result = bench.start(disks=[{"path": str(bench.disk), "format": "qcow2"}], restart="if_needed")
    assert result.json["error"]["kind"] == "declaration_not_taken"
    assert "Image is not in qcow2 format" in result.msg
    assert running(bench.folder) == [pid]


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_restart_is_not_begun_with_a_port_that_another_program_has(bench: Bench, protocol: str, kind: int) -> None:
    pid = bench.start().json["guest"]["pid"]
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        forward = {"protocol": protocol, "host_port": other.getsockname()[1], "guest_port": 22}
        result = bench.start(networks=[{"forwards": [forward]}], restart="if_needed")
    assert result.failed
    assert result.json["error"]["option"] == "networks[0].forwards[0].host_port"
    assert "in use" in result.msg
    assert running(bench.folder) == [pid]


def test_a_restart_may_use_what_the_old_guest_had(bench: Bench) -> None:
    """Its port, its display's socket, its memory, its disk: no trial takes them from it either."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    display = bench.folder / "display"
    given = {
        "networks": [{"forwards": [{"host_port": port, "guest_port": 22}]}],
        "display": f"vnc=unix:{display}",
        "restart": "if_needed",
    }
    first = bench.start(**given)
    inode = display.stat().st_ino
    assert bench.start(**given, cpu="nonsense").json["error"]["kind"] == "declaration_not_taken"
    assert bench.start(**given, kernel=__file__).json["error"]["kind"] == "declaration_not_taken"
    assert display.stat().st_ino == inode
    assert running(bench.folder) == [first.json["guest"]["pid"]]
    result = bench.start(**given, cpus=2)
    assert result.changed, result.msg


def test_a_restart_that_fails_after_the_old_guest_ended_says_so(bench: Bench) -> None:
    bench.start()
    result = bench.start(extra_args=["-device", "nonsense"], restart="if_needed")
    assert result.failed
    assert result.changed
    assert "The guest that ran before was shut down" in result.msg
    assert running(bench.folder) == []


def test_a_restart_with_a_machine_option_that_leads_to_extra_arguments(bench: Bench) -> None:
    bench.start()
    memory = ["-object", "memory-backend-ram,id=ram,size=32M"]
    result = bench.start(machine="pc,memory-backend=ram", extra_args=memory, restart="if_needed")
    assert result.changed, result.msg


def test_a_restart_with_firmware_in_flash(bench: Bench) -> None:
    """The variables are the running guest's, who has them locked."""
    code, variables = bench.folder / "code", bench.folder / "vars"
    code.write_bytes(bytes(1 << 20))
    variables.write_bytes(bytes(1 << 16))
    given = {"firmware": str(code), "firmware_vars": str(variables), "ready": "none", "ready_text": None}
    first = bench.start(**given).json["guest"]["pid"]
    result = bench.start(**given, cpus=2, restart="if_needed", max_rung="quit", timeout=30)
    assert result.changed, result.msg
    assert running(bench.folder) == [result.json["guest"]["pid"]] != [first]


def test_a_restart_goes_no_further_than_allowed(bench: Bench) -> None:
    bench.disk.write_bytes(image(Kind.IGNORES))
    first = bench.start(ready_text="B")
    result = bench.start(ready_text="B", memory="48M", restart="if_needed", max_rung="acpi", timeout=10)
    assert result.failed
    assert "max_rung" in result.msg
    assert running(bench.folder) == [first.json["guest"]["pid"]]


# ---- a running guest's disks ----


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
@pytest.mark.parametrize("restart", ["never", "if_needed"])
def test_a_disk_taken_away_from_a_running_guest_is_told(bench: Bench, replaced: bool, restart: str) -> None:
    """What it writes is in the process alone, and would go with it."""
    pid = bench.start().json["guest"]["pid"]
    bench.disk.unlink()
    if replaced:
        bench.disk.write_bytes(image(Kind.OBEYS))
    for check in (True, False):
        for changes in ({}, {"memory": "48M"}):
            result = bench.start(check=check, restart=restart, **changes)
            assert result.failed
            assert result.json["error"]["kind"] == "refused"
            assert ("another file now" if replaced else "is gone") in result.msg
            assert f"process {pid}" in result.msg
            (kept,) = result.json["error"]["opened_as"]
            assert kept in result.msg
            assert Path(kept).read_bytes() == image(Kind.OBEYS)
    assert running(bench.folder) == [pid]


def test_a_renamed_disk_can_be_put_back(bench: Bench) -> None:
    bench.start()
    aside = bench.folder / "aside.img"
    bench.disk.rename(aside)
    bench.disk.write_bytes(image(Kind.OBEYS))
    assert "look with query-block where" in bench.start().msg
    aside.rename(bench.disk)
    assert not bench.start().changed


def test_a_disk_that_is_only_read_may_be_replaced(bench: Bench) -> None:
    medium = bench.folder / "medium.iso"
    medium.write_bytes(bytes(1 << 16))
    disks = [*bench.options()["disks"], {"path": str(medium), "format": "raw", "interface": "cdrom"}]
    bench.start(disks=disks)
    medium.unlink()
    assert not bench.start(disks=disks).failed


def test_nothing_is_said_of_disks_where_proc_is_hidden(bench: Bench) -> None:
    bench.start()
    bench.disk.unlink()
    result = run_module("qemu_guest_start", bench.options(), env={"VMOPS_HIDE_CAPABILITIES": "pidfd,proc"})
    assert not result.changed


# ---- up, and not running ----


@pytest.mark.parametrize("options", [{}, {"paused": "force"}, {"check": True}], ids=str)
def test_a_paused_guest_is_told_and_left_alone(bench: Bench, options: Mapping[str, Any]) -> None:
    pid = bench.start().json["guest"]["pid"]
    ask(bench.place("qmp.sock"), "stop")
    result = bench.start(diff=True, **options)
    assert not result.changed
    guest = result.json["guest"]
    assert (guest["pid"], guest["state"], guest["status"]) == (pid, "paused", "paused")
    diff = result.json["diff"]
    assert (diff["before"]["state"], diff["after"]["state"]) == ("paused", "running")
    assert "paused: resume would resume it" in str(result.json["warnings"])
    assert ask(bench.place("qmp.sock"), "query-status")["status"] == "paused"


def test_a_paused_guest_runs_again_where_that_is_allowed(bench: Bench) -> None:
    pid = bench.start().json["guest"]["pid"]
    ask(bench.place("qmp.sock"), "stop")
    predicted = bench.start(paused="resume", check=True)
    assert predicted.changed
    assert ask(bench.place("qmp.sock"), "query-status")["status"] == "paused"
    result = bench.start(paused="resume")
    assert result.changed, result.msg
    assert result.json["diff"] == predicted.json["diff"]
    assert (result.json["guest"]["pid"], result.json["guest"]["state"]) == (pid, "running")
    assert "warnings" not in result.json
    assert ask(bench.place("qmp.sock"), "query-status")["status"] == "running"
    assert not bench.start(paused="resume").changed


def test_a_guest_paused_before_it_was_ready_is_resumed_and_waited_for(bench: Bench) -> None:
    bench.disk.write_bytes(image(Kind.LISTENS_AFTER_A_KEY))
    bench.start_unready(b"B")
    ask(bench.place("qmp.sock"), "stop")
    again = bench.start(paused="resume", ready="none")
    assert again.changed, again.msg
    assert again.json["guest"]["state"] == "running"


def test_a_guest_of_an_older_version_is_resumed_whatever_is_refused_by_now(bench: Bench) -> None:
    """Its record and the task agree, so nothing of the declaration has to be looked at."""
    bench.start(ready="none", ready_text=None)
    record = json.loads(bench.place("guest.json").read_text())
    options = bench.options(extra_args=["-m", "64M"], ready="none", ready_text=None, paused="resume")
    declared = {**record["definition"], "extra_args": ["-m", "64M"]}
    record.update(definition=declared, digest=digest(declared))
    bench.place("guest.json").write_text(json.dumps(record))
    ask(bench.place("qmp.sock"), "stop")
    result = run_module("qemu_guest_start", options)
    assert result.changed, result.msg
    assert ask(bench.place("qmp.sock"), "query-status")["status"] == "running"


def test_a_restart_that_no_rung_can_do_is_refused_in_check_mode_too(bench: Bench) -> None:
    bench.start(agent=False)
    for check in (True, False):
        result = bench.start(agent=False, memory="48M", restart="if_needed", max_rung="agent", check=check)
        assert result.failed
        assert running(bench.folder) == [bench.pid()]


def test_a_guest_that_stops_again_is_not_called_resumed(bench: Bench) -> None:
    """Its disk answers every write with "no space", as a full file system would."""
    fault = {"event": "none", "iotype": "write", "errno": 28}
    faulty = {
        "driver": "raw",
        "node-name": "faulty",
        "file": {"driver": "blkdebug", "inject-error": [fault], "image": {"driver": "null-co", "size": 1 << 20}},
    }
    words = ["-blockdev", json.dumps(faulty), "-device", "ide-hd,drive=faulty,bus=ide.0,werror=enospc"]
    writes = bytes.fromhex(  # to the first bus's second disk: count 1, sector 1, WRITE SECTORS, and then 256 words
        "baf601b0f0eebaf201b001eebaf301b001eebaf401b000eebaf501b000eebaf701b030eeeca80874fbbaf001b90001efe2fdf4ebfd"
    )
    bench.disk.write_bytes(writes.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    given = {"ready": "none", "ready_text": None, "extra_args": words}
    bench.start(**given)
    until(lambda: ask(bench.place("qmp.sock"), "query-status")["status"] == "io-error", "the disk to fail")
    seen = bench.start(**given)
    assert (seen.json["guest"]["state"], seen.json["guest"]["status"]) == ("broken", "io-error")
    result = bench.start(paused="resume", **given)
    assert result.failed
    assert "stopped again: QEMU calls it io-error" in result.msg


def test_a_guest_that_was_never_let_run_is_told(bench: Bench) -> None:
    result = bench.start(extra_args=["-S"], ready="none", ready_text=None)
    assert (result.changed, result.json["guest"]["state"]) == (True, "prelaunch")
    assert "QEMU calls it prelaunch" in str(result.json["warnings"])


def test_a_monitor_that_is_held_keeps_nobody_waiting(bench: Bench) -> None:
    bench.start()
    with Qmp(bench.place("qmp.sock")):
        result = bench.start()
    assert not result.changed
    assert (result.json["guest"]["state"], result.json["guest"]["status"]) == ("running", None)
    assert "its monitor doesn't answer: it gave no greeting, because another client" in str(result.json["warnings"])
    assert result.json["elapsed_s"] < 30


def test_a_guest_whose_process_is_stopped_is_told_and_left_alone(bench: Bench) -> None:
    pid = bench.start().json["guest"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid), "the guest's process to stop")
    for check in (False, True):
        result = bench.start(check=check)
        assert not result.changed
        assert (result.json["guest"]["state"], result.json["guest"]["status"]) == ("running", None)
        assert "its monitor doesn't answer: process %d is stopped" % pid in str(result.json["warnings"])
    os.kill(pid, signal.SIGCONT)
    assert "warnings" not in bench.start().json


@pytest.mark.parametrize(("paused", "first_sent"), [("resume", "cont"), ("force", "quit")], ids=["resume", "force"])
def test_a_paused_guest_is_restarted_only_as_allowed(bench: Bench, paused: str, first_sent: str) -> None:
    first = bench.start().json["guest"]["pid"]
    ask(bench.place("qmp.sock"), "stop")
    for check in (True, False):
        refused = bench.start(memory="48M", restart="if_needed", check=check)
        assert refused.failed
        assert "allow paused: resume, or paused: force" in refused.msg
    assert running(bench.folder) == [first]
    result = bench.start(memory="48M", restart="if_needed", paused=paused)
    assert result.changed, result.msg
    assert result.json["attempts"][0]["sent"] == first_sent
    assert running(bench.folder) == [result.json["guest"]["pid"]] != [first]


# ---- through Ansible ----


@pytest.mark.every_core
def test_through_ansible_itself(bench: Bench) -> None:
    task = {"name": "up", "vmops.lifecycle.qemu_guest_start": bench.options()}
    assert run_tasks(bench.folder, [task]).tasks["up"]["changed"]
    assert not run_tasks(bench.folder, [task]).tasks["up"]["changed"]
    other = {"name": "up", "vmops.lifecycle.qemu_guest_start": bench.options(memory="48M")}
    play = run_tasks(bench.folder, [other], "--diff")
    assert not play.tasks["up"]["changed"]
    assert [item["option"] for item in play.tasks["up"]["drift"]] == ["memory"]


# ---- identity of the guest ----


def test_uuid_and_mac_stay_the_same_from_start_to_start(bench: Bench) -> None:
    def identity() -> list[str]:
        words = arguments(bench.pid())
        card = next(word for word in words if word.startswith("virtio-net"))
        return [words[words.index("-uuid") + 1], card]

    bench.start(networks=None)
    first = identity()
    bench.end()
    bench.start(networks=None)
    assert identity() == first
    bench.end()
    bench.start(networks=None, name="h")
    other = arguments(bench.pid("h"))
    assert first[0] not in other
    assert first[1] not in other


def test_the_directory_is_private(bench: Bench) -> None:
    old = os.umask(0)
    try:
        bench.start()
    finally:
        os.umask(old)
    assert bench.runs.stat().st_mode & 0o777 == 0o700
    assert bench.place("").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_can_enter_is_refused(bench: Bench) -> None:
    bench.place("").mkdir(parents=True)
    bench.place("").chmod(0o755)
    result = bench.start()
    assert result.failed
    assert result.json["error"]["kind"] == "refused"
    assert running(bench.folder) == []


def test_a_path_too_long_for_a_socket_is_refused_beforehand(bench: Bench) -> None:
    result = bench.start(run_dir=str(bench.folder / ("x" * 100)))
    assert result.failed
    assert result.json["error"] == {
        "kind": "bad_input",
        "option": "run_dir",
        "expected": result.json["error"]["expected"],
    }
    assert "107" in result.msg
    assert [entry.name for entry in bench.folder.iterdir()] == ["boot.img"]


def test_names_with_commas_and_other_traps_are_only_names(bench: Bench) -> None:
    folder = bench.folder / "a,b=c d"
    folder.mkdir()
    for name in ("x,y.img", "nbd:localhost:1", "json:{}", "-dash", "ümlaut.img"):
        path = folder / name
        path.write_bytes(image(Kind.OBEYS))
        disk = {"path": str(path), "format": "raw", "interface": "ide"}
        result = bench.start(disks=[disk], run_dir=str(folder))
        assert not result.failed, result.msg
        pid = result.json["guest"]["pid"]
        assert any(
            os.path.realpath(f"/proc/{pid}/fd/{number}") == str(path) for number in os.listdir(f"/proc/{pid}/fd")
        )
        bench.end()


# ---- what goes wrong ----


def test_a_port_in_use_is_told_in_qemus_words_with_advice(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = bench.start(networks=[{"forwards": [{"host_port": port, "guest_port": 22}]}])
    assert result.failed
    assert result.json["error"]["kind"] == "start_failed"
    assert "Could not set up host forwarding rule" in result.msg
    assert "choose another host_port" in result.msg
    assert str(port) in result.msg
    assert running(bench.folder) == []
    assert {entry.name for entry in bench.place("").iterdir()} <= {"console.log", "qemu.log"}


def test_a_missing_disk_is_found_before_anything_is_touched(bench: Bench) -> None:
    result = bench.start(disks=[{"path": str(bench.folder / "none.qcow2")}])
    assert result.failed
    assert result.json["error"]["option"] == "disks[0].path"
    assert "none.qcow2 is not there" in result.msg
    assert not bench.place("").exists()


def test_a_disk_in_use_by_another_machine(bench: Bench) -> None:
    bench.start(name="first")
    result = bench.start(name="second")
    assert result.failed
    assert "lock" in result.msg
    assert "Another process has that image open" in result.msg
    assert len(running(bench.folder)) == 1


def test_a_disk_of_another_format(bench: Bench) -> None:
    result = bench.start(disks=[{"path": str(bench.disk), "format": "qcow2"}])
    assert result.failed
    assert "correct the disk's format" in result.msg


def test_an_unknown_emulator(bench: Bench) -> None:
    for emulator in ("qemu-system-nothing", "/nowhere/qemu"):
        result = bench.start(emulator=emulator)
        assert result.failed
        assert result.json["error"]["kind"] == "tool_missing"


def test_qemus_own_refusal(bench: Bench) -> None:
    result = bench.start(extra_args=["-device", "no-such-device"])
    assert result.failed
    assert "no-such-device" in result.msg
    assert result.json["error"]["rc"] == 1


def test_a_qemu_that_hangs_before_its_guest_runs_is_ended(bench: Bench) -> None:
    """It waits for somebody to connect to a socket, which nobody does."""
    path = bench.folder / "nobody.sock"
    waiting = f"socket,id=x,server=on,wait=on,path={path}"
    result = bench.start(extra_args=["-chardev", waiting], timeout=3)
    assert result.failed
    assert f"QEMU waits for somebody to connect to {waiting}: give that wait=off" in result.msg
    assert result.json["error"]["kind"] == "timed_out"
    assert running(bench.folder) == []
    assert {entry.name for entry in bench.place("").iterdir()} <= {"console.log", "qemu.log"}
    assert bench.start().changed


def test_of_a_qemu_that_hangs_and_cannot_be_ended_nothing_is_taken(bench: Bench) -> None:
    """Here because a system without process descriptors signals nothing. It may go on to run its guest."""
    path = bench.folder / "nobody.sock"
    given = bench.options(extra_args=["-chardev", f"socket,id=x,server=on,wait=on,path={path}"], timeout=8)
    result = run_module("qemu_guest_start", given, env={"VMOPS_HIDE_CAPABILITIES": "pidfd"})
    assert result.failed
    assert result.json["error"]["kind"] == "timed_out"
    assert running(bench.folder) == [bench.pid()]
    assert f"still held by process {bench.pid()} (/usr/bin/qemu-system" in result.msg
    assert "no signal is sent" in result.msg
    assert {entry.name for entry in bench.place("").iterdir()} >= {"guest.json", "qemu.pid", "qmp.sock"}


def test_a_guest_that_ends_at_once_is_reported_at_once(bench: Bench) -> None:
    """It says a word and resets itself through the keyboard controller, which with -no-reboot ends QEMU."""
    # mov dx,0x3f8; mov al,'!'; out dx,al; mov al,0xfe; out 0x64,al; hlt; jmp
    code = bytes.fromhex("baf803b021eeb0fee664f4ebfd")
    bench.disk.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    result = bench.start(extra_args=["-no-reboot"], ready_text="never", timeout=600)
    assert result.failed
    assert result.json["error"]["kind"] == "guest_ended"
    assert result.json["error"]["console"] == "!"
    assert "Its console ended with: !." in result.msg
    assert result.json["elapsed_s"] < 120
    assert running(bench.folder) == []


def test_a_guest_that_is_killed_while_it_is_waited_for(bench: Bench) -> None:
    process = start_module("qemu_guest_start", bench.options(ready_text="never", timeout=100))
    pid = wait_for_the_wait(bench, process)
    os.kill(pid, signal.SIGTERM)
    result = finish(process)
    assert result.failed
    assert result.json["error"]["kind"] == "guest_ended"
    assert "terminating on signal 15" in result.msg
    assert "BR" in result.msg


def test_a_guest_that_is_not_ready_in_time_runs_on_and_the_next_run_goes_on_waiting(bench: Bench) -> None:
    bench.disk.write_bytes(image(Kind.LISTENS_AFTER_A_KEY))
    result = bench.start(timeout=8)
    assert result.failed
    assert result.json["error"]["kind"] == "timed_out"
    pid = bench.pid()
    assert f"process {pid} lives and was left running" in result.msg
    assert running(bench.folder) == [pid]

    process = start_module("qemu_guest_start", bench.options())
    until(lambda: pid in held_by(process.pid), "the next run to wait for the guest")
    ask(bench.place("qmp.sock"), "send-key", {"keys": [{"type": "qcode", "data": "a"}]})
    again = finish(process)
    assert again.changed, again.msg
    assert again.json["diff"]["before"]["state"] == "starting"
    assert again.json["guest"]["pid"] == pid
    assert not bench.start().changed


@pytest.mark.parametrize("ready", ["console", "agent", "port"])
def test_others_look_at_a_guest_and_shut_it_down_while_a_task_waits_for_it(bench: Bench, ready: str) -> None:
    """QEMU's monitor serves one client at a time: who waits must not keep it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    given = {
        "ready": ready,
        "ready_text": "NEVER",
        "networks": [{"forwards": [{"host_port": port, "guest_port": 22}]}],
        "timeout": 100,
    }
    process = start_module("qemu_guest_start", bench.options(**given))
    wait_for_the_wait(bench, process)
    places = {"pidfile": str(bench.place("qemu.pid")), "qmp_socket": str(bench.place("qmp.sock"))}
    assert run_module("qemu_guest_info", places).json["guest"]["state"] == "running"
    down = run_module("qemu_guest_shutdown", {**places, "timeout": 60})
    assert down.changed, down.msg
    ended = finish(process)
    assert ended.json["error"]["kind"] == "guest_ended"
    assert running(bench.folder) == []


# ---- what lies about, and who else is at work ----


def test_stale_files_of_a_killed_guest(bench: Bench) -> None:
    bench.start()
    bench.end()
    assert bench.place("qemu.pid").exists()
    result = bench.start()
    assert result.changed
    assert result.json["diff"]["before"] == {"state": "absent"}
    assert running(bench.folder) == [bench.pid()]


def test_a_pidfile_with_the_number_of_a_stranger_is_no_guest(bench: Bench) -> None:
    bench.place("").mkdir(parents=True, mode=0o700)
    bench.place("").chmod(0o700)
    with subprocess.Popen(["sleep", "300"]) as stranger:
        bench.place("qemu.pid").write_text(f"{stranger.pid}\n")
        assert bench.start().changed
        assert stranger.poll() is None
        stranger.kill()


def test_a_guest_that_something_else_started_is_drift(bench: Bench) -> None:
    bench.start()
    bench.place("guest.json").write_text("{")
    result = bench.start()
    assert not result.changed
    assert result.json["guest"]["digest"] is None
    assert "memory" in [item["option"] for item in result.json["drift"]]


def test_two_tasks_on_one_guest_make_one_guest(bench: Bench) -> None:
    processes = [start_module("qemu_guest_start", bench.options()) for _each in range(3)]
    results = [finish(process) for process in processes]
    assert [result.json.get("msg") for result in results if result.failed] == []
    assert sorted(result.changed for result in results) == [False, False, True]
    assert len(running(bench.folder)) == 1


def test_many_machines_at_once(bench: Bench) -> None:
    disks = []
    for number in range(6):
        disk = bench.folder / f"{number}.img"
        disk.write_bytes(image(Kind.OBEYS))
        disks.append([{"path": str(disk), "format": "raw", "interface": "ide"}])
    processes = [
        start_module("qemu_guest_start", bench.options(name=f"m{number}", disks=disk, accel="auto", cpu=None))
        for number, disk in enumerate(disks)
    ]
    results = [finish(process) for process in processes]
    assert [result.msg for result in results if result.failed] == []
    assert len({result.json["guest"]["accel"] for result in results}) == 1
    assert len(running(bench.folder)) == 6
    assert not list(bench.runs.glob(".*vmops*"))


def test_the_daemon_has_a_session_of_its_own_and_outlives_the_module_group(bench: Bench) -> None:
    """The parent-death signal and the process group that tie a program to the module end with QEMU's own parent."""
    process = start_module("qemu_guest_start", bench.options())
    result = finish(process)
    pid = result.json["guest"]["pid"]
    assert os.getsid(pid) not in (process.pid, os.getsid(0))
    assert os.getpgid(pid) == os.getsid(pid)
    assert running(bench.folder) == [pid]


# ---- wait for a port ----


class Lines(threading.Thread):
    """A TCP server that begins to listen only when it is told to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        self.told = threading.Event()
        self.ended = threading.Event()

    def run(self) -> None:
        self.told.wait(300)
        with socket.create_server(("127.0.0.1", self.port)):
            self.ended.wait(300)


def test_a_port_that_opens_later(bench: Bench) -> None:
    server = Lines()
    server.start()
    process = start_module("qemu_guest_start", bench.options(ready="port", ready_port=server.port))
    wait_for_the_wait(bench, process)
    assert process.poll() is None
    server.told.set()
    assert finish(process).changed
    server.ended.set()


def test_a_forward_that_only_qemu_takes_is_not_ready(bench: Bench) -> None:
    """QEMU itself accepts every connection to a forwarded port; a boot sector never does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    networks = [{"forwards": [{"host_port": port, "guest_port": 22}]}]
    assert bench.start(networks=networks).changed
    result = bench.start(networks=networks, ready="port", ready_text=None, timeout=4)
    assert result.failed
    assert f"port {port} of g" in result.msg
    with socket.create_connection(("127.0.0.1", port), 60):
        pass  # which shows that it was QEMU's doing


def test_a_forward_is_waited_for_at_the_address_where_the_host_listens(bench: Bench) -> None:
    """Another server has the port at 127.0.0.1, and would be taken for the guest."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        forward = {"host_address": "127.0.0.2", "host_port": server.getsockname()[1], "guest_port": 22}
        networks = [{"forwards": [forward]}]
        assert bench.start(networks=networks).changed
        result = bench.start(networks=networks, ready="port", ready_text=None, timeout=4)
        assert result.failed
        assert f"port {forward['host_port']} of g at 127.0.0.2" in result.msg
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


# ---- accelerator ----


def test_auto_without_a_usable_kvm_is_tcg(bench: Bench) -> None:
    """Whatever this host has: the answer is one of the two, the guest boots with it, and it is kept."""
    result = bench.start(accel="auto", cpu=None)
    assert not result.failed, result.msg
    chosen = result.json["guest"]["accel"]
    words = arguments(bench.pid())
    assert chosen in ("kvm", "tcg")
    assert words[words.index("-accel") + 1] == chosen
    kept = bench.runs / ".accel.json"
    if kept.exists():
        assert json.loads(kept.read_text())["works"] == (chosen == "kvm")


def test_hidden_capabilities(bench: Bench) -> None:
    """A system without process descriptors and /proc: the lock on the pidfile tells."""
    hidden = {"VMOPS_HIDE_CAPABILITIES": "pidfd,proc,parent_death_signal"}
    result = run_module("qemu_guest_start", bench.options(), env=hidden)
    assert result.changed, result.msg
    assert "process" in str(result.json["warnings"])
    assert not run_module("qemu_guest_start", bench.options(), env=hidden).changed


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_to_be_done_without_the_code_that_does_it(bench: Bench) -> None:
    """A task compiles all that it imports: one with nothing to do leaves the launching part alone."""
    bench.start()
    result, imported = imported_by("qemu_guest_start", bench.options())
    assert result["changed"] is False
    launching = {name.rpartition(".")[2] for name in imported if "._qemu_guest." in name}
    assert launching == {"start", "places", "run_dir", "process", "record", "status", "model", "qmp"}
