# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was found of a guest: the process that it is, how it is reached, and what it left if it is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from .agent import Agent
from .model import Guest, State
from .process import Process
from .qmp import Channel, Monitor


class Mark(NamedTuple):
    """Device and inode."""

    device: int
    inode: int


class Identity:
    """What the evidence for one guest amounts to. Holds descriptors until ``close``.

    ``state`` is ABSENT, STALE, IDENTITY_MISMATCH, UNPROVEN, or NO_MONITOR for a process that is held. ``problem``
    explains the third and fourth, and tells of a namesake of a guest that has no process.
    """

    def __init__(self, guest: Guest, found: bool = False) -> None:
        self.guest = guest
        # Whether its pid and paths are its command line's: nobody named them, and a process can say what it likes.
        self.found = found
        self.state = State.ABSENT
        self.problem = ""
        self.process: Process | None = None
        # Whether the command line of the process is a QEMU's. Of another only its monitor's greeting proves it one.
        self.is_qemu = False
        self.monitor: Monitor | None = None
        self.agent: Agent | None = None
        # Whether it is on its way out: nothing tells any more that it was a QEMU, while locks and sockets may name it.
        self.ending = False
        self.leftovers: list[str] = []
        # Of a guest that has no process: the paths that stay although they were named, and why.
        self.kept: dict[str, str] = {}
        # The sockets whose file was removed or replaced, and at which somebody listens all the same.
        self.vanished: list[str] = []
        # What these paths were when we looked: only the same thing is taken away later.
        self.marks = {path: mark(path) for path in guest.paths}

    @property
    def holds_qemu(self) -> bool:
        """Whether what is held is a QEMU, by its command line or by its monitor's greeting."""
        if self.process is None:
            return False
        return self.is_qemu or (self.monitor is not None and self.monitor.greeting is not None)

    def close(self) -> None:
        """Let go of process and channels."""
        self.close_channels()
        if self.process is not None:
            self.process.close()

    def channels(self) -> Iterator[Channel]:
        """The monitor and the agent, as far as they are named."""
        for channel in (self.monitor, self.agent):
            if channel is not None:
                yield channel

    def close_channels(self) -> None:
        """Leave the monitor and the agent to others."""
        for channel in self.channels():
            channel.close()


def mark(path: str, folder: int | None = None) -> Mark | None:
    """Which file a path is, seen from an open directory if one is given; None where there is none."""
    try:
        return mark_of(os.stat(path, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return None


def mark_of(seen: os.stat_result) -> Mark:
    """The same of what is open, or was looked at."""
    return Mark(seen.st_dev, seen.st_ino)
