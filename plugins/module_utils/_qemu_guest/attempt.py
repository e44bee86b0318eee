# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was sent to a guest, one by one, as the result tells it."""

from __future__ import annotations

from .agent import SYNC


class Attempt:
    """One thing that was sent, and what came of it. Times are seconds since the task began. ``sent`` is None where
    there was nobody to send it to.
    """

    def __init__(self, vm: str, rung: str, number: int, started_s: float, sent: str | None) -> None:
        self.vm = vm
        self.rung = rung
        self.number = number
        self.started_s = started_s
        self.sent = sent
        self.ended_s: float | None = None
        self.reply: object = None
        self.events: list[str] = []
        self.outcome = "sent"
        self.errno: str | None = None

    def end(self, now_s: float) -> None:
        if self.ended_s is None:
            self.ended_s = now_s

    @property
    def reached(self) -> bool:
        """Whether it may have done something to the guest: it was sent, and not refused."""
        return self.sent not in (None, SYNC) and self.outcome != "refused"

    def as_result(self) -> dict[str, object]:
        return {
            "vm": self.vm,
            "rung": self.rung,
            "n": self.number,
            "started": round(self.started_s, 3),
            "ended": None if self.ended_s is None else round(self.ended_s, 3),
            "sent": self.sent,
            "reply": self.reply,
            "events": list(self.events),
            "outcome": self.outcome,
            "errno": self.errno,
        }
