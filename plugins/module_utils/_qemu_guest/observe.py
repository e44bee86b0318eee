# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One look at many guests: who they are, then what they do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .._core.errors import BadInput, TimedOut
from .._core.wait import Deadline, poll_until, ready
from .identify import ENDING_S, identify
from .identity import Identity
from .model import Guest, State
from .probe import Probe, probe
from .qmp import GREETING_S

if TYPE_CHECKING:
    from .places import Places

# A look this young is used again, if QEMU has reported nothing since: asking anew costs each guest a turn of a busy
# host.
FRESH_S = 1.0
# A monitor may keep all guests of the task waiting for this share of its time, and no longer than a greeting may take.
# So may a process that hangs where it ends.
ANSWER_SHARE = 0.2
# What a guest may be found as while it is being started.
_MAY_BE_STARTING = (State.ABSENT, State.STALE, State.UNPROVEN, State.MONITOR_HUNG)
# A start keeps the other guests of a task waiting no longer than this: QEMU itself needs a second or two for it.
STARTS_S = 10.0
UNSHOWN = (
    "a start of it is under way%s, or what that began is ending: there is no locked pidfile or no monitor that "
    "listens after %.1f s. Run the task again"
)
# Each guest's process, monitor and agent stay open, and two locks. What else is open at a time, such as files of /proc,
# is little.
DESCRIPTORS_EACH = 5
DESCRIPTORS_BESIDES = 32


class Sight(NamedTuple):
    """What was seen of one guest, and when on the monotonic clock. ``awaited_s``: how long a start of it was waited for
    in vain.
    """

    identity: Identity
    seen: Probe
    at: float
    awaited_s: float | None = None


def look(
    guests: Sequence[Guest],
    deadline: Deadline,
    before: Sequence[Sight] = (),
    details: bool = False,
    heed_starts: bool = True,
) -> list[Sight]:
    """Look at every guest. What an earlier look left open and still serves is used again, all else is closed. A monitor
    that kept that one waiting is only listened to, not waited for again, and neither is a process that was ending, or a
    start that went on. Starts that are under way are waited for, for half of the time that is left and with several
    guests for no more than STARTS_S, unless it is a start that looks (``heed_starts``).

    Raises BadInput, before anything is sent, where two are one process.
    """
    _make_room(len(guests))
    sights = _look(guests, deadline, before, details)
    starts = _starts(sights) if heed_starts else {}
    if not starts:
        return sights
    awaited = {guest: sight.awaited_s for guest, sight in zip(guests, before) if sight.awaited_s is not None}
    new = [places for index, places in starts.items() if guests[index] not in awaited]
    waited_s = 0.0
    if new:
        waited_s = _await_starts(new, sights, deadline)
        sights = _look(guests, deadline, sights, details)
    return [
        _heeding(sight, starts[index], awaited.get(guests[index], waited_s)) if index in starts else sight
        for index, sight in enumerate(sights)
    ]


def _starts(sights: Sequence[Sight]) -> dict[int, Places]:
    """The starts that are under way, by the guest's number."""
    found = {}
    for index, sight in enumerate(sights):
        if sight.seen.state not in _MAY_BE_STARTING:
            continue
        try:
            places = _place(sight)
        except OSError:  # nothing more can be opened, and what was seen of the guest tells so
            continue
        if places is not None and _begins(places, unseen=False):
            found[index] = places
    return found


def _begins(places: Places, unseen: bool) -> bool:
    """Whether a start is under way; ``unseen``: what is said where that can't be looked at."""
    from .underway import is_under_way

    try:
        return is_under_way(places)
    except OSError:
        return unseen


def _place(sight: Sight) -> Places | None:
    """Where the guest is started, if it is. One that was sought by its name alone, and that no process bears, was
    sought in vain.
    """
    from .places import place_of

    guest = sight.identity.guest
    sought = sight.seen.state is State.ABSENT and not guest.paths
    return None if sought else place_of(guest)


def _await_starts(starts: Sequence[Places], sights: Sequence[Sight], deadline: Deadline) -> float:
    """Wait until these starts have shown their guests, or the others have waited long enough; how many seconds."""
    half_s = deadline.remaining_s() / 2
    patience = deadline.within(half_s if len(sights) == 1 else min(half_s, STARTS_S))
    for sight in sights:  # nobody else could talk to these guests while we wait
        sight.identity.close_channels()
    try:
        poll_until(
            lambda: not any(_begins(places, unseen=True) for places in starts), patience, "starts that are under way"
        )
    except TimedOut:
        pass
    return patience.elapsed_s()


def _heeding(sight: Sight, places: Places, awaited_s: float) -> Sight:
    """Of a guest whose start has not shown it after this time only that is known."""
    if sight.identity.process is not None or not _begins(places, unseen=True):
        return sight
    from .underway import by_whom

    told = UNSHOWN % (by_whom(places), awaited_s)
    if sight.seen.problem:
        told += " (%s)" % sight.seen.problem
    return sight._replace(seen=Probe(State.UNPROVEN, told), awaited_s=awaited_s)


def _look(guests: Sequence[Guest], deadline: Deadline, before: Sequence[Sight], details: bool) -> list[Sight]:
    known = dict(zip(guests, before))
    fresh = {guest: sight for guest, sight in known.items() if _is_fresh(sight)}
    others = [guest for guest in guests if guest not in fresh]
    identities = [_identity(guest, known.get(guest)) for guest in others]
    _check_distinct([*(sight.identity for sight in fresh.values()), *identities])
    waited_for = {guest for guest, sight in known.items() if sight.identity.ending}
    _await_ends([found for guest, found in zip(others, identities) if guest not in waited_for], deadline)
    now = time.monotonic()
    answer_s = min(GREETING_S, ANSWER_SHARE * (deadline.ends - deadline.started))
    for guest, identity, seen in zip(others, identities, probe(identities, deadline, answer_s, details)):
        if identity.process is not None and not identity.process.alive():  # it ended while we asked
            identity.close()
            identity = identify(guest, patience_s=0)
            seen = probe([identity], deadline, answer_s, details)[0]
        fresh[guest] = Sight(identity, seen, now)
    return [fresh[guest] for guest in guests]


def _make_room(guests: int) -> None:
    """Raises BadInput where this user may not have as many files open as these guests need."""
    if guests < 2:
        return
    import resource

    needed = guests * DESCRIPTORS_EACH + DESCRIPTORS_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BadInput(
            "guests",
            "%d guests need %d open files, and this user may have %d (ulimit -Hn)" % (guests, needed, hard),
            "Name fewer guests in one task, or raise the limit",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_distinct(identities: Sequence[Identity]) -> None:
    """One guest by two names would climb two ladders at once, and our first connection to its monitor keeps the second
    one waiting.
    """
    known: dict[int, Identity] = {}
    for identity in identities:
        if identity.process is None or identity.state is not State.NO_MONITOR:
            continue
        pid, label = identity.process.pid, identity.guest.label
        if pid in known:
            raise BadInput(
                "guests",
                "two entries mean the same guest: %s and %s are both process %d" % (known[pid].guest.label, label, pid),
                "Name each guest once",
            )
        known[pid] = identity


def _is_fresh(sight: Sight) -> bool:
    monitor = sight.identity.monitor
    if _is_silent(sight):
        return True
    if sight.seen.status is None:  # what it had not said yet may have come just now
        return False
    if monitor is None or not _serves(sight.identity) or time.monotonic() - sight.at > FRESH_S:
        return False
    return not monitor.pump() and monitor.usable


def _is_silent(sight: Sight) -> bool:
    """Whether its monitor gave no answer, and still says nothing."""
    held, monitor = sight.identity.process, sight.identity.monitor
    if sight.seen.status is not None or held is None or not held.alive():
        return False
    return monitor is not None and monitor.usable and monitor.outstanding and not monitor.speaks()


def _await_ends(identities: Sequence[Identity], deadline: Deadline) -> None:
    """Wait for all processes that are just ending at once: those that hang in it cost the others ENDING_S in all, and
    no larger a share of the task's time than a monitor may.
    """
    share_s = ANSWER_SHARE * (deadline.ends - deadline.started)
    patience = deadline.within(ENDING_S if len(identities) == 1 else min(ENDING_S, share_s))
    held = [identity.process.fileno() for identity in identities if identity.ending and identity.process is not None]
    waiting = {descriptor for descriptor in held if descriptor is not None}
    while waiting and not patience.expired:
        waiting -= ready(waiting, patience.remaining_s())


def _identity(guest: Guest, before: Sight | None) -> Identity:
    if before is not None and _serves(before.identity):
        return before.identity
    if before is not None:
        before.identity.close()
    return identify(guest, patience_s=0)


def _serves(identity: Identity) -> bool:
    """Whether what is held and connected can go on being used."""
    held, monitor = identity.process, identity.monitor
    if identity.state is not State.NO_MONITOR or held is None or not held.alive():
        return False
    return monitor is None or (monitor.usable and not monitor.outstanding)


def view_of(sight: Sight) -> Mapping[str, object]:
    """What is managed of a guest: whether it runs, and what lies about when it doesn't."""
    state = sight.seen.state
    if state.is_down:
        return {"guest": sight.identity.guest.label, "state": "down", "files": list(sight.identity.leftovers)}
    unknown = state in (State.IDENTITY_MISMATCH, State.UNPROVEN)
    return {"guest": sight.identity.guest.label, "state": "unknown" if unknown else "up", "files": []}
