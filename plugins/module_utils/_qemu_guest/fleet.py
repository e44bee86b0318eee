# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drives many guests down in one loop: one ``poll()`` over all their processes, monitors and agents, and the next
deadline.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from .._core.wait import Deadline, ready
from . import ladder as rules
from .descent import Run

# While other guests still move, a dead one's files wait until nothing was heard for so long: its turn costs theirs.
QUIET_S = 0.01
# Who has just slept gets a turn of the processor long enough to send to a whole fleet. Without, the first guest woken
# takes our place, and the last ones were seen to get their press up to 50 ms later.
REST_S = 0.002


def drive(runs: Sequence[Run], deadline: Deadline, parallel: int, renew: Callable[[Sequence[Run]], None]) -> None:
    """Bring all guests down, group by group; a group begins when the one before it is down. ``parallel`` of 0: all of
    a group at once. ``renew`` looks again at those whose turn has come: much may have happened while others went down.

    What became of each is in its run. A group after one that failed is left alone, because its order was asked for.
    """
    groups = sorted({run.identity.guest.group for run in runs})
    ends = deadline.ends - min(2.0, 0.05 * (deadline.ends - deadline.started))  # for the last look and the result
    for number, group in enumerate(groups):
        members = [run for run in runs if run.identity.guest.group == group]
        _drive_group(members, ends, parallel or len(members), len(groups) - number - 1, renew)
        if any(run.problem for run in members):
            for run in runs:
                if run.identity.guest.group > group and not run.problem:
                    run.leave_alone("it was left alone, because a guest of group %d did not go down" % group)
            return


class _Active:
    """The guests on their way down and what wakes each. Asked of a guest only when it has moved: in a fleet every
    event would else cost a look at all, and the processors are the guests' just now.
    """

    def __init__(self) -> None:
        self.by_descriptor: dict[int, Run] = {}
        self._descriptors: dict[Run, list[int]] = {}
        self._wakes: dict[Run, float] = {}
        self._heard_at = -math.inf

    def __len__(self) -> int:
        return len(self._wakes)

    def update(self, run: Run) -> None:
        """Take a guest in, see anew what wakes it, or leave it out when it is done."""
        for descriptor in self._descriptors.pop(run, ()):
            if self.by_descriptor.get(descriptor) is run:
                del self.by_descriptor[descriptor]
        if run.done:
            self._wakes.pop(run, None)
            return
        self._descriptors[run] = run.descriptors()
        self.by_descriptor.update((descriptor, run) for descriptor in self._descriptors[run])
        self._wakes[run] = run.wake_at()

    def attend(self) -> None:
        """Wait for the next thing to happen, and have it attended to."""
        heard = ready(self.by_descriptor, max(0.0, min(self._wake_at() - time.monotonic(), 60.0)))
        now = time.monotonic()
        if heard:
            self._heard_at = now
        called = {self.by_descriptor[descriptor] for descriptor in heard}
        called |= {run for run, at in self._wakes.items() if at <= now and not run.releasing}
        if not called:  # what moves comes before what is only to be tidied up, and so it is between any two of these
            called = set(self._to_release(now)[:1])
        for run in called:
            run.attend()
            self.update(run)

    def _wake_at(self) -> float:
        releases = [at for run, at in self._wakes.items() if run.releasing]
        moves = [at for run, at in self._wakes.items() if not run.releasing]
        if not moves:
            return min(releases)
        quiet = max(min(releases, default=math.inf), self._heard_at + QUIET_S)
        return min(*moves, quiet)

    def _to_release(self, now: float) -> list[Run]:
        return [run for run, at in self._wakes.items() if run.releasing and at <= now]


def _drive_group(
    members: Iterable[Run], ends: float, parallel: int, groups_after: int, renew: Callable[[Sequence[Run]], None]
) -> None:
    waiting = [run for run in members if not run.done]
    active = _Active()
    while waiting or active:
        called = waiting[: parallel - len(active)]
        del waiting[: len(called)]
        if called:
            renew(called)
        fresh = [run for run in called if not run.done]
        for number, run in enumerate(fresh):
            left = len(fresh) - number + len(waiting)
            run.prepare(rules.fair_end(time.monotonic(), ends, left, parallel, groups_after))
        if len(fresh) > 1:
            ready((), REST_S)
        for run in fresh:
            run.begin()
        for run in fresh:
            active.update(run)
        # One whose every rung was refused at once is done already, and nothing would ever wake us for it.
        if active:
            active.attend()
