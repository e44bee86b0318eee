# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what QEMU says: its refusals, its list of connections; and the record's file."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import Refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import places as places_module
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import ready
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.launch import advice
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.places import (
    default_base,
    places,
    prepare_base,
    prepare_folder,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.ready import Console, accepted
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.record import (
    Phase,
    Record,
    read_record,
    write_record,
)

# "info usernet" of QEMU 7.2.22, while the guest boots and after its server has answered.
BOOTING = """Hub -1 (n):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[SYN_SENT]      17       127.0.0.1  2299       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  11       127.0.0.1  2299       10.0.2.15    22     0     0
"""
ANSWERED = """Hub -1 (n):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[CLOSE_WAIT]    86       127.0.0.1  2299       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  11       127.0.0.1  2299       10.0.2.15    22     0     0
"""


@pytest.mark.parametrize(
    ("text", "port", "expected"),
    [
        (BOOTING, 2299, False),
        (ANSWERED, 2299, True),
        (ANSWERED, 22, False),
        (ANSWERED.replace("CLOSE_WAIT", "ESTABLISHED"), 2299, True),
        (ANSWERED.replace("CLOSE_WAIT]", "SYN_RECEIVED]"), 2299, False),
        (ANSWERED.replace("TCP[CLOSE_WAIT]", "UDP[236 sec]"), 2299, False),
        ("", 2299, False),
    ],
)
def test_whether_the_guest_took_a_connection(text, port, expected):
    assert accepted(text, port) is expected


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("-netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:22-:22'", "tcp:127.0.0.1:22"),
        ("Could not set up host forwarding rule 'udp::53-:53'", "udp::53"),
        ('Failed to get "write" lock\nIs another process using the image [/a]?', "Another process has that image"),
        ('Failed to get shared "write" lock', "Another process has that image"),
        ("Image is not in qcow2 format", "isn't qcow2"),
        ("Could not access KVM kernel module: Permission denied", "accel"),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "lower memory"),
        ("unsupported machine type", "-machine help"),
        ("unable to find CPU model 'x'", "-cpu help"),
        ("could not configure /dev/net/tun (tap0): Operation not permitted", "mode user"),
        ("Could not open '/a b': Permission denied", "read and write /a b"),
        ("something else", "Correct the option"),
    ],
)
def test_advice(said, part):
    assert part in advice(said)


def test_a_record_comes_back(tmp_path):
    path = str(tmp_path / "guest.json")
    record = Record(Phase.READY, 7, {"memory": 1, "append": "ü \udcff", "networks": []}, "tcg", ("/q", "-x"))
    write_record(path, record)
    assert read_record(path) == record
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": 1}', "null", "\0"])
def test_what_is_no_record_is_none(tmp_path, content):
    path = tmp_path / "guest.json"
    path.write_text(content)
    assert read_record(str(path)) is None
    assert read_record(str(tmp_path / "none.json")) is None


def test_a_text_on_the_console_is_found_however_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "PIECE_BYTES", 4)
    log = tmp_path / "console.log"
    console = Console(str(log), "ready")
    assert not console.says()
    for piece in ("not yet", " re", "ad", "re", "a", "dy"):
        with log.open("a") as file:
            file.write(piece)
        assert console.says() is (piece == "dy")
    assert Console(str(log), "y").says()
    assert not Console(str(log), "z").says()


def test_what_was_read_of_the_console_is_not_read_again(tmp_path):
    log = tmp_path / "console.log"
    log.write_text("." * 100)
    console = Console(str(log), "ready")
    assert not console.says()
    log.write_text("ready" + "." * 95)  # as nobody does: it shows what is looked at
    assert not console.says()
    log.write_text("ready")
    assert console.says(), "a log that was emptied begins anew"


def test_a_guest_that_writes_much_costs_no_memory_and_no_endless_look(tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "LOOK_BYTES", 32 << 20)
    log = tmp_path / "console.log"
    with log.open("wb") as file:
        file.truncate(40 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"ready")
    console = Console(str(log), "ready")
    tracemalloc.start()
    assert not console.says()
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert console.says()


def test_a_guests_directory_is_made_private(tmp_path):
    prepare_folder(str(tmp_path / "g"))
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o700
    prepare_folder(str(tmp_path / "g"))


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_guests_directory_that_is_not_private_is_refused(tmp_path, kind):
    folder = tmp_path / "g"
    if kind == "open":
        folder.mkdir()
        folder.chmod(0o750)
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    else:
        folder.write_text("")
    with pytest.raises(Refused):
        prepare_folder(str(folder))


def test_a_base_that_anybody_may_change_is_refused(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(Refused):
        prepare_base(str(base))
    base.chmod(0o1777)  # as /tmp: only an owner may replace what is theirs
    prepare_base(str(base))
    with pytest.raises(Refused):
        prepare_base(__file__)


def test_the_default_base(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_base() == str(tmp_path / "vmops")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert default_base() == "/tmp/vmops-4321"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_base() == "/run/vmops"


def test_a_guest_that_another_session_started_is_found_where_it_runs(monkeypatch, tmp_path):
    """Else a diskless one would be started a second time."""
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setattr(places_module, "default_bases", lambda: (str(here), str(there)))
    pidfile = there / "g" / "qemu.pid"
    pidfile.parent.mkdir(parents=True)
    pidfile.touch()
    assert places("g", None).base == str(here)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, 2); print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", hold, str(pidfile)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        guest.stdout.readline()
        assert places("g", None).base == str(there)
        assert places("h", None).base == str(here)
        assert places("g", str(here)).base == str(here)
        guest.stdin.close()
    assert places("g", None).base == str(here)
