# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of this domain: which guest is meant, and what it was found to be."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

AGENT_PORT = "org.qemu.guest_agent.0"  # the name by which the agent in the guest knows its channel


class State(str, Enum):
    """What a guest was found to be."""

    ABSENT = "absent"  # no process, no files
    STALE = "stale"  # no process; a pidfile or sockets are left
    RUNNING = "running"
    PAUSED = "paused"
    PRELAUNCH = "prelaunch"  # started, never run
    SUSPENDED = "suspended"  # sleeps by its own wish
    MIGRATING = "migrating"  # being received, sent or saved
    MIGRATED = "migrated"  # was sent or saved, and stands still since: it goes on elsewhere
    SHUTDOWN = "shutdown"  # the guest is off, QEMU lives on
    BROKEN = "broken"  # panicked, or stopped for an error: it can't answer any more
    MONITOR_BUSY = "monitor_busy"  # another client holds the monitor
    MONITOR_HUNG = "monitor_hung"  # the process lives, the monitor doesn't answer
    NO_MONITOR = "no_monitor"  # the process lives, and no monitor was given
    UNPROVEN = "unproven"  # something lives there, and this host gives no proof of what it is
    IDENTITY_MISMATCH = "identity_mismatch"  # the evidence names different processes

    @property
    def is_down(self) -> bool:
        return self in (State.ABSENT, State.STALE)


# query-status's RunState (QEMU qapi/run-state.json).
STATES = {
    "running": State.RUNNING,
    "debug": State.PAUSED,
    "paused": State.PAUSED,
    "colo": State.MIGRATING,
    "prelaunch": State.PRELAUNCH,
    "preconfig": State.PRELAUNCH,
    "suspended": State.SUSPENDED,
    "shutdown": State.SHUTDOWN,
    "inmigrate": State.MIGRATING,
    "finish-migrate": State.MIGRATING,
    "postmigrate": State.MIGRATED,
    "restore-vm": State.MIGRATING,
    "save-vm": State.MIGRATING,
    "internal-error": State.BROKEN,
    "io-error": State.BROKEN,
    "guest-panicked": State.BROKEN,
    "watchdog": State.BROKEN,
}


def status_in(answer: object) -> str | None:
    """The word in a monitor's answer to query-status; None where there is none."""
    status = answer.get("status") if isinstance(answer, dict) else None
    return status if isinstance(status, str) else None


def state_of(word: str | None) -> State:
    """The state that QEMU's word means. A guest whose monitor didn't answer, and one of which a newer QEMU uses a word
    that isn't known here, are taken to run: then they are asked before anything is done to them.
    """
    return STATES.get(word or "", State.RUNNING)


class Guest(NamedTuple):
    """Which guest is meant: everything that is known of it must agree."""

    pidfile: str | None = None
    qmp_socket: str | None = None
    agent_socket: str | None = None
    pid: int | None = None
    name: str | None = None
    uuid: str | None = None
    group: int = 0
    cleanup_paths: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages call it."""
        for given in (self.name, self.pidfile, self.qmp_socket, self.uuid):
            if given:
                return given
        return "pid %s" % self.pid

    @property
    def paths(self) -> tuple[str, ...]:
        """The pidfile and the sockets, as far as they are named."""
        return tuple(path for path in (self.pidfile, self.qmp_socket, self.agent_socket) if path)


class Rung(str, Enum):
    """From the gentlest down to the last."""

    AGENT = "agent"
    ACPI = "acpi"
    QUIT = "quit"
    TERMINATE = "terminate"
    KILL = "kill"


ORDER = tuple(Rung)


class Act(str, Enum):
    """What can be done to a guest; the value is the command or signal."""

    WAKE = "system_wakeup"
    RESUME = "cont"
    CANCEL_JOBS = "block-job-cancel"
    ASK_AGENT = "guest-shutdown"
    PRESS = "system_powerdown"
    QUIT = "quit"
    TERMINATE = "SIGTERM"
    KILL = "SIGKILL"


PREPARING = (Act.WAKE, Act.RESUME, Act.CANCEL_JOBS)


class Policy(NamedTuple):
    """What the user allows."""

    max_rung: Rung = Rung.QUIT
    profile: str = "default"
    paused: str = "fail"
    block_jobs: str = "wait"
