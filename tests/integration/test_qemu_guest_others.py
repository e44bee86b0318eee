# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of another user: what can be known of it is told, and what may not be done to it, with what to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.boot_guest import Qmp
from tests.testbed.modules import Result, run_module
from tests.testbed.others_guest import AS_ANYBODY, OthersGuest, ordinary_python

pytestmark = pytest.mark.skipif(
    AS_ANYBODY is None, reason="only root, or who may use sudo without a password, can run a guest as another user"
)


@pytest.fixture(name="guest")
def _guest() -> Iterator[OthersGuest]:
    """In a directory that the other user can reach, which pytest's own isn't."""
    with tempfile.TemporaryDirectory(prefix="vmops-others-") as folder:
        os.chmod(folder, 0o755)
        guest = OthersGuest(Path(folder) / ("others-%d" % os.getpid()))
        try:
            yield guest
        finally:
            guest.end()


def run(module: str, options: dict[str, Any], tmp_path: Path) -> Result:
    return run_module(module, options, python=ordinary_python(tmp_path))


@pytest.mark.parametrize(
    "given", [("name",), ("pidfile",), ("qmp_socket",), ("name", "pidfile", "qmp_socket")], ids=str
)
def test_info_tells_what_it_may_not_see(guest: OthersGuest, given: tuple[str, ...], tmp_path: Path) -> None:
    result = run("qemu_guest_info", {option: guest.options[option] for option in given}, tmp_path)
    assert not result.failed, result.msg
    seen = result.json["guest"]
    assert seen["state"] == "unproven"
    assert "this user may not" in seen["problem"]
    assert "with become" in seen["problem"]
    assert seen["pid"] == (guest.pid if given == ("name",) else None)


@pytest.mark.parametrize("module", ["qemu_guest_info", "qemu_guest_shutdown"])
def test_a_record_that_may_not_be_read_hides_nothing_else(guest: OthersGuest, module: str, tmp_path: Path) -> None:
    record = guest.folder / "guest.json"
    record.write_text("{}")
    record.chmod(0)
    seen = run(module, {"name": guest.options["name"]}, tmp_path).json["guest"]
    assert (seen["state"], seen["pid"]) == ("unproven", guest.pid)
    assert "with become" in seen["problem"]
    assert seen.get("definition") is None
    assert guest.alive()


def hiding_python(folder: Path) -> str:
    """One that sees its own processes only, as where /proc is mounted with hidepid. The group that is let see all the
    same would be root's, if no other were named.
    """
    path = folder / "hiding-python"
    words = 'mount -t proc -o hidepid=2,gid=4242 proc /proc && exec %s "$@"' % ordinary_python(folder)
    path.write_text("#!/bin/sh\nexec unshare --mount -- sh -c '%s' sh \"$@\"\n" % words)
    path.chmod(0o700)
    return str(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount /proc anew")
def test_where_processes_are_hidden_a_name_proves_nothing(guest: OthersGuest, tmp_path: Path) -> None:
    for name in (guest.options["name"], "nobody's"):
        result = run_module("qemu_guest_shutdown", {"name": name}, python=hiding_python(tmp_path))
        assert result.failed
        assert result.json["guest"]["state"] == "unproven"
        assert "other users' processes are hidden from this one" in result.msg
    assert guest.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount /proc anew")
def test_a_hidden_process_is_a_guest_only_by_its_monitors_greeting(guest: OthersGuest, tmp_path: Path) -> None:
    guest.qmp_socket.chmod(0o777)
    options = {"qmp_socket": str(guest.qmp_socket)}
    python = hiding_python(tmp_path)
    with Qmp(guest.qmp_socket):
        busy = run_module("qemu_guest_shutdown", {**options, "max_rung": "kill"}, python=python)
    assert busy.failed
    assert busy.json["guest"]["state"] == "unproven"
    assert "nothing proves that process %d is a QEMU: this user may not read its command line" % guest.pid in busy.msg
    assert guest.alive()
    result = run_module("qemu_guest_shutdown", options, python=python)
    assert (result.changed, result.json["guest"]["method"]) == (True, "acpi")
    assert not guest.alive()


def test_a_record_that_is_a_pipe_keeps_nobody_waiting(boot: Any, tmp_path: Path) -> None:
    guest = boot()
    os.mkfifo(guest.folder / "guest.json")
    seen = run("qemu_guest_info", guest.options, tmp_path).json["guest"]
    assert (seen["state"], seen["definition"]) == ("running", None)


def test_info_by_pid_tells_that_it_lives(guest: OthersGuest, tmp_path: Path) -> None:
    seen = run("qemu_guest_info", {"pid": guest.pid}, tmp_path).json["guest"]
    assert (seen["state"], seen["pid"], seen["images"]) == ("no_monitor", guest.pid, [])


@pytest.mark.parametrize(("highest", "refused"), [("terminate", "SIGTERM"), ("kill", "SIGTERM, SIGKILL")])
def test_signals_that_are_refused_are_not_called_sent(
    guest: OthersGuest, highest: str, refused: str, tmp_path: Path
) -> None:
    result = run("qemu_guest_shutdown", {"pid": guest.pid, "max_rung": highest, "timeout": 200}, tmp_path)
    assert result.failed
    assert f"this user may not signal process {guest.pid} (refused: {refused})" in result.msg
    assert "with become" in result.msg
    assert "after SIGKILL" not in result.msg
    assert result.json["elapsed_s"] < 60, "a refusal is not waited for"
    assert guest.alive()


def test_shutdown_leaves_what_it_may_not_look_at_alone_and_goes_on(
    guest: OthersGuest, boot: Any, tmp_path: Path
) -> None:
    own = boot()
    result = run("qemu_guest_shutdown", {"guests": [guest.options, own.options]}, tmp_path)
    assert result.failed
    assert "this user may not read the pidfile" in result.msg
    assert [record["state"] for record in result.json["guests"]] == ["unproven", "absent"]
    assert guest.alive()
    assert not own.alive()
