# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One guest on its way down: what its process, monitor and agent say goes to the ladder, and what the ladder wants done
is done. At the end what the guest held is released.
"""

from __future__ import annotations

import errno
import math
import os
import random
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._core import locks
from .._core.wait import Deadline
from . import ladder as rules
from . import process
from .agent import SYNC, Agent, Phase
from .attempt import Attempt
from .entry import Entry
from .identity import Identity
from .ladder import Event, Ladder, Moved, On, Outcome
from .model import PREPARING, Act, Policy, Rung
from .probe import Probe
from .qmp import Event as Message
from .qmp import Monitor

if TYPE_CHECKING:
    from .cleanup import Cleaned

# Where the kernel gives no descriptor to wait on, or no event (a file lock): one question per this many seconds.
ASK_EVERY_S = 0.02
# An image's locks fall with the process; only its last writes to a slow disk can hold them a little longer.
IMAGES_FREE_S = 5.0
JITTER = 0.1  # share by which the interval of presses varies, so that a fleet's guests don't all get theirs at once


class Run:
    """One guest on its way down: ``prepare`` it, ``begin``, and ``attend`` to it whenever its descriptors or its time
    call, until it is ``done``.
    """

    def __init__(
        self, identity: Identity, seen: Probe, entry: Entry, policy: Policy, deadline: Deadline, tidy: bool
    ) -> None:
        self.policy = policy
        self.label = identity.guest.label
        self.attempts: list[Attempt] = []
        self.cancelled_jobs: list[str] = []
        self.cleaned: list[Cleaned] = []
        self.busy_images: list[str] = []
        self.renew(identity, seen, entry)
        self.ladder: Ladder | None = None
        self._first: Moved | None = None
        self._deadline = deadline
        self._tidy = tidy
        self._pending: dict[int, tuple[Act, Attempt]] = {}
        self._images_until = math.inf
        self._release_at = math.inf

    @property
    def outcome(self) -> Outcome | None:
        return self.ladder.outcome if self.ladder is not None else None

    @property
    def down(self) -> bool:
        return self.outcome is not None and self.outcome.down

    def renew(self, identity: Identity, seen: Probe, entry: Entry) -> None:
        """Take what was seen of it later, before anything was sent to it."""
        self.identity = identity
        self.seen = seen
        self.entry = entry
        self.problem = entry.refusal
        self.done = bool(entry.refusal)
        self._told = seen.events  # how many of the monitor's events the ladder knows of
        self._monitor_lost = identity.monitor is None or not identity.monitor.usable

    def prepare(self, ends: float) -> None:
        """Make up its mind; all is to be over at ``ends`` on the monotonic clock."""
        self.ladder = self._ladder(ends)
        self._first = rules.step(self.ladder, Event(On.BEGIN), self.ladder.began)

    def _ladder(self, ends: float) -> Ladder:
        return Ladder(
            self.entry,
            self.policy.profile,
            self.policy.block_jobs,
            began=time.monotonic(),
            ends=ends,
            jitter=random.uniform(1 - JITTER, 1 + JITTER),
            jobs=frozenset(job.name for job in self.seen.jobs),
        )

    def begin(self) -> None:
        """Send what comes first. Nothing else is done here: a guest that is woken by it takes our processor."""
        if self.ladder is not None and self._first is not None:
            self._move(self.ladder, *self._first)
            self._first = None
            self._take_in()  # what was reported since it was looked at has been read already

    def descriptors(self) -> list[int]:
        """What to poll for this guest."""
        if self.releasing:
            return []
        held, found = self.identity.process, []
        if held is not None and held.fileno() is not None:
            found.append(held.fileno())
        for channel in (self.identity.monitor, self._talking_agent()):
            if channel is not None and channel.usable:
                found.append(channel.fileno())
        return [descriptor for descriptor in found if descriptor is not None]

    def wake_at(self) -> float:
        """When this guest needs attention even if nothing happens."""
        held = self.identity.process
        if self.releasing:
            return self._release_at
        if held is not None and held.fileno() is None:
            return time.monotonic() + ASK_EVERY_S
        return self.ladder.wake_at if self.ladder is not None else math.inf

    def attend(self) -> None:
        """Take in all news, and act on them."""
        if self.releasing:
            self._release()
            return
        held = self.identity.process
        # Asked first: what the monitor said before the end is still in its socket afterwards.
        ended = held is not None and not held.alive()
        self._hear_monitor()
        self._hear_agent()
        if ended:
            self._feed(Event(On.ENDED))
        elif self.ladder is not None and time.monotonic() >= self.ladder.wake_at:
            self._feed(Event(On.TIMER))

    def _hear_monitor(self) -> None:
        if self.identity.monitor is not None and not self._monitor_lost:
            self.identity.monitor.pump()
            self._take_in()

    def _take_in(self) -> None:
        """Act on what the monitor has said, and on its end."""
        monitor = self.identity.monitor
        if monitor is None or self._monitor_lost:
            return
        for number in [number for number in self._pending if number in monitor.replies]:
            self._answered(monitor, number)
        for message in monitor.events[self._told :]:
            self._told += 1
            self._heard(message)
        if not monitor.usable:
            self._monitor_lost = True
            self._end_pending(monitor.problem)
            self._feed(Event(On.MONITOR_LOST))

    def _answered(self, monitor: Monitor, number: int) -> None:
        act, attempt = self._pending.pop(number)
        reply = monitor.replies[number]
        attempt.end(self._deadline.elapsed_s())
        if reply.error_class is None:
            attempt.reply, attempt.outcome = reply.value, "accepted"
            return
        attempt.reply, attempt.outcome = {"class": reply.error_class, "desc": reply.error}, "refused"
        self._feed(Event(On.REFUSED, act.value))

    def _end_pending(self, problem: str) -> None:
        for _act, attempt in self._pending.values():
            attempt.end(self._deadline.elapsed_s())
            attempt.outcome, attempt.errno = "connection_lost", problem
        self._pending.clear()

    def _heard(self, message: Message) -> None:
        if self.attempts:
            self.attempts[-1].events.append(message.name)
        device = str(message.data.get("device", ""))
        if message.name == "SHUTDOWN":
            self._feed(Event(On.SHUTDOWN, str(message.data.get("reason", ""))))
        elif message.name == "RESET" and message.data.get("guest"):
            self._feed(Event(On.GUEST_RESET))
        elif message.name == "STOP":
            self._feed(Event(On.STOPPED))
        elif message.name == "BLOCK_JOB_READY":
            self._feed(Event(On.JOB_READY, device))
        elif message.name in ("BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED"):
            if message.name == "BLOCK_JOB_CANCELLED":
                self.cancelled_jobs.append(device)
            self._feed(Event(On.JOB_ENDED, device))

    def _talking_agent(self) -> Agent | None:
        """The agent's channel, while it is wanted."""
        if self.ladder is None or self.ladder.rung is not Rung.AGENT:
            return None
        return self.identity.agent

    def _hear_agent(self) -> None:
        agent = self._talking_agent()
        if agent is None or not agent.usable:
            return
        before = agent.phase
        phase = agent.pump()
        attempt = next(attempt for attempt in self.attempts if attempt.rung == Rung.AGENT.value)
        if before is Phase.SYNCING and phase is Phase.SYNCED:
            agent.send(Act.ASK_AGENT.value, {"mode": "powerdown"})
            attempt.sent, attempt.outcome = Act.ASK_AGENT.value, "accepted"  # a success is never answered
            self._feed(Event(On.AGENT_TOOK_IT))
        refusals = [answer["error"] for answer in agent.answers if "error" in answer]
        if refusals:
            self._agent_failed(attempt, "refused", reply=refusals[0])
        elif phase is Phase.LOST and before is Phase.SYNCING:
            self._agent_failed(attempt, "connection_lost", number=agent.problem)

    def _agent_failed(self, attempt: Attempt, outcome: str, reply: object = None, number: str | None = None) -> None:
        attempt.end(self._deadline.elapsed_s())
        attempt.outcome, attempt.reply, attempt.errno = outcome, reply, number
        self._feed(Event(On.AGENT_FAILED))

    def _feed(self, event: Event) -> None:
        if self.ladder is None:
            return
        self._move(self.ladder, *rules.step(self.ladder, event, time.monotonic()))

    def _move(self, before: Ladder, after: Ladder, acts: Sequence[Act]) -> None:
        self.ladder = after
        if self.ladder.at != before.at or self.ladder.outcome is not None:
            self._close_attempts(self.ladder.outcome is not None and self.ladder.outcome.down)
        for act in acts:
            self._do(act)
        outcome = self.ladder.outcome
        if outcome is not None and before.outcome is None:
            self._settle(outcome)

    def _close_attempts(self, ended: bool) -> None:
        now_s = self._deadline.elapsed_s()
        for attempt in self.attempts:
            if attempt.ended_s is None:
                attempt.end(now_s)
                if not ended and attempt.outcome == "sent":
                    attempt.outcome = "no_answer"
        if ended and self.attempts:
            self.attempts[-1].ended_s = now_s
            self.attempts[-1].outcome = "ended"

    def _do(self, act: Act) -> None:
        if act is Act.ASK_AGENT:
            self._ask_agent()
        elif act in (Act.TERMINATE, Act.KILL):
            self._signal(act)
        elif act is Act.CANCEL_JOBS:
            for job in self.seen.jobs:
                self._command(act, {"device": job.name, "force": True})
        else:
            self._command(act)

    def _command(self, act: Act, arguments: dict[str, object] | None = None) -> None:
        monitor = self.identity.monitor
        if monitor is None or not monitor.usable:
            return
        said = "".join(" %s=%s" % item for item in (arguments or {}).items())
        attempt = self._attempt(act, said)
        self._pending[monitor.send(act.value, arguments)] = (act, attempt)
        if not monitor.usable:
            self._take_in()

    def _ask_agent(self) -> None:
        attempt = self._attempt(Act.ASK_AGENT)
        attempt.sent = None
        agent = self.identity.agent
        if self.seen.agent_connected is False:
            self._agent_failed(attempt, "nobody_listens")
        elif agent is None or not agent.usable:
            self._agent_failed(attempt, "connection_lost", number=agent.problem if agent is not None else None)
        else:
            attempt.sent = SYNC
            agent.sync()

    def _signal(self, act: Act) -> None:
        attempt = self._attempt(act)
        held = self.identity.process
        try:
            if held is not None:
                held.signal(signal.SIGTERM if act is Act.TERMINATE else signal.SIGKILL)
        except ProcessLookupError:
            attempt.outcome = "ended"
        except OSError as error:
            attempt.outcome, attempt.errno = "refused", errno.errorcode.get(error.errno or errno.EPERM)
            self._feed(Event(On.REFUSED, act.value))

    def _attempt(self, act: Act, said: str = "") -> Attempt:
        rung = self._rung_of(act)
        number = 1 + sum(attempt.rung == rung for attempt in self.attempts)
        attempt = Attempt(self.label, rung, number, self._deadline.elapsed_s(), act.value + said)
        self.attempts.append(attempt)
        return attempt

    def _rung_of(self, act: Act) -> str:
        """What prepares a guest goes out together with its first rung's command."""
        if act in PREPARING or self.ladder is None or self.ladder.rung is None:
            return "prepare"
        return self.ladder.rung.value

    def leave_alone(self, problem: str) -> None:
        """Nothing is sent to it, for this reason."""
        self.problem, self.done = problem, True

    def found_gone(self) -> None:
        """Its process has ended before its turn, or when its time was over: by what was sent last, or by itself."""
        self.problem = ""
        self.ladder = (self.ladder or self._ladder(time.monotonic()))._replace(outcome=None)
        self._feed(Event(On.ENDED))
        self._clean()
        self.done = True

    def _settle(self, outcome: Outcome) -> None:
        if not outcome.down:
            self.problem = self._forbidden() or outcome.problem + self._uninterruptible()
            self.done = True
            return
        now = time.monotonic()
        self._images_until = now + min(IMAGES_FREE_S, self._deadline.remaining_s())
        self._release_at = now

    def _uninterruptible(self) -> str:
        """For a process that even SIGKILL doesn't end: what it waits for."""
        held = self.identity.process
        seen = process.stat(held.pid) if held is not None else None
        if held is None or seen is None or seen.state != "D":
            return ""
        place = process.waits_in(held.pid)
        return "; process %d waits in the kernel (state D%s), see /proc/%d/wchan: nothing was cleaned up" % (
            held.pid,
            ", in %s" % place if place not in ("", "0") else "",
            held.pid,
        )

    def _forbidden(self) -> str:
        """For a process of somebody else: that our signals never reached it."""
        refused = [attempt.sent for attempt in self.attempts if attempt.sent and attempt.errno == "EPERM"]
        if not refused or self.identity.process is None:
            return ""
        return (
            "it is still alive, and this user may not signal process %d (refused: %s): run the task with become, as "
            "root or as the guest's own user" % (self.identity.process.pid, ", ".join(refused))
        )

    @property
    def releasing(self) -> bool:
        """Whether only the release of what it held is left to do."""
        return self.down and not self.done

    def _release(self) -> None:
        """The process is gone: wait until its images can be used by others, then take away what it left."""
        self.busy_images = [path for path in self.seen.images if _has_writer(path)]
        if self.busy_images and time.monotonic() < self._images_until:
            self._release_at = time.monotonic() + ASK_EVERY_S
            return
        self.identity.close_channels()
        self._clean()
        self.done = True

    def _clean(self) -> None:
        if not self._tidy:
            return
        from .cleanup import clean  # not before the first press: a fleet waits for what is compiled until then

        self.cleaned = clean(self.identity)


def _has_writer(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # removed with its guest, or out of our reach
    try:
        return bool(locks.conflicts(descriptor, process.IMAGE_WRITER_BYTE, process.IMAGE_WRITER_BYTE))
    finally:
        os.close(descriptor)
