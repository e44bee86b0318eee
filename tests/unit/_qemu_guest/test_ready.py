# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a guest is ready: QEMU's list of connections, and the console."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import ready
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.ready import Console, accepted

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
