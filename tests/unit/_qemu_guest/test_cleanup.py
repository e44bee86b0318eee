# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken away after a dead guest, and what is not: real files, sockets and locks."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.cleanup import clean
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identity import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.leftovers import call_down
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest
from tests.unit._qemu_guest.test_process import LOCKS
from tests.unit.children import flocked


def known(tmp_path: Path, cleanup_paths: tuple[str, ...] = ()) -> Identity:
    """A guest whose files are there when it is looked at."""
    (tmp_path / "pid").write_text("4711\n")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "qmp"))
    return Identity(Guest(str(tmp_path / "pid"), str(tmp_path / "qmp"), cleanup_paths=cleanup_paths))


def done(identity: Identity) -> dict[str, tuple[str, str]]:
    return {os.path.basename(entry.path): (entry.outcome, entry.reason) for entry in clean(identity)}


def test_what_is_owned_goes(tmp_path):
    assert done(known(tmp_path)) == {"pid": ("removed", ""), "qmp": ("removed", "")}
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_no_entry(tmp_path):
    identity = known(tmp_path)
    (tmp_path / "pid").unlink()
    assert list(done(identity)) == ["qmp"]


def replace(path: Path, make: Callable[[], None]) -> None:
    aside = path.with_name("aside")
    path.rename(aside)  # kept, so that its inode isn't used again at once
    make()


def test_another_guests_new_pidfile_stays(tmp_path):
    identity = known(tmp_path)
    replace(tmp_path / "pid", lambda: (tmp_path / "pid").write_text("4712\n") and None)
    assert done(identity)["pid"] == ("kept", "it was replaced since")


def test_a_pidfile_that_is_locked_again_stays(tmp_path):
    identity = known(tmp_path)
    with subprocess.Popen([sys.executable, "-c", LOCKS, str(tmp_path / "pid")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            assert done(identity)["pid"] == ("kept", "another process has locked it since")
        finally:
            other.kill()


@pytest.mark.parametrize(("content", "outcome"), [("words\n", "kept"), ("", "removed")])
def test_what_holds_no_number_by_now_is_no_pidfile(tmp_path, content, outcome):
    identity = known(tmp_path)
    (tmp_path / "pid").write_text(content)
    reason = "it holds something else than a process's number" if content else ""
    assert done(identity)["pid"] == (outcome, reason)


def test_a_path_that_leads_elsewhere_by_now_takes_nothing_along(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "pid").write_text("4711\n")
    (tmp_path / "way").symlink_to(ours)
    identity = Identity(Guest(str(tmp_path / "way" / "pid")))
    (tmp_path / "way").unlink()
    (tmp_path / "way").symlink_to(theirs)
    assert done(identity) == {"pid": ("kept", "it was replaced since")}
    assert (theirs / "pid").exists()


@pytest.mark.parametrize("listening", [True, False])
def test_another_guests_socket_stays(tmp_path, listening):
    identity = known(tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        replace(tmp_path / "qmp", lambda: other.bind(str(tmp_path / "qmp")))
        if listening:
            other.listen()
        reason = "another process listens there" if listening else "it was replaced since"
        assert done(identity)["qmp"] == ("kept", reason)


def test_a_file_in_the_sockets_place_stays(tmp_path):
    identity = known(tmp_path)
    replace(tmp_path / "qmp", lambda: (tmp_path / "qmp").write_text("x") and None)
    assert done(identity)["qmp"] == ("kept", "it is no socket")


def test_each_step_is_tried_whatever_became_of_the_others(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("")
    (tmp_path / "last").write_text("")
    identity = known(tmp_path, (str(full), "/dev/null", str(tmp_path / "last")))
    assert done(identity) == {
        "pid": ("removed", ""),
        "qmp": ("removed", ""),
        "full": ("failed", "Directory not empty (%s)" % full),
        "null": ("failed", "it is a device, which is never removed (/dev/null)"),
        "last": ("removed", ""),
    }


def test_a_named_link_goes_and_its_target_stays(tmp_path):
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to("target")
    assert done(Identity(Guest(cleanup_paths=(str(tmp_path / "link"),))))["link"][0] == "removed"
    assert (tmp_path / "target").exists()


def test_a_named_file_that_is_only_read_goes(tmp_path):
    (tmp_path / "log").write_text("x")
    with (tmp_path / "log").open():
        assert done(Identity(Guest(cleanup_paths=(str(tmp_path / "log"),))))["log"] == ("removed", "")


def test_a_named_file_that_is_written_to_stays(tmp_path):
    with (tmp_path / "log").open("w"):
        reason = "process %d has it open for writing" % os.getpid()
        assert done(Identity(Guest(cleanup_paths=(str(tmp_path / "log"),))))["log"] == ("kept", reason)


@pytest.mark.parametrize("listening", [True, False])
def test_a_named_socket_goes_only_where_nobody_listens(tmp_path, listening):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "x"))
        if listening:
            other.listen()
        expected = ("kept", "another process listens there") if listening else ("removed", "")
        assert done(Identity(Guest(cleanup_paths=(str(tmp_path / "x"),))))["x"] == expected


def test_a_named_file_that_is_looked_at_in_passing_goes(tmp_path):
    (tmp_path / "x").write_text("x")
    with (tmp_path / "x").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert done(Identity(Guest(cleanup_paths=(str(tmp_path / "x"),))))["x"] == ("removed", "")


def test_a_named_file_that_this_task_has_locked_goes(tmp_path):
    identity = known(tmp_path, (str(tmp_path / "x"), str(tmp_path / "pid")))
    (tmp_path / "x").write_text("x")
    with (tmp_path / "x").open() as ours, (tmp_path / "pid").open() as ours_too:
        fcntl.flock(ours, fcntl.LOCK_EX)
        fcntl.flock(ours_too, fcntl.LOCK_EX)
        assert call_down(identity, None).kept == {}
        assert done(identity) == dict.fromkeys(("pid", "qmp", "x"), ("removed", ""))


def test_a_named_file_that_another_has_locked_stays(tmp_path):
    (tmp_path / "x").write_text("x")
    with (tmp_path / "x").open() as aside, flocked(tmp_path / "x"):
        assert aside.readable(), "that it is open here too makes it none of ours"
        reason = "another process has locked it"
        assert done(Identity(Guest(cleanup_paths=(str(tmp_path / "x"),))))["x"] == ("kept", reason)


def started(tmp_path: Path) -> Path:
    """The directory of a guest that qemu_guest_start started, and that is dead."""
    folder = tmp_path / "run" / "web1"
    folder.mkdir(parents=True)
    for name in ("qemu.pid", "qemu.log", "guest.json"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("way", ["run", "linked", "run/"])
def test_what_keeps_starts_off_goes_last_by_whatever_name(tmp_path, way):
    folder = started(tmp_path)
    (tmp_path / "linked").symlink_to("run")
    named = tuple("%s/%s/web1%s" % (tmp_path, way, name) for name in ("", "/qemu.log", "/guest.json"))
    entries = clean(Identity(Guest(str(folder / "qemu.pid"), cleanup_paths=named)))
    assert [(os.path.basename(entry.path), entry.outcome) for entry in entries] == [
        ("qemu.pid", "removed"),
        ("guest.json", "removed"),
        ("qemu.log", "removed"),
        ("web1", "removed"),
    ]


def test_nothing_of_a_guest_goes_that_is_being_started(tmp_path):
    folder = started(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "qmp.sock"))
    paths = [str(folder / name) for name in ("qemu.pid", "qmp.sock", "guest.json")]
    with flocked(tmp_path / "run" / ".web1.vmops-lock"):
        kept = done(Identity(Guest(*paths[:2], cleanup_paths=(*paths[2:], str(folder)))))
    assert kept == dict.fromkeys(
        ("qemu.pid", "qmp.sock", "guest.json", "web1"), ("kept", "a start of the guest is under way")
    )
