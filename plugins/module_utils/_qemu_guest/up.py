# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work of bringing a guest up: end the one that isn't as declared, start QEMU, wait.

Only imported when there is some.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from .._core.capabilities import Capability, has, missing_protections
from .._core.errors import Refused
from .._core.wait import Deadline
from .launch import living_process, start
from .model import Policy, Rung, state_of
from .places import Places
from .process import pidfile_owner
from .ready import UNREADY, Ended, Wait, wait_until_ready
from .record import Awaited, Definition, Phase, Record, awaited, read_record, record_of, write_record
from .spec import Spec, parse_readiness, parse_spec

# Of the time that is left, what shutting the old guest down may take: the new one needs some as well.
END_SHARE = 0.6
# What qemu_guest_shutdown calls the choices of qemu_guest_start: what is left as it is can't be shut down.
_PAUSED = {"leave": "fail", "resume": "resume", "force": "force"}
PROTECTIONS = (Capability.PIDFD, Capability.PARENT_DEATH_SIGNAL)


def check_end(name: str, status: str | None, options: Mapping[str, Any], places: Places) -> None:
    """Raise Refused where the policy forbids to shut down a guest of which QEMU says ``status``, None if nothing."""
    from .entry import Means, enter

    if status is None:
        return
    means = Means(os.path.exists(places.agent_socket), True, has(Capability.PIDFD), False)
    reason = enter(state_of(status), means, _policy(options)).refusal
    if reason:
        raise Refused("restart the guest %s" % name, reason, "Deal with that, then run the task again")


def _policy(options: Mapping[str, Any]) -> Policy:
    return Policy(max_rung=Rung(options["max_rung"]), paused=_PAUSED[options["paused"]])


class Up:
    """One run's work on one guest. ``answered``: its QEMU has, so it was through with its start."""

    def __init__(
        self, options: Mapping[str, Any], declared: Definition, places: Places, deadline: Deadline, answered: bool
    ) -> None:
        self._options = options
        self._declared = declared
        self._places = places
        self._deadline = deadline
        self._answered = answered
        self._started = False
        self.ended = False
        self.changed = False  # whether anything was done, also where the task fails
        self.extras: dict[str, object] = {}
        self.warnings = missing_protections(PROTECTIONS)

    @cached_property
    def _spec(self) -> Spec:
        """Not looked at where a guest is only resumed: an older version may have taken what this one refuses."""
        return parse_spec(self._options["name"], self._declared)

    def end(self) -> None:
        """Shut the running guest down by the ladder, and prove that it is gone."""
        from .._core.converge import converge
        from .model import Guest
        from .shutdown import Shutdown, Wish
        from .trial import check_taken

        here = self._places
        pid = pidfile_owner(here.pidfile)
        record = record_of(here.record, pid) if pid is not None else None
        check_taken(self._spec, record.definition if record else None, here, self._deadline)
        agent = here.agent_socket if os.path.exists(here.agent_socket) else None
        guest = Guest(here.pidfile, here.qmp_socket, agent, name=self._spec.name)
        wish = Wish(
            (guest,),
            policy=_policy(self._options),
            require_graceful=False,
            cleanup=True,
            parallel=0,
            single=True,
            heed_starts=False,  # this one
        )
        shutdown = Shutdown(wish, self._deadline.within(END_SHARE * self._deadline.remaining_s()))
        try:
            shutdown.result(converge(shutdown, check_mode=False).seen)
            self.ended = True
        finally:
            told: Any = shutdown.extras()
            # where already the first look failed, nothing is known of the guest and nothing was sent
            self.extras["attempts"] = told.get("guest", {}).get("attempts", [])
            self.changed = told.get("changed", "guest" in told)
            self.warnings += shutdown.warnings()

    def start(self) -> None:
        """Start QEMU. Raises what launch.start raises."""
        self._started = True
        started = start(self._spec, self._declared, self._places, self._deadline)
        self.changed = True
        self.extras["commands"] = [list(started.record.argv)]
        if started.advice:
            self.warnings.append("accel: auto chose %s: %s." % (started.record.accel, started.advice))

    def resume(self) -> None:
        """Let the paused guest run. Raises what status.resume raises."""
        from .status import resume

        resume(self._options["name"], self._places.qmp_socket, self._deadline)
        self.changed = True

    def wait(self) -> None:
        """Wait until the guest is ready, and record that it is.

        One that an earlier task began to start is started anew if it gives up at the end of its start, as a QEMU that
        becomes a daemon does where the process that waits for that was killed. One that ends later, as somebody shut
        it down, stays down.
        """
        try:
            self._wait()
        except Ended as ended:
            if self._started or self._answered or not ended.gave_up:
                raise
            self.start()
            self._wait()

    def _reached(self, record: Record) -> tuple[Awaited, ...] | None:
        """None, of an older record, stays: what such a guest had reached is not known, and counts as all."""
        now = awaited(self._options)
        if record.reached is None or now is None or now in record.reached:
            return record.reached
        return (*record.reached, now)

    def _wait(self) -> None:
        readiness = parse_readiness(self._options, self._spec)
        wait = Wait(self._spec.name, readiness, self._places, forwarded=self._spec.forwarded(readiness.port))
        process = living_process(self._places)
        if process is None:
            raise Ended(self._spec.name, self._deadline.elapsed_s(), self._places, UNREADY, answered=False)
        try:
            wait_until_ready(wait, process, self._deadline)
            record = read_record(self._places.record) or Record(Phase.STARTING, 0, self._declared, "", ())
            write_record(
                self._places.record,
                record._replace(phase=Phase.READY, pid=process.pid, reached=self._reached(record)),
            )
        finally:
            process.close()
