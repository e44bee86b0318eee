# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a guest that is up also runs, in QEMU's own word: somebody may have paused it, or an error stopped it."""

from __future__ import annotations

from typing import NamedTuple

from .._core.errors import LifecycleError
from .._core.wait import Deadline
from .model import status_in
from .qmp import EXPLAINED, Monitor, converse, execute, failure, open_monitor

# A monitor answers in milliseconds. One that is held by another client never does, and a look must not wait for that.
ANSWER_S = 0.5
# QEMU's words for a guest that goes on where it stopped. What stopped one for io-error (a full disk) may be mended.
RESUMABLE = ("paused", "io-error")


class NotResumed(LifecycleError):
    """QEMU was told to let a guest run, and it doesn't. Next step: look for what stops it."""

    kind = "guest_not_resumed"

    def __init__(self, name: str, status: str) -> None:
        super().__init__(
            "The guest %s was let run and stopped again: QEMU calls it %s. Look for what stops it, such as a full or "
            "failing disk of the host, then run the task again." % (name, status),
            status=status,
        )


class Answer(NamedTuple):
    """QEMU's word for the state of a guest, or None and why its monitor gave none."""

    status: str | None
    silence: str = ""


def ask(qmp_socket: str, deadline: Deadline) -> Answer:
    """What the monitor at this socket answers at once."""
    monitor = Monitor(qmp_socket)
    try:
        monitor.negotiate()
        number = monitor.send("query-status")
        converse([monitor], deadline, ANSWER_S)
        answer = monitor.replies.get(number)
        if answer is None:
            return Answer(None, EXPLAINED[failure(monitor)])
        status = status_in(answer.value)
        return Answer(status, "" if status else "it doesn't tell a status (%s)" % (answer.error or answer.value))
    finally:
        monitor.close()


def resume(name: str, qmp_socket: str, deadline: Deadline) -> None:
    """Let a guest run that is paused. Raises NotResumed, MonitorFailed, CommandRefused."""
    monitor = open_monitor(qmp_socket, deadline)
    try:
        if execute(monitor, "query-status", deadline)["status"] not in RESUMABLE:
            return
        execute(monitor, "cont", deadline)
        now = execute(monitor, "query-status", deadline)["status"]
    finally:
        monitor.close()
    if now in RESUMABLE:
        raise NotResumed(name, now)
