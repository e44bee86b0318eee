# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's client; its conversations with rude agents are integration tests."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.agent import (
    SPEECH_LIMIT_BYTES,
    Agent,
    Phase,
    listens,
)

OURS = b'\xff{"return": 7}\n'
CONVERSATIONS = [
    ("a clean answer", OURS, Phase.SYNCED),
    ("an error of before", b'{"error": {"class": "GenericError"}}\n' + OURS, Phase.SYNCED),
    ("half a line of before", b'{"ret\xff{"return": 7}\n', Phase.SYNCED),
    ("another client's number", b'\xff{"return": 6}\n', Phase.SYNCING),
    ("another's, then ours", b'\xff{"return": 6}\n' + OURS, Phase.SYNCED),
    ("our number without the delimiter", b'{"return": 7}\n', Phase.SYNCING),
    ("not finished", b'\xff{"return": 7}', Phase.SYNCING),
    ("noise", b"\x00\x80\n" * 10, Phase.SYNCING),
    ("no object", b"\xff7\n", Phase.SYNCING),
    ("nested without end", b"\xff" + b"[" * 200_000 + b"\n" + OURS, Phase.SYNCED),
    ("too much noise", b"x" * (SPEECH_LIMIT_BYTES // 2) + b"\n" + b"x" * SPEECH_LIMIT_BYTES + b"\n", Phase.LOST),
    ("a line without end", b"x" * (SPEECH_LIMIT_BYTES + 1), Phase.LOST),
    ("too much once it is in step", OURS + b'{"return": {}}\n' * (SPEECH_LIMIT_BYTES // 15 + 1), Phase.LOST),
]


@pytest.mark.parametrize(("said", "phase"), [row[1:] for row in CONVERSATIONS], ids=[row[0] for row in CONVERSATIONS])
def test_in_step_only_by_the_delimiter_and_our_own_number(tmp_path: Path, said, phase):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        agent = Agent(str(tmp_path / "agent"), number=7)
        agent.sync()
        connection, _address = listener.accept()
        with connection:
            assert connection.recv(1) == b"\xff"
            hear(agent, connection, said)
            assert agent.phase is phase
            assert agent.answers == [], "nothing was asked"
        agent.close()


def hear(agent: Agent, connection: socket.socket, said: bytes) -> None:
    """Have all of it said to us, or as much as we listen to."""
    sent = 0
    connection.setblocking(False)
    while sent < len(said) and agent.usable:
        try:
            sent += connection.send(said[sent:])
        except BlockingIOError:
            pass
        agent.pump()
    agent.pump()


def test_of_what_is_said_in_step_only_an_answer_to_each_question_is_kept(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        agent = Agent(str(tmp_path / "agent"), number=7)
        connection, _address = listener.accept()
        with connection:
            hear(agent, connection, OURS)
            agent.send("guest-ping")
            hear(agent, connection, b'{"event": "x"}\n{"return": {}}\n{"return": 2}\n' * 1000)
            assert agent.answers == [{"return": {}}]
            assert agent.phase is Phase.SYNCED
        agent.close()


def test_commands_sent_before_would_be_seen_so_connecting_sends_nothing(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        Agent(str(tmp_path / "agent")).close()
        connection, _address = listener.accept()
        with connection:
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("filename", "frontend_open", "there"),
    [
        ("unix:/run/ga,server=on", True, True),
        ("disconnected:unix:/run/ga,server=on", False, False),
        ("unix:/run/ga,server=on <-> something", True, True),
        ("unix:/run/ga,server", True, True),
        ("unix:/run/ga", False, False),
        ("unix:/run/../run/ga,server=on", True, True),
        ("unix:run/ga,server=on", True, None),
        ("unix:/run/ga2,server=on", True, None),
        ("unix:/run/ga,server,server=on", True, None),
        ("disconnected:tcp:/run/ga,server=on", True, None),
        ("pty", True, None),
    ],
)
def test_whether_somebody_listens_is_known_beforehand(filename, frontend_open, there):
    assert listens([{"filename": filename, "frontend-open": frontend_open, "label": "x"}], "/run/ga") is there
