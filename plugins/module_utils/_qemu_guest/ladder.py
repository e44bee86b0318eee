# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of the shutdown ladder, and nothing else: what to send next, after what was seen, at what time.

Where a guest begins is decided before (:mod:`.entry`); ``step`` is a pure machine from there on:
``(ladder, event, now) → (ladder, actions)``. Times are seconds on the caller's monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from .agent import SYNC_S
from .entry import Entry
from .model import Act, Rung


class On(str, Enum):
    """What the driver reports."""

    BEGIN = "begin"
    TIMER = "timer"
    AGENT_TOOK_IT = "agent took it"
    AGENT_FAILED = "agent failed"
    JOB_ENDED = "job ended"  # text: its name
    JOB_READY = "job ready"  # text: its name
    GUEST_RESET = "guest reset"
    SHUTDOWN = "shutdown"  # text: QEMU's reason
    STOPPED = "stopped"
    MONITOR_LOST = "monitor lost"
    REFUSED = "refused"  # text: the Act's value
    ENDED = "ended"  # the kernel says that the process has


# A press may fall into a time when the guest doesn't listen, and some guests take a second one for a cancellation: so
# not too often.
PRESS_INTERVAL_S = 10.0
PRESS_GROWTH = 1.5
PRESS_INTERVAL_MOST_S = 30.0
# Windows wakes its display at the first press and shuts down at the second.
WINDOWS_GAP_S = 0.5
# A guest that has just been reset can't listen yet; firmware takes a second or two.
AFTER_RESET_S = 2.0
# quit and SIGTERM were seen to take 5 to 26 ms; flushing a full cache to a slow disk takes seconds. The last rung has
# all the time that is left: to free much memory, or a device of the host's, may take minutes.
RUNG_MOST_S = {Rung.QUIT: 10.0, Rung.TERMINATE: 10.0}
# What a rung is sure to get of the whole time, however long those above it take: a share, and at most so many seconds.
RESERVED_SHARE = 0.15
RESERVED_MOST_S = {Rung.QUIT: 10.0, Rung.TERMINATE: 5.0, Rung.KILL: 5.0}
# From the end of the monitor's connection to the end of its process, where the guest has not shut itself down.
EXIT_S = 5.0

# Of QEMU's reasons to end this one alone means that the guest shut itself down. After guest-panic and guest-reset
# (-no-reboot) it is off as well.
GUEST_SHUTDOWN = "guest-shutdown"

_WAIT_FOR_EVER = "block jobs wait for whoever started them (%s); complete them, or allow block_jobs: cancel"


class Outcome(NamedTuple):
    """How it ended. ``method`` is None for a guest that ended before anything was sent."""

    down: bool
    method: Rung | None
    graceful: bool | None
    reason: str | None
    problem: str = ""


class Event(NamedTuple):
    """What happened, with the text that its kind calls for."""

    kind: On
    text: str = ""


class Ladder(NamedTuple):
    """One guest's way down."""

    entry: Entry
    profile: str
    block_jobs: str
    began: float
    ends: float
    jitter: float = 1.0
    jobs: frozenset[str] = frozenset()
    at: int = -1  # index into entry.rungs; -1 while preparing
    rung_ends: float = math.inf
    press_at: float = math.inf
    interval_s: float = PRESS_INTERVAL_S
    presses: int = 0
    half_pressed: bool = False  # of the windows profile's pair the first press was sent
    agent_took_it: bool = False
    guest_off: bool = False
    quit_sent: bool = False
    monitor_lost: bool = False
    rebooted: int = 0
    tried: tuple[Rung, ...] = ()
    reason: str | None = None
    outcome: Outcome | None = None

    @property
    def rung(self) -> Rung | None:
        return self.entry.rungs[self.at] if 0 <= self.at < len(self.entry.rungs) else None

    @property
    def wake_at(self) -> float:
        """When the next TIMER event is due."""
        return math.inf if self.outcome is not None else min(self.rung_ends, self.press_at)


Moved = tuple[Ladder, tuple[Act, ...]]


def step(ladder: Ladder, event: Event, now: float) -> Moved:
    """The machine's one transition. After ``outcome`` is set nothing happens any more."""
    if ladder.outcome is not None:
        return ladder, ()
    return _HANDLERS[event.kind](ladder, event.text, now)


def _begin(ladder: Ladder, _text: str, now: float) -> Moved:
    ladder = ladder._replace(guest_off=ladder.entry.off)
    if not ladder.jobs:
        return _climb(ladder, 0, now, ladder.entry.prepare)
    half = (ladder.ends - now - _reserved(ladder, ladder.entry.rungs)) / 2
    ladder = ladder._replace(rung_ends=now + max(0.0, half))
    return ladder, (Act.CANCEL_JOBS,) if ladder.block_jobs == "cancel" else ()


def _job_ended(ladder: Ladder, name: str, now: float) -> Moved:
    ladder = ladder._replace(jobs=ladder.jobs - {name})
    if ladder.at >= 0 or ladder.jobs:
        return ladder, ()
    return _climb(ladder, 0, now, ladder.entry.prepare)


def _job_ready(ladder: Ladder, name: str, _now: float) -> Moved:
    """It has done its work and will now wait for ever, and so would we."""
    if ladder.at >= 0 or ladder.block_jobs == "cancel":
        return ladder, ()
    return _failed(ladder, _WAIT_FOR_EVER % name)


def _timer(ladder: Ladder, _text: str, now: float) -> Moved:
    if now >= ladder.rung_ends:
        if ladder.at < 0 and ladder.block_jobs == "cancel":
            return _climb(ladder, 0, now, ladder.entry.prepare)  # they were given up, so they don't keep us
        if ladder.at < 0:
            return _failed(ladder, "its block jobs (%s) have not ended" % ", ".join(sorted(ladder.jobs)))
        return _climb(ladder, ladder.at + 1, now)
    if now >= ladder.press_at:
        return _press(ladder, now)
    return ladder, ()


def _agent_took_it(ladder: Ladder, _text: str, now: float) -> Moved:
    if ladder.rung is not Rung.AGENT:
        return ladder, ()
    ladder = ladder._replace(agent_took_it=True)
    return ladder._replace(rung_ends=_rung_ends(ladder, now)), ()


def _agent_failed(ladder: Ladder, _text: str, now: float) -> Moved:
    if ladder.rung is not Rung.AGENT:
        return ladder, ()
    return _climb(ladder._replace(agent_took_it=False), ladder.at + 1, now)


def _guest_reset(ladder: Ladder, _text: str, now: float) -> Moved:
    """It rebooted instead: what was sent is used up, and the new system needs a moment before it listens."""
    ladder = ladder._replace(rebooted=ladder.rebooted + 1)
    following = ladder.entry.rungs[ladder.at + 1 : ladder.at + 2]
    if ladder.rung is Rung.AGENT and Rung.ACPI in following:
        ladder = _at(ladder, ladder.at + 1, now)
    if ladder.rung is Rung.ACPI:
        ladder = ladder._replace(press_at=now + AFTER_RESET_S, interval_s=PRESS_INTERVAL_S, half_pressed=False)
    return ladder, ()


def _shutdown(ladder: Ladder, reason: str, now: float) -> Moved:
    if ladder.reason is not None:  # quit is reported as well, and the first reason is the guest's own
        return ladder, ()
    off = ladder.guest_off or reason.startswith("guest-")
    ladder = ladder._replace(reason=reason, guest_off=off, press_at=math.inf)
    if off and ladder.rung is Rung.AGENT:  # the power button needs none of the time any more
        ladder = ladder._replace(rung_ends=_rung_ends(ladder, now))
    return ladder, ()


def _stopped(ladder: Ladder, _text: str, _now: float) -> Moved:
    """SHUTDOWN and then STOP: the guest is off, and QEMU was told to live on."""
    if not ladder.guest_off or ladder.reason is None or ladder.quit_sent or ladder.monitor_lost:
        return ladder, ()
    return ladder._replace(quit_sent=True), (Act.QUIT,)


def _monitor_lost(ladder: Ladder, _text: str, now: float) -> Moved:
    """With a guest that shut itself down its QEMU is on its way out: that has all the time of the rung. Else nobody
    hears a press any more, and those rungs come sooner that can still do something.
    """
    ladder = ladder._replace(monitor_lost=True, press_at=math.inf)
    if ladder.rung not in (Rung.ACPI, Rung.QUIT) and not (ladder.rung is Rung.AGENT and ladder.agent_took_it):
        return ladder, ()
    ends = _rung_ends(ladder, now)
    if ladder.rung is Rung.ACPI and not ladder.guest_off and _below(ladder):
        ends = min(ends, now + EXIT_S)
    return ladder._replace(rung_ends=ends), ()


def _refused(ladder: Ladder, act: str, now: float) -> Moved:
    rung = {Act.PRESS: Rung.ACPI, Act.QUIT: Rung.QUIT, Act.TERMINATE: Rung.TERMINATE, Act.KILL: Rung.KILL}.get(Act(act))
    if rung is None or ladder.rung is not rung:
        return ladder, ()
    return _climb(ladder, ladder.at + 1, now)


def _ended(ladder: Ladder, _text: str, _now: float) -> Moved:
    return ladder._replace(outcome=Outcome(True, _method(ladder), _graceful(ladder), ladder.reason)), ()


def _method(ladder: Ladder) -> Rung | None:
    if ladder.guest_off and not ladder.entry.off and ladder.rung is Rung.QUIT:
        return _last_graceful(ladder)  # it went by itself while quit was on its way
    return ladder.rung


def _last_graceful(ladder: Ladder) -> Rung | None:
    if ladder.presses:
        return Rung.ACPI
    return Rung.AGENT if ladder.agent_took_it else None


def _graceful(ladder: Ladder) -> bool | None:
    if ladder.rung is None:
        return None
    # Without a monitor no event tells; but an agent's guest that ends after it took the request did so by itself.
    unseen = ladder.rung is Rung.AGENT and ladder.agent_took_it and Rung.QUIT not in ladder.entry.rungs
    return _went_by_itself(ladder) or (unseen and ladder.reason is None)


def _went_by_itself(ladder: Ladder) -> bool:
    return ladder.entry.off or ladder.reason == GUEST_SHUTDOWN


def _climb(ladder: Ladder, index: int, now: float, before: tuple[Act, ...] = ()) -> Moved:
    """Enter the rung at ``index`` or, where it has become useless, one below it."""
    rungs = ladder.entry.rungs
    while index < len(rungs) and _useless(ladder, rungs[index]):
        index += 1
    if index >= len(rungs):
        return _failed(ladder, _still_alive(ladder))
    ladder = _at(ladder, index, now)._replace(press_at=math.inf)
    if rungs[index] is Rung.ACPI:
        ladder, acts = _press(ladder, now)
        return ladder, before + acts
    if rungs[index] is Rung.QUIT:
        ladder = ladder._replace(quit_sent=True)
    return ladder, (*before, _ACTS[rungs[index]])


def _at(ladder: Ladder, index: int, now: float) -> Ladder:
    ladder = ladder._replace(at=index, tried=(*ladder.tried, ladder.entry.rungs[index]))
    return ladder._replace(rung_ends=_rung_ends(ladder, now))


def _useless(ladder: Ladder, rung: Rung) -> bool:
    if rung is Rung.ACPI and ladder.guest_off:
        return True
    return ladder.monitor_lost and rung in (Rung.ACPI, Rung.QUIT)


def _press(ladder: Ladder, now: float) -> Moved:
    presses = ladder.presses + 1
    if ladder.profile == "single":
        return ladder._replace(presses=presses, press_at=math.inf), (Act.PRESS,)
    if ladder.profile == "windows" and not ladder.half_pressed:
        return ladder._replace(presses=presses, half_pressed=True, press_at=now + WINDOWS_GAP_S), (Act.PRESS,)
    again = now + ladder.interval_s * ladder.jitter
    interval_s = min(PRESS_INTERVAL_MOST_S, ladder.interval_s * PRESS_GROWTH)
    ladder = ladder._replace(presses=presses, half_pressed=False, press_at=again, interval_s=interval_s)
    return ladder, (Act.PRESS,)


def _rung_ends(ladder: Ladder, now: float) -> float:
    """Until when the present rung may last: its own limit, or what remains without the rungs below."""
    rung = ladder.entry.rungs[ladder.at]
    below = _below(ladder)
    left_s = max(0.0, ladder.ends - now - _reserved(ladder, below))
    if rung is Rung.AGENT and Rung.ACPI in below:
        left_s /= 2
    if rung is Rung.AGENT and not ladder.agent_took_it:
        left_s = min(left_s, SYNC_S)
    return now + (min(left_s, RUNG_MOST_S.get(rung, math.inf)) if below else left_s)


def _below(ladder: Ladder) -> list[Rung]:
    """The rungs that are left and can still do something."""
    return [rung for rung in ladder.entry.rungs[ladder.at + 1 :] if not _useless(ladder, rung)]


def _reserved(ladder: Ladder, rungs: Sequence[Rung]) -> float:
    share_s = (ladder.ends - ladder.began) * RESERVED_SHARE
    return sum(min(share_s, RESERVED_MOST_S[rung]) for rung in rungs if rung in RESERVED_MOST_S)


def _failed(ladder: Ladder, problem: str) -> Moved:
    return ladder._replace(outcome=Outcome(False, ladder.rung, None, ladder.reason, problem)), ()


def _still_alive(ladder: Ladder) -> str:
    if Rung.KILL in ladder.tried:
        return "it is still alive after SIGKILL"
    left = [rung for rung in ladder.entry.beyond if not _useless(ladder, rung)]
    return "%s after %s; allow more time%s" % (
        "it shut down by itself, and its QEMU is still alive" if _went_by_itself(ladder) else "it is still alive",
        ", ".join(rung.value for rung in ladder.tried),
        ", or max_rung: %s" % left[0].value if left else "",
    )


_ACTS = {Rung.AGENT: Act.ASK_AGENT, Rung.QUIT: Act.QUIT, Rung.TERMINATE: Act.TERMINATE, Rung.KILL: Act.KILL}

_HANDLERS: Mapping[On, Callable[[Ladder, str, float], Moved]] = {
    On.BEGIN: _begin,
    On.TIMER: _timer,
    On.AGENT_TOOK_IT: _agent_took_it,
    On.AGENT_FAILED: _agent_failed,
    On.JOB_ENDED: _job_ended,
    On.JOB_READY: _job_ready,
    On.GUEST_RESET: _guest_reset,
    On.SHUTDOWN: _shutdown,
    On.STOPPED: _stopped,
    On.MONITOR_LOST: _monitor_lost,
    On.REFUSED: _refused,
    On.ENDED: _ended,
}


def fair_end(now: float, ends: float, waiting: int, parallel: int, groups_after: int) -> float:
    """Until when a guest that starts now may take, so that those who wait for its place, and the groups after, get as
    much.

    :param waiting: guests of this group that have not started, this one included.
    """
    turns = math.ceil(waiting / parallel) + groups_after
    return now + max(0.0, ends - now) / turns
