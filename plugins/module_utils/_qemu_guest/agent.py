# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guest agent's channel: who is there is found out before anything is asked of it.

Bytes of an earlier client may still be in the channel, in both directions. So a conversation begins with the agent's
own delimiter, and everything up to the delimiter *and* our own number in the answer is thrown away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from .._core.wait import Deadline, ready
from .qmp import Channel

SYNC_S = 2.0  # an agent that listens answers in milliseconds
# For a whole conversation. What a dead client can have left in the channel's buffers and what is answered to us are far
# less: more comes from somebody who never listens, and would fill our memory and keep us from other guests.
SPEECH_LIMIT_BYTES = 1024 * 1024
SENTINEL = b"\xff"
SYNC = "guest-sync-delimited"


class Phase(str, Enum):
    """How far a conversation has come."""

    SYNCING = "syncing"
    SYNCED = "synced"
    LOST = "lost"


class Agent(Channel):
    """One conversation with a guest agent; never blocks. Connecting sends nothing: whose channel it is can be looked
    at first.

    ``number`` marks our own sync and must differ from what earlier clients used.
    """

    def __init__(self, path: str, number: int | None = None) -> None:
        super().__init__(path)
        self.number = int.from_bytes(os.urandom(6), "big") if number is None else number
        self.phase = Phase.SYNCING if self.usable else Phase.LOST
        self.answers: list[Mapping[str, Any]] = []
        self._asked = 0
        self._heard_bytes = 0

    def sync(self) -> None:
        """Ask whoever listens to come in step with us."""
        message = {"execute": SYNC, "arguments": {"id": self.number}}
        self.write(SENTINEL + json.dumps(message).encode() + b"\n")

    def send(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Send a command to an agent that is in step with us; its answer will be added to ``answers``, and no more."""
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = dict(arguments)
        self._asked += 1
        self.write(json.dumps(message).encode() + b"\n")

    def pump(self) -> Phase:
        """Read what has come. Who says more than SPEECH_LIMIT_BYTES is lost (``GARBAGE``)."""
        self.read()
        for line in self.lines():
            self._heard_bytes += len(line) + 1
            self._take(line)
        if self._heard_bytes + len(self.buffer) > SPEECH_LIMIT_BYTES:
            self._lost("GARBAGE")
        if self.problem:
            self.phase = Phase.LOST
        return self.phase

    def _take(self, line: bytes) -> None:
        _before, sentinel, after = line.rpartition(SENTINEL)
        if self.phase is Phase.SYNCING and not sentinel:  # left by another conversation
            return
        try:
            message = json.loads((after if sentinel else line).decode("utf-8", "replace"))
        except (ValueError, RecursionError):  # the latter where it is nested without end
            return
        if not isinstance(message, dict):
            return
        if self.phase is Phase.SYNCED:
            if ("return" in message or "error" in message) and len(self.answers) < self._asked:
                self.answers.append(message)
        elif sentinel and message.get("return") == self.number:
            self.phase = Phase.SYNCED


def listens(chardevs: Sequence[Mapping[str, Any]], path: str) -> bool | None:
    """Whether something in the guest has opened the channel at ``path``, by query-chardev's answer; None if that
    channel isn't listed. QEMU tells the path that it was started with, which may lead there by other links.
    """
    resolved = os.path.realpath(path)
    for chardev in chardevs:
        told = _socket_path(str(chardev.get("filename", "")))
        if told == path or (os.path.isabs(told) and os.path.realpath(told) == resolved):
            return bool(chardev.get("frontend-open"))
    return None


def _socket_path(filename: str) -> str:
    """The path in QEMU's ``disconnected:unix:PATH,server=on``, with or without what is around it; empty if it is no
    Unix socket.
    """
    if filename.startswith("disconnected:"):
        filename = filename[len("disconnected:") :]
    if not filename.startswith("unix:"):
        return ""
    address = filename[len("unix:") :].partition(" <-> ")[0]
    return address.rpartition(",server")[0] or address


def ping(path: str, deadline: Deadline, sync_s: float = SYNC_S) -> bool:
    """Whether an agent answers at ``path`` within ``sync_s`` seconds: it is brought in step and answers guest-ping."""
    agent = Agent(path)
    agent.sync()
    share = deadline.within(sync_s)
    try:
        asked = False
        while not share.expired and agent.phase is not Phase.LOST:
            if agent.phase is Phase.SYNCED and not asked:
                agent.send("guest-ping")
                asked = True
            if ready([agent.fileno()], share.remaining_s()):
                agent.pump()
            if any("return" in answer for answer in agent.answers):
                return True
        return False
    finally:
        agent.close()
