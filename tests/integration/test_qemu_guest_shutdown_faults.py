# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_shutdown when things are not as they should be, against real QEMU processes: what it promises, and what
became of the world.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import converge
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import fleet, observe, probe
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.agent import SYNC_S
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.descent import Run
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, Policy, Rung
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.qmp import Monitor, converse
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.shutdown import Shutdown, Wish
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.status import ask
from tests.testbed import boot_guest
from tests.testbed.boot_guest import BootGuest, GuestWithAgent, Kind, Qmp, ended, start_many, until
from tests.testbed.held_call import WORKS_HERE, Gate
from tests.testbed.modules import Result, finish, run_module, start_module
from tests.testbed.shut_down import sent, shutdown, start_slow_job
from tests.testbed.stalled import Stalled


def outcomes(result: Result, rung: str) -> list[str]:
    return [attempt["outcome"] for attempt in result.json["guest"]["attempts"] if attempt["rung"] == rung]


# The agent


def test_a_dead_agent_is_noticed_at_once(boot):
    guest = boot(agent=True)
    result = shutdown(guest, agent_socket=str(guest.agent_socket))
    assert result.json["guest"]["method"] == "acpi"
    assert outcomes(result, "agent") == ["nobody_listens"]
    asked, pressed = result.json["guest"]["attempts"]
    assert asked["sent"] is None
    assert pressed["started"] - asked["started"] < SYNC_S, "an absent agent must not cost its time limit"


@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_a_dead_agent_is_told_where_nothing_else_may_be_used(boot, check):
    guest = boot(agent=True)
    result = shutdown(guest, check=check, agent_socket=str(guest.agent_socket), max_rung="agent")
    assert result.failed
    assert "no agent listens in it" in result.msg
    assert not result.changed
    assert result.json["guest"]["attempts"] == []
    assert guest.alive()


def answer(connection: socket.socket, message: dict[str, Any], sentinel: bytes = b"\xff") -> None:
    connection.sendall(sentinel + json.dumps(message).encode() + b"\n")


def requests(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What a client asks, one after the other."""
    for line in connection.makefile("rb"):
        yield json.loads(line.lstrip(b"\xff"))


def meanwhile(second_qmp: Path, happens: Callable[[], None]) -> Callable[[socket.socket], None]:
    """An agent that shuts its guest down only after something else has happened."""

    def script(connection: socket.socket) -> None:
        for request in requests(connection):
            if request["execute"] == "guest-sync-delimited":
                answer(connection, {"return": request["arguments"]["id"]})
            elif request["execute"] == "guest-shutdown":
                happens()
                with Qmp(second_qmp) as inside:
                    inside.execute("system_powerdown")

    return script


def live_agent(second_qmp: Path) -> Callable[[socket.socket], None]:
    """Does what the real one does: answers the sync, powers the guest off, and never says that it did."""
    return meanwhile(second_qmp, lambda: None)


def test_a_live_agent_is_asked_first(boot, tmp_path):
    guest = boot(make=GuestWithAgent, script=live_agent(tmp_path / "web1" / "second.sock"))
    result = shutdown(guest)
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["method"], record["graceful"], record["shutdown_reason"]) == ("agent", True, "guest-shutdown")
    assert "system_powerdown" not in sent(result)
    assert record["first_rung"] == "agent"
    assert not guest.alive()


def test_by_the_agents_socket_alone(boot, tmp_path):
    guest = boot(make=GuestWithAgent, script=live_agent(tmp_path / "web1" / "second.sock"))
    result = run_module("qemu_guest_shutdown", {"agent_socket": str(guest.agent_socket), "max_rung": "agent"})
    assert result.changed, result.json
    record = result.json["guest"]
    assert (record["state_before"], record["method"], record["graceful"]) == ("no_monitor", "agent", True)
    assert not guest.alive()


def test_max_rung_agent_uses_nothing_else(boot, tmp_path):
    guest = boot(make=GuestWithAgent, script=live_agent(tmp_path / "web1" / "second.sock"), kind=Kind.IGNORES)
    result = shutdown(guest, max_rung="agent", timeout=6)
    assert result.failed
    assert "max_rung: acpi" in result.msg
    assert sent(result) == ["guest-shutdown"]
    assert guest.alive()


def test_leftovers_of_another_client_are_thrown_away(boot, tmp_path):
    live = live_agent(tmp_path / "web1" / "second.sock")

    def script(connection: socket.socket) -> None:
        connection.sendall(b'{"return": {"uptime": 12}}\n{"error": {"class": "GenericError", "desc": "parse error"}}\n')
        connection.sendall(b'half a li\xff{"return": 1}\n')  # another client's sync
        live(connection)

    guest = boot(make=GuestWithAgent, script=script)
    assert shutdown(guest).json["guest"]["method"] == "agent"


def babble(connection: socket.socket) -> None:
    """Never stops talking, and never answers."""
    while True:
        connection.sendall(b'{"return": "noise"}\n' * 1000)


def silence(_connection: socket.socket) -> None:
    """Listens for ever."""


def wrong_number(connection: socket.socket) -> None:
    """Answers somebody else."""
    answer(connection, {"return": 1})


def hang_up(connection: socket.socket) -> None:
    """Goes away."""
    connection.shutdown(socket.SHUT_WR)


def nest(connection: socket.socket) -> None:
    """Says what no parser gets to the end of."""
    connection.sendall(b"\xff" + b"[" * 100_000 + b"\n")


def babble_in_step(connection: socket.socket) -> None:
    """Answers the sync, and then never stops talking."""
    for request in requests(connection):
        answer(connection, {"return": request["arguments"]["id"]})
        babble(connection)


def test_an_agent_that_answers_and_then_never_stops_talking_is_given_up(boot):
    guest = boot(make=GuestWithAgent, script=babble_in_step)
    result = shutdown(guest)
    assert result.changed, result.json
    assert result.json["guest"]["method"] == "acpi"


@pytest.mark.parametrize("manners", [babble, silence, wrong_number, hang_up, nest])
def test_a_rude_agent_gets_no_request_and_the_guest_goes_by_acpi(boot, manners):
    heard: list[str] = []

    def script(connection: socket.socket) -> None:
        with suppress(OSError):
            for request in requests(connection):
                if not heard:
                    threading.Thread(target=with_rude, args=(connection,)).start()
                heard.append(request["execute"])

    def with_rude(connection: socket.socket) -> None:
        with suppress(OSError):  # the client went away
            manners(connection)

    guest = boot(make=GuestWithAgent, script=script)
    result = shutdown(guest, timeout=150)
    assert result.changed, result.json
    assert result.json["guest"]["method"] == "acpi"
    assert outcomes(result, "agent")[-1] in ("no_answer", "connection_lost")
    assert sent(result) == ["guest-sync-delimited", "system_powerdown"]
    assert heard == ["guest-sync-delimited"]
    asked = result.json["guest"]["attempts"][0]
    assert asked["ended"] - asked["started"] < 30, "its time is its own, and not the half of what there is"


def test_an_agent_that_is_forbidden_to_shut_down_says_so(boot):
    def script(connection: socket.socket) -> None:
        for request in requests(connection):
            if request["execute"] == "guest-sync-delimited":
                answer(connection, {"return": request["arguments"]["id"]})
            else:
                answer(connection, {"error": {"class": "CommandNotFound", "desc": "disabled"}}, sentinel=b"")

    guest = boot(make=GuestWithAgent, script=script)
    result = shutdown(guest)
    assert result.json["guest"]["method"] == "acpi"
    assert outcomes(result, "agent")[-1] == "refused"


def test_an_agent_socket_of_another_process_is_a_mismatch(boot, tmp_path):
    guest = boot()
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(tmp_path / "agent.sock"))
        stranger.listen()
        stranger.settimeout(boot_guest.BOOT_S)
        result = shutdown(guest, agent_socket=str(tmp_path / "agent.sock"))
        connection, _address = stranger.accept()
        with connection:
            heard.append(connection.recv(100))
    assert result.failed
    assert result.json["guest"]["state"] == "identity_mismatch"
    assert heard == [b""], "nothing may be sent to a stranger"
    assert guest.alive()


# The monitor


def test_a_hung_monitor_is_left_alone_unless_signals_are_allowed(boot):
    guest = boot()
    guest.stop()
    refused = shutdown(guest)
    assert refused.failed
    assert refused.json["guest"]["state"] == "monitor_hung"
    assert "only kill would end it" in refused.msg
    assert sent(refused) == []
    assert guest.alive()
    result = shutdown(guest, max_rung="kill")
    assert result.changed, result.json
    assert sent(result) == ["SIGKILL"]
    assert result.json["guest"]["graceful"] is False
    assert result.json["guest"]["cleaned"] == [str(guest.pidfile), str(guest.qmp_socket)]
    assert not guest.alive()
    assert not guest.pidfile.exists()
    assert not guest.qmp_socket.exists()


def test_a_busy_monitor_is_told_from_a_hung_one(boot):
    guest = boot()
    with Qmp(guest.qmp_socket):
        refused = shutdown(guest)
        assert refused.failed
        assert refused.json["guest"]["state"] == "monitor_busy"
        assert "terminate or kill" in refused.msg
        assert guest.alive()
    assert shutdown(guest).json["guest"]["method"] == "acpi"


def test_a_full_queue_before_the_monitor_is_busy_too(boot):
    guest = boot()
    clients = []
    with Qmp(guest.qmp_socket):
        for _client in range(3):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            client.connect_ex(str(guest.qmp_socket))
        result = shutdown(guest)
    for client in clients:
        client.close()
    assert result.json["guest"]["state"] == "monitor_busy"
    assert guest.alive()


def test_quit_and_term_hang_and_only_kill_ends_it(boot, tmp_path):
    guest = boot()
    with Stalled(guest, tmp_path):
        refused = shutdown(guest, timeout=6)
        assert refused.failed
        assert "mirror" in refused.msg
        assert sent(refused) == []
        result = shutdown(guest, timeout=15, block_jobs="cancel", max_rung="kill", profile="single")
    assert result.changed, result.json
    record = result.json["guest"]
    assert record["method"] == "kill", record["attempts"]
    assert record["graceful"] is False
    assert sent(result) == ["block-job-cancel", "system_powerdown", "quit", "SIGTERM", "SIGKILL"]
    assert not guest.alive()
    assert not guest.pidfile.exists()


def test_what_was_sent_in_vain_is_a_change_too(boot, tmp_path):
    guest = boot()
    with Qmp(guest.qmp_socket) as monitor, Stalled(guest, tmp_path, monitor):
        result = shutdown(guest, timeout=5, max_rung="terminate")
        assert result.failed
        assert "max_rung: kill" in result.msg
        assert sent(result) == ["SIGTERM"]
        assert result.json["changed"] is True
        assert guest.alive()


def test_one_that_ends_just_after_its_time_is_down_by_what_was_sent(boot, monkeypatch):
    guest = boot()
    drive = fleet.drive

    def drive_too_shortly(runs: Sequence[Run], _deadline: Deadline, parallel: int, renew: Any) -> None:
        guest.stop()
        drive(runs, Deadline(0), parallel, renew)
        assert "still alive after terminate" in runs[0].problem
        guest.signal(signal.SIGCONT)
        until(lambda: not guest.alive(), "the guest to end")

    monkeypatch.setattr(fleet, "drive", drive_too_shortly)
    named = Guest(str(guest.pidfile), str(guest.qmp_socket))
    wish = Wish((named,), Policy(max_rung=Rung.TERMINATE), False, cleanup=True, parallel=0, single=True)
    subject = Shutdown(wish, Deadline(60))
    with Qmp(guest.qmp_socket):
        outcome = converge(subject, check_mode=False)
    subject.result(outcome.seen)
    assert outcome.changed
    record: Any = subject.extras()["guest"]
    assert (record["state"], record["method"], record["graceful"]) == ("absent", "terminate", False)
    assert record["attempts"][-1]["outcome"] == "ended"
    assert record["problem"] == ""


def shut_down_here(timeout_s: float, *guests: BootGuest) -> list[dict[str, Any]]:
    """What the module does with max_rung: terminate, in this process; what it tells of each guest."""
    named = tuple(Guest(str(guest.pidfile), str(guest.qmp_socket)) for guest in guests)
    wish = Wish(named, Policy(max_rung=Rung.TERMINATE), False, cleanup=True, parallel=0, single=False)
    subject = Shutdown(wish, Deadline(timeout_s))
    try:
        subject.result(converge(subject, check_mode=False).seen)
    finally:
        for sight in subject._sights:  # a module leaves them to its process's end
            sight.identity.close()
    records: Any = subject.extras()["guests"]
    return list(records)


def test_a_busy_monitor_keeps_a_fleet_waiting_only_once(boot, monkeypatch):
    good, busy = boot("good"), boot("busy")
    waits: list[list[str]] = []

    def note(monitors: Sequence[Monitor], *limits: Any) -> None:
        asked = [monitor for monitor in monitors if monitor.outstanding]
        converse(asked, *limits)
        waits.append([monitor.path for monitor in asked if monitor.outstanding])

    monkeypatch.setattr(probe, "converse", note)
    monkeypatch.setattr(observe, "GREETING_S", 5.0)  # the good one is to answer, however busy the machine is
    with Qmp(busy.qmp_socket):
        records = shut_down_here(60, good, busy)
    assert [record["method"] for record in records] == ["acpi", "terminate"]
    assert [silent for silent in waits if silent] == [[str(busy.qmp_socket)]]


def test_a_busy_monitor_leaves_the_signals_their_time(boot, monkeypatch):
    """Where the task has no more time than a greeting may take."""
    monkeypatch.setattr(observe, "GREETING_S", 15.0)
    guest = boot()
    with Qmp(guest.qmp_socket):
        (record,) = shut_down_here(15, guest)
    assert record["method"] == "terminate", record


# The process


def test_files_of_a_killed_guest_are_stale_and_cleaned_once(boot):
    guest = boot()
    guest.signal(signal.SIGKILL)
    until(lambda: not guest.alive(), "the guest to die")
    kept = shutdown(guest, cleanup=False)
    assert not kept.changed
    assert kept.json["guest"]["state"] == "stale"
    assert shutdown(guest, check=True).changed
    assert guest.pidfile.exists()
    result = shutdown(guest)
    assert result.changed, result.json
    assert result.json["guest"]["cleaned"] == [str(guest.pidfile), str(guest.qmp_socket)]
    assert result.json["guest"]["attempts"] == []
    assert not guest.pidfile.exists()
    assert not shutdown(guest).changed


@pytest.mark.skipif(not WORKS_HERE, reason="a process is held at a system call by a filter for x86_64 Linux")
def test_what_a_guest_leaves_that_is_terminated_too_young_is_cleaned(tmp_path):
    """QEMU heeds SIGTERM only some milliseconds after it wrote its pidfile; before, the signal just kills it. It is
    held where it creates the log of its serial line, which comes in between.
    """
    aside, folder = tmp_path / "aside", tmp_path / "young"
    aside.mkdir()
    folder.mkdir()
    pidfile, monitor = folder / "qemu.pid", folder / "qmp.sock"
    words = ["-machine", "pc,accel=tcg", "-display", "none", "-nodefaults", "-S", "-pidfile", str(pidfile)]
    words += ["-qmp", "unix:%s,server=on,wait=off" % monitor, "-serial", "file:%s" % (aside / "serial.log")]
    gate = Gate(aside, "serial.log")
    emulator = gate.wrap(str(shutil.which(boot_guest.EMULATOR)))
    with subprocess.Popen([emulator, *words], stderr=subprocess.DEVNULL) as young:
        try:
            assert gate.reached.wait(boot_guest.BOOT_S), "QEMU never came there"
        finally:
            young.terminate()
    gate.close()
    assert pidfile.exists(), "it was too old"
    left = [str(path) for path in (pidfile, monitor) if path.exists()]
    options = {"pidfile": str(pidfile), "qmp_socket": str(monitor)}
    result = run_module("qemu_guest_shutdown", options)
    assert (result.changed, result.json["guest"]["state_before"]) == (True, "stale")
    assert result.json["guest"]["cleaned"] == left
    assert os.listdir(folder) == []
    assert not run_module("qemu_guest_shutdown", options).changed


@pytest.mark.parametrize("check", [True, False], ids=["check", "real"])
@pytest.mark.parametrize("option", ["pidfile", "qmp_socket", "agent_socket"])
def test_a_file_that_is_none_of_qemus_is_refused_and_stays(tmp_path, option, check):
    disk = tmp_path / "disk.img"
    disk.write_bytes(boot_guest.image(Kind.OBEYS))
    result = run_module("qemu_guest_shutdown", {option: str(disk), "max_rung": "kill"}, check=check)
    assert result.failed
    assert not result.changed
    assert result.json["guest"]["state"] == "unproven"
    assert f"{option}: {disk}" in result.msg
    assert "Name the" in result.msg
    assert disk.read_bytes() == boot_guest.image(Kind.OBEYS)


def test_one_guests_bad_path_keeps_nobody_else_up(boot, tmp_path):
    good = boot()
    fifo, folder, datagram = tmp_path / "fifo", tmp_path / "folder", tmp_path / "datagram"
    os.mkfifo(fifo)
    folder.mkdir()
    bad = [{"pidfile": str(fifo)}, {"pidfile": str(folder)}, {"qmp_socket": str(datagram)}]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(datagram))
        result = run_module("qemu_guest_shutdown", {"guests": [*bad, good.options]})
        seen = run_module("qemu_guest_info", {"guests": [*bad, good.options]})
    assert result.failed
    assert "3 of 4 guests" in result.msg
    assert [record["state"] for record in result.json["guests"]] == ["unproven"] * 3 + ["absent"]
    assert not good.alive()
    assert [record["state"] for record in seen.json["guests"]] == ["unproven"] * 3 + ["absent"]


NO_QEMU = """
import json, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("there", flush=True)
connection, _address = listener.accept()
connection.sendall(b'{"QMP": {}}\\n')
for line in connection.makefile("rb"):
    connection.sendall(json.dumps({"return": json.loads(sys.argv[2]), "id": json.loads(line)["id"]}).encode() + b"\\n")
listener.accept()
"""


@pytest.mark.parametrize("answers", ['"x"', "[1]", '{"status": "running"}', '{"status": []}'])
def test_a_monitor_that_answers_nonsense_keeps_nobody_else_up(boot, tmp_path, answers):
    good = boot()
    path = tmp_path / "x"
    words = [sys.executable, "-c", NO_QEMU, str(path), answers]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        try:
            odd.stdout.readline()
            guests = [{"qmp_socket": str(path), "name": "odd"}, good.options]
            result = run_module("qemu_guest_shutdown", {"guests": guests, "max_rung": "kill"})
            assert odd.poll() is None
        finally:
            odd.kill()
    assert result.failed
    assert [record["state"] for record in result.json["guests"]] == ["identity_mismatch", "absent"]
    assert not good.alive()


def test_a_file_that_only_a_command_line_calls_its_pidfile_stays(tmp_path):
    """Anybody can call himself a QEMU, and any file his."""
    other = tmp_path / "other"
    other.write_text("4194304\n")
    name = "claims-%d" % os.getpid()
    words = ["qemu-system-x86_64", "-c", "import time; time.sleep(300)", "-name", name, "-pidfile", str(other)]
    home = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(words, executable=sys.executable, env=home) as claims:
        try:
            until(lambda: name.encode() in Path("/proc/%d/cmdline" % claims.pid).read_bytes(), "its command line")
            result = run_module("qemu_guest_shutdown", {"name": name, "max_rung": "kill", "timeout": 20})
            assert claims.wait(boot_guest.BOOT_S) < 0
        finally:
            claims.kill()
    assert result.changed, result.json
    assert (result.json["guest"]["state"], result.json["guest"]["cleaned"]) == ("absent", [])
    assert other.read_text() == "4194304\n"


def test_by_name_what_belongs_to_a_guest_that_is_gone_goes_too(boot, tmp_path):
    guest = boot("gone-%d" % os.getpid())
    log = tmp_path / "log"
    log.write_text("x")
    guest.signal(signal.SIGKILL)
    until(lambda: not guest.alive(), "the guest to die")
    options = {"name": guest.folder.name, "cleanup_paths": [str(log)]}
    would = run_module("qemu_guest_shutdown", options, check=True)
    assert (would.changed, log.exists()) == (True, True)
    result = run_module("qemu_guest_shutdown", options)
    assert (result.changed, result.json["guest"]["cleaned"]) == (True, [str(log)])
    assert not log.exists()
    assert not run_module("qemu_guest_shutdown", options).changed


def test_an_old_number_beside_a_new_guests_paths_is_a_mismatch(boot):
    old, new = boot("old"), boot("new")
    for given in ({"pidfile": str(new.pidfile)}, {"qmp_socket": str(new.qmp_socket)}):
        alive = run_module("qemu_guest_shutdown", {**given, "pid": old.pid, "max_rung": "kill"})
        assert alive.json["guest"]["state"] == "identity_mismatch"
    old.signal(signal.SIGKILL)
    until(lambda: not old.alive(), "the old guest to die")
    result = run_module("qemu_guest_shutdown", {**new.options, "pid": old.pid, "max_rung": "kill"})
    assert result.failed
    assert result.json["guest"]["state"] == "identity_mismatch"
    assert f"says {new.pid}; " in result.msg
    assert f"the option pid says {old.pid}" in result.msg
    assert new.alive()
    assert shutdown(old, pid=old.pid).json["guest"]["state_before"] == "stale"
    assert shutdown(new, pid=new.pid).changed


def test_a_guest_that_was_migrated_is_not_told_to_wait(boot, tmp_path):
    guest = boot()
    with Qmp(guest.qmp_socket) as monitor:
        monitor.execute("migrate", uri="exec:cat > %s" % (tmp_path / "saved"))
        until(lambda: monitor.execute("query-status")["status"] == "postmigrate", "the guest to be saved")
    refused = shutdown(guest, paused="resume")
    assert refused.failed
    assert refused.json["guest"]["state"] == "migrated"
    assert "doesn't go on here" in refused.msg
    assert "wait for that" not in refused.msg
    assert guest.alive()
    result = shutdown(guest, paused="force")
    assert (result.changed, result.json["guest"]["method"]) == (True, "quit")
    assert not guest.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace")
def test_a_process_here_is_not_the_one_that_listens_outside_of_our_pid_namespace(boot, tmp_path):
    guest = boot()
    inside = tmp_path / "python-inside"
    inside.write_text(
        "#!/bin/sh\nexec unshare --pid --fork --mount-proc -- "
        'sh -c \'sleep 300 & exec "$@"\' sh %s "$@"\n' % sys.executable
    )
    inside.chmod(0o700)
    options = {"pid": 2, "qmp_socket": str(guest.qmp_socket), "max_rung": "kill", "timeout": 20}
    result = run_module("qemu_guest_shutdown", options, python=str(inside))
    assert result.failed
    assert result.json["guest"]["state"] == "unproven"
    assert "that this task can't see" in result.msg
    assert sent(result) == []
    assert guest.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace")
@pytest.mark.parametrize(
    ("given", "words"),
    [(["pidfile"], "another pid namespace"), (["qmp_socket"], "that this task can't see")],
    ids=["pidfile", "qmp_socket"],
)
def test_a_guest_outside_of_our_pid_namespace_is_unproven(boot, tmp_path, given, words):
    guest = boot()
    inside = tmp_path / "python-inside"
    inside.write_text('#!/bin/sh\nexec unshare --pid --fork --mount-proc -- %s "$@"\n' % sys.executable)
    inside.chmod(0o700)
    options = {option: guest.options[option] for option in given}
    result = run_module("qemu_guest_shutdown", {**options, "max_rung": "kill"}, python=str(inside))
    assert result.failed
    assert result.json["guest"]["state"] == "unproven"
    assert words in result.msg
    assert guest.alive()
    assert guest.said() == "BR"


def test_a_stranger_with_the_same_number_lives(boot):
    guest = boot()
    guest.signal(signal.SIGKILL)
    until(lambda: not guest.alive(), "the guest to die")
    with subprocess.Popen(["sleep", "300"]) as stranger:
        try:
            guest.pidfile.write_text("%d\n" % stranger.pid)
            result = shutdown(guest, max_rung="kill")
            assert result.changed, result.json
            assert result.json["guest"]["attempts"] == []
            assert stranger.poll() is None
            by_number = run_module("qemu_guest_shutdown", {"pid": stranger.pid, "max_rung": "kill"})
            assert by_number.failed
            assert "no QEMU but sleep" in by_number.msg
            assert "sleep 300" not in by_number.msg, "a stranger's words may hold secrets"
            assert stranger.poll() is None
        finally:
            stranger.kill()


LISTENS = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
listener.settimeout(1)
print("there", flush=True)
heard = b""
while True:
    try:
        connection, _address = listener.accept()
        connection.settimeout(10)
        heard += connection.recv(1000)
    except TimeoutError:
        pass
    print(heard, flush=True)
"""
LOCKS = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
print("there", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("max_rung", ["quit", "kill"])
@pytest.mark.parametrize(("option", "does"), [("qmp_socket", LISTENS), ("agent_socket", LISTENS), ("pidfile", LOCKS)])
def test_a_stranger_who_listens_or_locks_lives(tmp_path, option, does, max_rung):
    path = tmp_path / "x"
    with subprocess.Popen([sys.executable, "-c", does, str(path)], stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        try:
            assert stranger.stdout.readline() == "there\n"
            result = run_module("qemu_guest_shutdown", {option: str(path), "max_rung": max_rung, "timeout": 20})
            assert result.failed
            assert not result.changed
            assert result.json["guest"]["state"] == "identity_mismatch"
            assert "process %d is no QEMU but %s" % (stranger.pid, sys.executable) in result.msg
            assert sent(result) == []
            assert path.exists()
            assert stranger.poll() is None
            if does is LISTENS:
                assert stranger.stdout.readline() == "b''\n", "nothing may be sent to a stranger"
        finally:
            stranger.kill()


def test_another_program_of_qemus_with_a_monitor_is_no_guest(tmp_path):
    path = tmp_path / "qsd.sock"
    words = ["--chardev", "socket,id=m,server=on,wait=off,path=%s" % path, "--monitor", "m"]
    with subprocess.Popen(["qemu-storage-daemon", *words]) as storage:
        try:
            until(path.exists, "the storage daemon to listen")
            result = run_module("qemu_guest_shutdown", {"qmp_socket": str(path), "max_rung": "kill", "timeout": 20})
            assert result.failed
            assert result.json["guest"]["state"] == "identity_mismatch"
            assert "has no virtual machine" in result.msg
            asked = ask(str(path), Deadline(20))
            assert asked.status is None
            assert "query-status has not been found" in asked.silence
            assert storage.poll() is None
        finally:
            storage.kill()


def test_a_qemu_by_another_name_is_known_by_its_greeting(boot, tmp_path, monkeypatch):
    renamed = tmp_path / "hypervisor"
    renamed.symlink_to(str(shutil.which(boot_guest.EMULATOR)))
    monkeypatch.setattr(boot_guest, "EMULATOR", str(renamed))
    guest = boot(kind=Kind.IGNORES)
    with Qmp(guest.qmp_socket):
        refused = shutdown(guest, max_rung="kill", timeout=10)
    assert refused.json["guest"]["state"] == "identity_mismatch"
    assert guest.alive()
    result = shutdown(guest, timeout=10)
    assert result.json["guest"]["method"] == "quit", result.json
    assert not guest.alive()


def test_another_guest_with_the_same_number_lives(boot):
    guest, other = boot(), boot("other")
    guest.signal(signal.SIGKILL)
    until(lambda: not guest.alive(), "the guest to die")
    guest.pidfile.write_text("%d\n" % other.pid)
    long_ago = time.time() - 3600  # as if that guest had been started after the number came free
    os.utime(guest.pidfile, (long_ago, long_ago))
    result = shutdown(guest, max_rung="kill")
    assert result.changed, result.json
    assert result.json["guest"]["state_before"] == "stale"
    assert other.alive()


def test_an_unlocked_pidfile_that_may_be_right_is_not_called_stale(boot):
    guest = boot()
    mine = guest.folder / "written-by-somebody.pid"
    mine.write_text("%d\n" % guest.pid)
    result = run_module("qemu_guest_shutdown", {"pidfile": str(mine), "max_rung": "kill"})
    assert result.failed
    assert result.json["guest"]["state"] == "unproven"
    assert guest.alive()
    assert mine.exists()
    both = run_module("qemu_guest_shutdown", {"pidfile": str(mine), "qmp_socket": str(guest.qmp_socket)})
    assert both.changed, both.json
    assert not guest.alive()


def test_a_stolen_socket_is_a_mismatch_and_nothing_is_sent(boot, tmp_path):
    first = boot("first")
    thief = boot("thief", qmp_socket=first.qmp_socket)
    result = shutdown(first, max_rung="kill")
    assert result.failed
    assert result.json["guest"]["state"] == "identity_mismatch"
    assert str(first.pid) in result.msg
    assert str(thief.pid) in result.msg
    assert sent(result) == []
    assert first.alive()
    assert thief.alive()
    assert first.said() == thief.said() == "BR"


@pytest.mark.parametrize("named", [{}, {"name": "first"}, {"pidfile": "first's"}, {"name": "thief"}], ids=str)
def test_a_guest_whose_socket_was_unlinked_by_another_is_told_from_it(boot, named):
    first = boot("first")
    thief = boot("thief", qmp_socket=first.qmp_socket)
    first.signal(signal.SIGTERM)  # at its end it removes what is now the other's socket
    until(lambda: not first.alive(), "the first to end")
    assert not thief.qmp_socket.exists()
    options = {"qmp_socket": str(thief.qmp_socket), **named}
    if "pidfile" in named:
        options["pidfile"] = str(first.pidfile)
    result = run_module("qemu_guest_shutdown", {**options, "max_rung": "terminate"})
    if named in ({}, {"name": "thief"}):
        assert result.json["guest"]["method"] == "terminate", result.json
        assert not thief.alive()
        return
    assert result.failed
    assert "process %d (" % thief.pid in result.msg
    assert "still listens" in result.msg
    assert "give its pid" in result.msg
    assert thief.alive()


def test_a_guest_whose_directory_was_removed_is_ended_by_its_paths(boot):
    guest = boot(agent=True)
    shutil.rmtree(guest.folder)
    options = {**guest.options, "agent_socket": str(guest.agent_socket), "name": guest.folder.name}
    seen = run_module("qemu_guest_info", options).json["guest"]
    assert (seen["state"], seen["pid"]) == ("monitor_hung", guest.pid)
    refused = run_module("qemu_guest_shutdown", options)
    assert refused.failed
    assert "only terminate or kill would end it" in refused.msg
    result = run_module("qemu_guest_shutdown", {**options, "max_rung": "terminate"})
    assert result.changed, result.json
    assert result.json["guest"]["method"] == "terminate"
    assert not guest.alive()
    assert not run_module("qemu_guest_shutdown", options).changed


def test_a_stranger_who_listens_at_a_removed_path_lives(tmp_path):
    path = tmp_path / "x"
    with subprocess.Popen([sys.executable, "-c", LISTENS, str(path)], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        path.unlink()
        result = run_module("qemu_guest_shutdown", {"qmp_socket": str(path), "max_rung": "kill"})
        assert result.failed
        assert result.json["guest"]["state"] == "unproven"
        assert "process %d (%s) still listens" % (stranger.pid, sys.executable) in result.msg
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("killed", [False, True], ids=["graceful", "killed"])
def test_links_are_kept_and_are_no_fault(boot, tmp_path, killed):
    guest = boot()
    links = {"pidfile": tmp_path / "link.pid", "qmp_socket": tmp_path / "link.sock"}
    links["pidfile"].symlink_to(guest.pidfile)
    links["qmp_socket"].symlink_to(guest.qmp_socket)
    options = {option: str(path) for option, path in links.items()}
    if killed:
        guest.signal(signal.SIGKILL)
        until(lambda: not guest.alive(), "the guest to die")
    kept = [{"path": str(path), "outcome": "kept", "reason": "it is a symbolic link"} for path in links.values()]
    for changed in (not killed, False):
        result = run_module("qemu_guest_shutdown", options)
        assert not result.failed, result.msg
        assert result.changed is changed
        assert run_module("qemu_guest_shutdown", options, check=True).changed is False
        assert result.json["guest"]["left_behind"] == kept
    assert not guest.alive()
    assert all(path.is_symlink() for path in links.values())


def test_a_namesake_elsewhere_is_told_and_lives(boot, tmp_path):
    """Another directory may hold another guest of the same name, but never one of the same UUID."""
    uuid = "6f1d2c0e-8a43-4a57-9a52-%012x" % os.getpid()
    guest = boot("namesake-%d" % os.getpid(), extra=["-uuid", uuid])
    elsewhere = {"pidfile": str(tmp_path / "none"), "name": guest.folder.name, "max_rung": "kill"}
    told = "process %d is a QEMU of this name (pidfile %s, monitor %s)" % (guest.pid, guest.pidfile, guest.qmp_socket)
    by_name = run_module("qemu_guest_shutdown", elsewhere)
    assert (by_name.failed, by_name.changed, by_name.json["guest"]["state"]) == (False, False, "absent")
    assert told in str(by_name.json["warnings"])
    assert (
        told in run_module("qemu_guest_info", {"pidfile": "/none", "name": guest.folder.name}).json["guest"]["problem"]
    )
    by_uuid = run_module("qemu_guest_shutdown", {**elsewhere, "uuid": uuid})
    assert by_uuid.failed
    assert by_uuid.json["guest"]["state"] == "unproven"
    assert "process %d is a QEMU of this UUID" % guest.pid in by_uuid.msg
    assert guest.alive()


def test_an_image_still_written_by_another_is_told(boot, tmp_path):
    """The other process stands in for a second QEMU on the same disk: it holds the lock that QEMU's writers hold."""
    guest = boot()
    script = (
        "import fcntl, struct, sys, time\n"
        "f = open(sys.argv[1], 'r+b')\n"
        "fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack('hhqqii', fcntl.F_RDLCK, 0, 101, 1, 0, 0))\n"
        "print('locked', flush=True)\n"
        "time.sleep(300)\n"
    )

    with subprocess.Popen([sys.executable, "-c", script, str(guest.disk)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            result = shutdown(guest, timeout=10)
        finally:
            other.kill()
    assert result.changed, result.json
    assert "is written to by another process" in str(result.json["warnings"])


def test_an_image_that_is_written_to_just_after_the_end_is_waited_for(boot):
    """As a QEMU's last writes to a slow disk can be. The other process lets go half a second after the guest's end."""
    guest = boot()
    script = (
        "import fcntl, os, select, struct, sys, time\n"
        "f = open(sys.argv[1], 'r+b')\n"
        "fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack('hhqqii', fcntl.F_RDLCK, 0, 101, 1, 0, 0))\n"
        "guest = os.pidfd_open(int(sys.argv[2]))\n"
        "print('locked', flush=True)\n"
        "select.select([guest], [], [])\n"
        "time.sleep(0.5)\n"
    )
    words = [sys.executable, "-c", script, str(guest.disk), str(guest.pid)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        result = shutdown(guest)
    assert result.changed, result.json
    assert "warnings" not in result.json


# Ourselves


def test_killed_midway_the_next_run_goes_on(boot):
    guest = boot(kind=Kind.IGNORES, second_monitor=True)
    with Qmp(guest.second_qmp_socket) as watcher:
        first = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 60})
        watcher.wait_for_event("POWERDOWN")
        first.kill()
        finish(first)
    assert guest.alive()
    result = shutdown(guest, timeout=10)
    assert result.changed, result.json
    assert result.json["guest"]["method"] == "quit"
    assert not guest.alive()


def test_terminated_midway_it_tells_what_was_sent(boot):
    guest = boot(kind=Kind.IGNORES, second_monitor=True)
    with Qmp(guest.second_qmp_socket) as watcher:
        running = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 60})
        watcher.wait_for_event("POWERDOWN")
        running.send_signal(signal.SIGTERM)
        result = finish(running)
    assert result.failed
    assert "SIGTERM" in result.msg
    assert sent(result) == ["system_powerdown"]
    assert guest.alive()
    assert shutdown(guest, timeout=10).changed


def test_two_tasks_at_once_are_one_shutdown(boot):
    guest = boot(kind=Kind.IGNORES, second_monitor=True)
    with Qmp(guest.second_qmp_socket) as watcher:
        first = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 10})
        watcher.wait_for_event("POWERDOWN")
        second = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 60, "max_rung": "kill"})
        one, two = finish(first), finish(second)
    assert one.changed, one.json
    assert one.json["guest"]["method"] == "quit"
    assert not two.changed, two.json
    assert two.json["guest"]["attempts"] == []


def test_two_tasks_that_name_one_guest_by_different_means_are_one_shutdown(boot):
    guest = boot("one-%d" % os.getpid(), kind=Kind.IGNORES, second_monitor=True)
    with Qmp(guest.second_qmp_socket) as watcher:
        first = start_module("qemu_guest_shutdown", {**guest.options, "timeout": 10})
        watcher.wait_for_event("POWERDOWN")
        by_name = {"name": guest.folder.name, "timeout": 60, "max_rung": "kill"}
        second = start_module("qemu_guest_shutdown", by_name)
        one, two = finish(first), finish(second)
    assert one.changed, one.json
    assert not two.changed, two.json
    assert two.json["guest"]["attempts"] == []


def test_guests_whose_sockets_share_a_directory_are_nobodys_business_but_their_own(boot, tmp_path):
    slow = boot("slow", kind=Kind.IGNORES, qmp_socket=tmp_path / "slow.sock", second_monitor=True)
    quick = boot("quick", qmp_socket=tmp_path / "quick.sock")
    with Qmp(slow.second_qmp_socket) as watcher, held_by_anybody(tmp_path):
        first = start_module("qemu_guest_shutdown", {"qmp_socket": str(slow.qmp_socket), "timeout": 100})
        watcher.wait_for_event("POWERDOWN")
        result = run_module("qemu_guest_shutdown", {"qmp_socket": str(quick.qmp_socket), "timeout": 50})
        assert first.poll() is None, "the first one was meant to be at work"
        first.kill()
        finish(first)
    assert result.changed, result.msg
    assert not quick.alive()


@contextmanager
def held_by_anybody(folder: Path) -> Iterator[None]:
    """Who may read a directory may lock it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# Many


def test_twenty_guests_with_two_stubborn_ones(tmp_path):
    stubborn = {7, 13}
    guests = start_many(tmp_path, [Kind.IGNORES if number in stubborn else Kind.OBEYS for number in range(20)])
    with ended(*guests):
        shut_twenty_down(guests, stubborn)


def shut_twenty_down(guests: list[BootGuest], stubborn: set[int]) -> None:
    entries = [{**guest.options, "name": guest.folder.name} for guest in guests]
    result = run_module("qemu_guest_shutdown", {"guests": entries, "timeout": 20, "max_rung": "acpi"})
    assert result.failed
    assert "2 of 20 guests" in result.msg
    assert "vm07: it is still alive" in result.msg
    assert "vm13: it is still alive" in result.msg
    assert "vm08" not in result.msg
    assert result.json["changed"] is True
    assert [number for number, guest in enumerate(guests) if guest.alive()] == sorted(stubborn)
    assert [record["guest"] for record in result.json["guests"]] == [guest.folder.name for guest in guests]
    again = run_module("qemu_guest_shutdown", {"guests": entries, "timeout": 10})
    assert again.changed, again.json
    methods = [record["method"] for record in again.json["guests"]]
    assert [number for number, method in enumerate(methods) if method == "quit"] == sorted(stubborn)
    assert not any(guest.alive() for guest in guests)


def test_one_that_is_refused_keeps_nobody_else_up(boot):
    good, paused = boot("good"), boot("paused")
    with Qmp(paused.qmp_socket) as monitor:
        monitor.execute("stop")
    result = run_module("qemu_guest_shutdown", {"guests": [paused.options, good.options]})
    assert result.failed
    assert "1 of 2 guests" in result.msg
    assert result.json["changed"] is True
    assert not good.alive()
    assert paused.alive()


def test_a_group_behind_one_that_is_refused_is_left_alone(boot):
    paused, database = boot("paused"), boot("db")
    with Qmp(paused.qmp_socket) as monitor:
        monitor.execute("stop")
    result = run_module("qemu_guest_shutdown", {"guests": [paused.options, {**database.options, "group": 1}]})
    assert result.failed
    assert not result.changed
    assert "left alone, because a guest of group 0" in result.json["guests"][1]["problem"]
    assert result.json["guests"][1]["attempts"] == []
    assert database.alive()


@pytest.mark.parametrize("policy", ["fail", "wait"])
def test_a_job_begun_while_another_group_went_down_is_heeded(boot, tmp_path, policy):
    database = boot("db", content_mib=8, second_monitor=True)

    def copy() -> None:
        speed = {"fail": 1024, "wait": 4 << 20}[policy]  # bytes a second: for ever, or two seconds
        start_slow_job(database.second_qmp_socket, tmp_path / "copy.img", speed)

    app = boot("app", make=GuestWithAgent, script=meanwhile(tmp_path / "app" / "second.sock", copy))
    entries = [app.options, {**database.options, "group": 1}]
    result = run_module("qemu_guest_shutdown", {"guests": entries, "block_jobs": policy, "timeout": 60})
    assert not app.alive()
    record = result.json["guests"][1]
    assert record["block_jobs_cancelled"] == []
    if policy == "wait":
        assert not result.failed, result.msg
        assert (record["method"], record["graceful"]) == ("acpi", True)
        return
    assert result.failed
    assert "backup copy" in record["problem"]
    assert record["attempts"] == []
    assert database.alive()


def test_a_guest_that_goes_by_itself_before_its_turn_is_down(boot, tmp_path):
    database = boot("db", second_monitor=True)

    def go() -> None:
        with Qmp(database.second_qmp_socket) as inside:
            inside.execute("system_powerdown")
            until(lambda: not database.alive(), "the guest to go")

    app = boot("app", make=GuestWithAgent, script=meanwhile(tmp_path / "app" / "second.sock", go))
    result = run_module("qemu_guest_shutdown", {"guests": [app.options, {**database.options, "group": 1}]})
    assert not result.failed, result.msg
    record = result.json["guests"][1]
    assert (record["state_before"], record["state"]) == ("running", "absent")
    assert (record["method"], record["graceful"], record["attempts"]) == (None, None, [])


def test_more_guests_than_descriptors_are_told_or_made_room_for(tmp_path):
    guests = start_many(tmp_path, [Kind.OBEYS] * 8)
    with ended(*guests):
        options = {"guests": [guest.options for guest in guests], "parallel": 2}
        refused = run_module("qemu_guest_shutdown", options, python=limited(tmp_path / "hard", "-n 20"))
        assert refused.failed
        assert "8 guests" in refused.msg
        assert "ulimit" in refused.msg
        assert all(guest.alive() for guest in guests)
        result = run_module("qemu_guest_shutdown", options, python=limited(tmp_path / "soft", "-S -n 20"))
        assert not result.failed, result.msg
        assert not any(guest.alive() for guest in guests)


def limited(path: Path, limit: str) -> str:
    """A Python that may open only so many files."""
    path.write_text('#!/bin/sh\nulimit %s\nexec %s "$@"\n' % (limit, sys.executable))
    path.chmod(0o700)
    return str(path)


def test_groups_go_down_in_order(boot):
    database, application = boot("db"), boot("app")
    entries = [{**database.options, "group": 1}, {**application.options, "group": 0}]
    result = run_module("qemu_guest_shutdown", {"guests": entries})
    assert result.changed, result.json
    db, app = result.json["guests"]
    assert app["attempts"][-1]["ended"] <= db["attempts"][0]["started"]


def test_a_group_behind_one_that_stays_up_is_left_alone(boot):
    stays_up = boot("app", kind=Kind.IGNORES)
    others = [boot("db%d" % group) for group in range(1, 5)]
    entries = [{**guest.options, "group": group} for group, guest in enumerate([stays_up, *others])]
    result = run_module("qemu_guest_shutdown", {"guests": entries, "max_rung": "acpi", "timeout": 25})
    assert result.failed
    pressed, *left_alone = result.json["guests"]
    for record in left_alone:
        assert "left alone" in record["problem"]
        assert record["attempts"] == []
    assert len(pressed["attempts"]) == 1, "its share is a fifth, and a second press would come after 9 s"
    assert all(guest.alive() for guest in others)


def test_parallel_limits_how_many_go_at_once(boot):
    guests = [boot("vm%d" % number) for number in range(4)]
    result = run_module("qemu_guest_shutdown", {"guests": [guest.options for guest in guests], "parallel": 1})
    assert result.changed, result.json
    spans = [(r["attempts"][0]["started"], r["attempts"][-1]["ended"]) for r in result.json["guests"]]
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))


# Other systems


def hidden(*capabilities: str) -> dict[str, str]:
    return {"VMOPS_HIDE_CAPABILITIES": ",".join(capabilities)}


def test_without_pidfds_the_pidfiles_lock_proves_the_end(boot):
    guest = boot()
    arguments = {**guest.options, "name": guest.folder.name}
    result = run_module("qemu_guest_shutdown", arguments, env=hidden("pidfd", "proc", "ofd_locks"))
    assert result.changed, result.json
    assert (result.json["guest"]["method"], result.json["guest"]["graceful"]) == ("acpi", True)
    assert "no descriptors" in str(result.json["warnings"])
    assert not guest.alive()
    again = run_module("qemu_guest_shutdown", arguments, env=hidden("pidfd", "proc", "ofd_locks"))
    assert not again.changed


@pytest.mark.parametrize(
    ("leave_out", "words"),
    [("pidfile", "give a pidfile"), ("name", "give name or uuid")],
)
def test_without_pidfds_what_can_not_be_proven_is_refused(boot, leave_out, words):
    guest = boot()
    arguments = {**guest.options, "name": guest.folder.name}
    del arguments[leave_out]
    result = run_module("qemu_guest_shutdown", arguments, env=hidden("pidfd", "proc"))
    assert result.failed
    assert result.json["guest"]["state"] == "unproven"
    assert words in result.msg
    assert guest.alive()


def test_where_sockets_do_not_hold_their_listener_it_is_held_by_its_number(boot):
    """As on Linux before 6.5."""
    guest = boot(kind=Kind.IGNORES)
    other = boot("other")
    mixed = run_module(
        "qemu_guest_shutdown",
        {"pidfile": str(guest.pidfile), "qmp_socket": str(other.qmp_socket)},
        env=hidden("peer_pidfd"),
    )
    assert mixed.json["guest"]["state"] == "identity_mismatch"
    options = {"qmp_socket": str(guest.qmp_socket), "max_rung": "terminate", "timeout": 10}
    result = run_module("qemu_guest_shutdown", options, env=hidden("peer_pidfd"))
    assert (result.changed, result.json["guest"]["method"]) == (True, "quit")
    assert not guest.alive()
    assert other.alive()


def test_without_pidfds_nothing_is_signalled(boot):
    guest = boot(kind=Kind.IGNORES)
    with Qmp(guest.qmp_socket):
        result = run_module(
            "qemu_guest_shutdown",
            {**guest.options, "name": guest.folder.name, "max_rung": "kill"},
            env=hidden("pidfd"),
        )
    assert result.failed
    assert "no safe way to signal" in result.msg
    assert guest.alive()


def test_without_proc_all_rungs_work_for_who_has_greeted(boot, tmp_path):
    guest = boot(kind=Kind.IGNORES)
    with Qmp(guest.qmp_socket):  # neither a greeting nor a command line proves that it is a QEMU
        result = run_module("qemu_guest_shutdown", {**guest.options, "max_rung": "kill"}, env=hidden("proc"))
    assert result.failed
    assert result.json["guest"]["state"] == "unproven"
    assert "nothing proves that process %d is a QEMU" % guest.pid in result.msg
    assert "give its qmp_socket" in result.msg
    assert "as root" not in result.msg, "nobody can read a command line here"
    assert guest.alive()
    with Stalled(guest, tmp_path):  # so that quit hangs
        options = {**guest.options, "max_rung": "kill", "block_jobs": "cancel", "profile": "single", "timeout": 15}
        result = run_module("qemu_guest_shutdown", options, env=hidden("proc"))
    assert result.changed, result.json
    assert result.json["guest"]["method"] == "kill"
    assert not guest.alive()
    by_name = run_module("qemu_guest_shutdown", {"name": "web1"}, env=hidden("proc"))
    assert by_name.failed
    assert "without /proc" in by_name.msg
