# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One guest or a fleet, down for certain: the subject behind ``qemu_guest_shutdown``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.capabilities import Capability, has, missing_protections
from .._core.converge import Plan, View
from .._core.errors import BadInput, LifecycleError
from .._core.locks import try_flock
from .._core.wait import Deadline, check_timeout, poll_until
from .identity import Identity, mark_of
from .model import Guest, Policy, Rung, State
from .observe import Sight, look, view_of
from .probe import Probe
from .process import is_stopped

if TYPE_CHECKING:
    from .descent import Run
    from .entry import Entry
    from .ladder import Outcome


# QEMU's reasons for an end of the guest's own doing that is no shutdown.
_NOT_GRACEFUL = {
    "guest-panic": "it panicked on its way (guest-panic): it did not shut down by itself",
    "guest-reset": "it rebooted instead, and its QEMU ends then (guest-reset): it did not shut down by itself",
}


class NotDown(LifecycleError):
    """Guests that are not as they should be.

    ``guests`` names each with its state and the reason. Next step: as the reasons say.
    """

    kind = "guest_not_down"

    def __init__(self, message: str, failures: Sequence[Mapping[str, object]]) -> None:
        super().__init__(message, guests=list(failures))


class Wish(NamedTuple):
    """What the task asks for, for all its guests."""

    guests: tuple[Guest, ...]
    policy: Policy
    require_graceful: bool
    cleanup: bool
    parallel: int
    single: bool
    heed_starts: bool = True


def wish_from(params: Mapping[str, Any], guests: tuple[Guest, ...]) -> Wish:
    """The task's options as values. Raises BadInput."""
    check_timeout(params["timeout"])
    if params["parallel"] < 0:
        raise BadInput("parallel", "%d is negative" % params["parallel"], "Give a number of guests, or 0 for all")
    return Wish(
        guests,
        Policy(Rung(params["max_rung"]), params["profile"], params["paused"], params["block_jobs"]),
        params["require_graceful"],
        params["cleanup"],
        params["parallel"],
        params["guests"] is None,
    )


class Step(NamedTuple):
    """What to do about one guest: bring it down from ``entry``, or only take away its files (no entry)."""

    number: int
    entry: Entry | None


class Shutdown:
    """Guests under management by ``converge``."""

    def __init__(self, wish: Wish, deadline: Deadline) -> None:
        self._wish = wish
        self._deadline = deadline
        self._sights: list[Sight] = []
        self._first: list[Probe] = []
        self._entries: dict[int, Entry] = {}
        self._runs: dict[int, Run] = {}
        self._cleaned: dict[int, list[Mapping[str, object]]] = {}
        self._applied = False
        self._looked_again = False
        self._succeeded = False

    def observe(self) -> list[Sight]:
        self._sights = look(self._wish.guests, self._deadline, self._sights, heed_starts=self._wish.heed_starts)
        if not self._applied:
            self._first = [sight.seen for sight in self._sights]
        return self._sights

    def plan(self, seen: Sequence[Sight]) -> Plan[Step]:
        """Guests that can't be brought down are left out here and reported in ``result``: they don't keep the others
        up. So is, when all was done, what isn't as it should be by then.
        """
        if self._applied:
            return Plan([], self.view(seen))
        steps = []
        predicted = []
        entries: dict[int, Entry] = {}
        for index, sight in enumerate(seen):
            view = view_of(sight)
            if not sight.seen.state.is_down:
                entry = entries[index] = self._enter(sight)
                if not entry.refusal:
                    steps.append(Step(index, entry))
                    view = {**view, "state": "down"}
            elif self._wish.cleanup and not self._kept(index).issuperset(sight.identity.leftovers):
                steps.append(Step(index, None))
                view = {**view, "files": []}
            predicted.append(view)
        self._entries = entries
        return Plan(steps, {"guests": predicted})

    def _enter(self, sight: Sight) -> Entry:
        from .entry import Entry, Means, enter

        identity, seen = sight.identity, sight.seen
        if seen.state in (State.IDENTITY_MISMATCH, State.UNPROVEN):
            return Entry(refusal="%s: %s; nothing was sent" % (seen.state.value, seen.problem))
        held = identity.process
        monitor = identity.monitor is not None and seen.status is not None
        means = Means(
            agent=identity.agent is not None and identity.agent.usable,
            monitor=monitor,
            signals=held is not None and held.fileno() is not None,
            stopped=is_stopped(seen.process_state),
            deaf=seen.agent_connected is False,
        )
        return enter(seen.state, means, self._wish.policy, [(job.name, job.kind, job.ready) for job in seen.jobs])

    def exclusive(self) -> AbstractContextManager[object]:
        return self._alone()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Another task on the same guest works on it alone; waiting for it we must not keep its monitor."""
        with ExitStack() as stack:
            for descriptor, label in _lockable([sight.identity for sight in self._sights], stack):
                if not try_flock(descriptor):
                    self._close_channels()
                    waiting_for = "another task that works on the guest %s" % label
                    poll_until(partial(try_flock, descriptor), self._deadline, waiting_for)
            yield

    def _close_channels(self) -> None:
        for sight in self._sights:
            sight.identity.close_channels()

    def apply(self, plan: Plan[Step]) -> None:
        from .descent import Run
        from .fleet import drive

        wish = self._wish
        self._applied = True
        for step in plan.steps:
            if step.entry is None:
                self._cleaned[step.number] = _clean(self._sights[step.number].identity)
        # Refused ones are among them: an ordered group behind such a one isn't begun.
        for index, entry in self._entries.items():
            sight = self._sights[index]
            self._runs[index] = Run(sight.identity, sight.seen, entry, self._wish.policy, self._deadline, wish.cleanup)
        drive(list(self._runs.values()), self._deadline, wish.parallel, self._renew)
        self._raise_failures(self._last_look())

    def _renew(self, runs: Sequence[Run]) -> None:
        """What was seen of these guests before may be long past."""
        from .entry import Entry

        numbers = [index for index, run in self._runs.items() if run in runs]
        before = [self._sights[index] for index in numbers]
        try:
            guests = [self._wish.guests[index] for index in numbers]
            sights = look(guests, self._deadline, before, heed_starts=self._wish.heed_starts)
        except LifecycleError as error:
            for run in runs:  # what was open of it may be closed by now
                run.identity.close()
                run.identity.process = None
                run.leave_alone(str(error))
            return
        self._sights = list(self._sights)
        for index, sight in zip(numbers, sights):
            if sight is self._sights[index]:
                continue
            self._sights[index] = sight
            down = sight.seen.state.is_down
            entry = self._entries[index] = Entry() if down else self._enter(sight)
            self._runs[index].renew(sight.identity, sight.seen, entry)
            if down:
                self._runs[index].found_gone()

    def _last_look(self) -> Sequence[Sight]:
        """What has ended after its own time was over, while others had more, is down like the others."""
        for run in self._runs.values():
            if not run.down and run.identity.process is not None and not run.identity.process.alive():
                run.found_gone()
        seen = self.observe()
        self._looked_again = True
        return seen

    def view(self, seen: Sequence[Sight]) -> View:
        return {"guests": [view_of(sight) for sight in seen]}

    def result(self, seen: Sequence[Sight]) -> View:
        """Raises NotDown for what was refused, also where nothing was applied: in check mode the same fails as
        without.
        """
        self._raise_failures(seen)
        self._succeeded = True
        return {}

    def _raise_failures(self, seen: Sequence[Sight]) -> None:
        failures = [failure for index in range(len(seen)) for failure in self._failures(index)]
        if failures:
            raise NotDown(_message(failures, len(seen)), failures)

    def _failures(self, index: int) -> list[Mapping[str, object]]:
        label = self._wish.guests[index].label
        state = self._sights[index].seen.state.value
        run = self._runs.get(index)
        found = []
        if run is not None and run.problem:
            found.append((state, run.problem))
        elif run is None and index in self._entries and self._entries[index].refusal:
            found.append((state, self._entries[index].refusal))
        if self._looked_again and not found:
            found += self._come_meanwhile(index)
        outcome = run.outcome if run is not None else None
        if self._wish.require_graceful and outcome is not None and outcome.down and outcome.graceful is False:
            found.append((state, "it is down, but %s" % _forced(outcome)))
        for entry in self._cleanings(index):
            if entry["outcome"] == "failed":
                found.append((state, "%s was left behind: %s" % (entry["path"], entry["reason"])))
        return [{"guest": label, "state": state, "reason": reason} for state, reason in found]

    def _come_meanwhile(self, index: int) -> Iterator[tuple[str, str]]:
        """What is there again, or has come since the task began. Of one that was proven to end only a QEMU tells:
        whatever else is at its paths now is not the guest.
        """
        sight, run = self._sights[index], self._runs.get(index)
        state = sight.seen.state
        if not state.is_down and (run is None or sight.identity.holds_qemu):
            yield state.value, _up_again(sight, had_ended=run is not None)
        elif state.is_down and self._wish.cleanup:
            told = {entry["path"] for entry in self._cleanings(index) if entry["outcome"] != "removed"}
            for path in sight.identity.leftovers:
                if path not in told:
                    yield state.value, "%s came while the task was at work: run the task again" % path

    def _cleanings(self, index: int) -> list[Mapping[str, object]]:
        run = self._runs.get(index)
        if run is not None:
            return [entry._asdict() for entry in run.cleaned]
        return self._cleaned.get(index, [])

    def extras(self) -> View:
        records = [self._record(index) for index in range(len(self._first))]
        extras: dict[str, object] = {"guests": records}
        if self._wish.single and records:
            extras["guest"] = records[0]
        if not self._succeeded:
            extras["changed"] = (
                any(run.down for run in self._runs.values())
                or any(attempt.reached for run in self._runs.values() for attempt in run.attempts)
                or any(
                    entry["outcome"] == "removed" for index in range(len(records)) for entry in self._cleanings(index)
                )
            )
        return extras

    def _record(self, index: int) -> Mapping[str, object]:
        guest, first, now = self._wish.guests[index], self._first[index], self._sights[index]
        run, entry = self._runs.get(index), self._entries.get(index)
        outcome = run.outcome if run is not None else None
        cleanings = self._cleanings(index)
        held = now.identity.process
        return {
            "guest": guest.label,
            "group": guest.group,
            "state_before": first.state.value,
            "status_before": first.status,
            "state": now.seen.state.value,
            "pid": held.pid if held is not None else None,
            "first_rung": entry.rungs[0].value if entry is not None and entry.rungs and not entry.refusal else None,
            "method": outcome.method.value if outcome is not None and outcome.down and outcome.method else None,
            "graceful": outcome.graceful if outcome is not None and outcome.down else None,
            "shutdown_reason": outcome.reason if outcome is not None else None,
            "guest_rebooted": run.ladder.rebooted if run is not None and run.ladder is not None else 0,
            "block_jobs_cancelled": list(run.cancelled_jobs) if run is not None else [],
            "attempts": [attempt.as_result() for attempt in run.attempts] if run is not None else [],
            "cleaned": [entry["path"] for entry in cleanings if entry["outcome"] == "removed"],
            "left_behind": self._left_behind(index),
            "problem": "; ".join(str(failure["reason"]) for failure in self._failures(index)),
        }

    def _kept(self, index: int) -> set[object]:
        """What somebody used when it was to be removed. Whoever that was may be gone by the last look: the next task
        removes it.
        """
        return {entry["path"] for entry in self._cleanings(index) if entry["outcome"] == "kept"}

    def _left_behind(self, index: int) -> list[Mapping[str, object]]:
        """What was not removed; also where nothing was tried, because others use all that is still there."""
        cleanings = self._cleanings(index)
        tried = {entry["path"] for entry in cleanings}
        used = self._sights[index].identity.kept.items() if self._wish.cleanup else ()
        kept = [{"path": path, "outcome": "kept", "reason": how} for path, how in used if path not in tried]
        return [*(dict(entry) for entry in cleanings if entry["outcome"] != "removed"), *kept]

    def _namesakes(self) -> Iterator[tuple[Guest, str]]:
        """Of guests that were down already: perhaps another place was meant."""
        for index, sight in enumerate(self._sights):
            if sight.seen.state.is_down and sight.seen.problem and self._first[index].state.is_down:
                yield self._wish.guests[index], sight.seen.problem

    def warnings(self) -> list[str]:
        said = missing_protections([Capability.PIDFD, Capability.PROC])
        said += ["%s: %s." % (guest.label, problem) for guest, problem in self._namesakes()]
        for index, run in self._runs.items():
            outcome = run.outcome
            if run.down and outcome is not None and outcome.method is not None:
                if outcome.graceful is False:
                    said.append("%s is down, but %s." % (run.label, _forced(outcome)))
                elif outcome.method in (Rung.TERMINATE, Rung.KILL):
                    said.append(
                        "%s shut down by itself, but its QEMU ended only by %s." % (run.label, outcome.method.value)
                    )
            now = self._sights[index]
            if run.down and not now.identity.holds_qemu and not now.seen.state.is_down:
                told = (run.label, now.seen.problem)
                said.append("%s is down, but what is at its paths now is not known to be a guest: %s." % told)
            if run.cancelled_jobs and self._wish.policy.block_jobs != "cancel":
                said.append("%s: its shutdown cancelled block jobs (%s)." % (run.label, ", ".join(run.cancelled_jobs)))
            for path in run.busy_images:
                said.append("%s is down, but its image %s is written to by another process." % (run.label, path))
        return said


def _forced(outcome: Outcome) -> str:
    """How a guest ended that did not shut itself down."""
    method = outcome.method.value if outcome.method is not None else "nothing of ours"
    return _NOT_GRACEFUL.get(outcome.reason or "", "by %s: it did not shut down by itself" % method)


def _up_again(sight: Sight, had_ended: bool) -> str:
    """Why a guest that was down is not."""
    held, seen = sight.identity.process, sight.seen
    now = "as process %d" % held.pid if held is not None else "it seems (%s)" % (seen.problem or seen.state.value)
    if had_ended:
        return (
            "it went down, and is up again, %s: stop what starts it anew, such as a service, and run the task again"
            % now
        )
    return "it was down, and was started while the task was at work, %s: run the task again" % now


def _clean(identity: Identity) -> list[Mapping[str, Any]]:
    from .cleanup import clean

    return [entry._asdict() for entry in clean(identity)]


def _message(failures: Sequence[Mapping[str, object]], total: int) -> str:
    names = {failure["guest"] for failure in failures}
    told = "; ".join("%s: %s" % (failure["guest"], failure["reason"]) for failure in failures)
    if total == 1:
        return "The guest is not as asked. %s." % told
    return "%d of %d guests are not as asked. %s." % (len(names), total, told)


def _lockable(identities: Sequence[Identity], stack: ExitStack) -> list[tuple[int, str]]:
    """Descriptors on which tasks about the same guest exclude each other, by whatever means each names it, and the
    guests' names.

    An flock on them is no business of QEMU's and leaves no file behind. Each file is there once, however many guests
    name it, and always in the same order: nobody waits for himself, and no two for each other.
    """
    found: dict[tuple[int, int], tuple[int, str]] = {}
    for identity in identities:
        for path in _lock_paths(identity):
            try:
                if not _is_private_file(path):
                    continue
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue  # gone already, or not ours to read: what identifies the guest is looked at again anyhow
            stack.callback(os.close, descriptor)
            found.setdefault(mark_of(os.fstat(descriptor)), (descriptor, identity.guest.label))
    return [found[key] for key in sorted(found)]


def _lock_paths(identity: Identity) -> Iterator[str]:
    """What tasks about one guest have in common: its process's environment, which only those can open who may send it
    signals, and its pidfile.
    """
    if identity.process is not None and has(Capability.PROC):
        yield "/proc/%d/environ" % identity.process.pid
    if identity.guest.pidfile is not None and has(Capability.OFD_LOCKS):  # where flock is no business of QEMU's lock
        yield identity.guest.pidfile


def _is_private_file(path: str) -> bool:
    """Whoever can read a file can lock it, and keep us waiting; and to open what is no file may do something already.
    Raises OSError.
    """
    mode = os.stat(path).st_mode
    return stat.S_ISREG(mode) and not mode & (stat.S_IRGRP | stat.S_IROTH)
