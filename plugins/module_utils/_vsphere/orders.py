# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task and its guard say to each other: one JSON object a line, over a pair of sockets that nobody else has."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Mapping
from typing import Any

from .._core.wait import ready

_PIECE_BYTES = 65536
LAST_WORD = 0
"""The number of what a guard says when it leaves; answers have the numbers of their orders, from 1."""


# Whoever hears nothing for so long is stopped: an order of some megabytes passes in milliseconds.
_TAKEN_WITHIN_S = 10.0


class HungUp(Exception):
    """The other side has closed or has ended, or takes nothing any more."""


class Line:
    """One end of the pair."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(_TAKEN_WITHIN_S)
        self._end = end
        self._read = b""

    def fileno(self) -> int:
        return self._end.fileno()

    def say(self, message: Mapping[str, object]) -> None:
        """Raises HungUp. A message that isn't taken as a whole is the last: what came after it would be part of it."""
        try:
            self._end.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._say_no_more()
            raise HungUp from None

    def hear(self, timeout_s: float) -> Mapping[str, Any] | None:
        """The next message; None if none came in time. Raises HungUp, and Stopped where a signal or a lost reader ends
        the task meanwhile.
        """
        while b"\n" not in self._read:
            if not ready((self.fileno(),), timeout_s):
                return None
            try:
                piece = self._end.recv(_PIECE_BYTES)
            except OSError:
                piece = b""
            if not piece:
                raise HungUp
            self._read += piece
        line, self._read = self._read.split(b"\n", 1)
        message: Mapping[str, Any] = json.loads(line)
        return message

    @property
    def hung_up(self) -> bool:
        """Whether the other side has closed or has ended. What it said last may still be heard."""
        poller = select.poll()
        poller.register(self._end, select.POLLIN)
        return any(event & select.POLLHUP for _descriptor, event in poller.poll(0))

    def _say_no_more(self) -> None:
        try:
            self._end.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side has ended

    def close(self) -> None:
        self._end.close()
