# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One declared guest as the subject that `_core.converge` drives: is it up, is it the one that is declared?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

from .._core.converge import Plan
from .._core.wait import Deadline
from .places import check_folder, places
from .process import pidfile_owner
from .record import Definition, Phase, Record, definition, differing, digest, record_of

View = Mapping[str, object]


class Step(str, Enum):
    """What may have to be done."""

    END = "shut the running guest down"
    START = "start QEMU"
    WAIT = "wait until the guest is ready"


class Seen(NamedTuple):
    """``pid`` is None without a process; ``record`` is None if nothing is known of that process's start."""

    pid: int | None
    record: Record | None


class Guest:
    """Observes and starts the guest of one task."""

    def __init__(self, options: Mapping[str, Any], deadline: Deadline) -> None:
        self._options = options
        self._deadline = deadline
        self._name: str = options["name"]
        self._places = places(self._name, options["run_dir"])
        self._declared = definition(options)
        self._may_restart = options["restart"] == "if_needed"
        self._drift: list[dict[str, object]] = []
        self._extras: dict[str, object] = {}
        self._warnings: list[str] = []

    def observe(self) -> Seen:
        """See Subject. Raises Refused where others could have put there what is to be seen."""
        check_folder(self._places.folder)
        pid = pidfile_owner(self._places.pidfile)
        if pid is None:
            return Seen(None, None)
        return Seen(pid, record_of(self._places.record, pid))

    def plan(self, seen: Seen) -> Plan[Step]:
        """See Subject."""
        wanted = {"state": "running", "definition": self._declared}
        if seen.pid is not None and seen.record is not None and seen.record.digest == digest(self._declared):
            self._drift = []
            return Plan(() if seen.record.phase is Phase.READY else (Step.WAIT,), wanted)
        self._check()
        if seen.pid is None:
            self._drift = []
            return Plan((Step.START, Step.WAIT), wanted)
        self._drift = _drift(seen.record.definition if seen.record else {}, self._declared)
        if self._may_restart:
            return Plan((Step.END, Step.START, Step.WAIT), wanted)
        return Plan((), self.view(seen), wanted)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Subject. Two tasks on one guest take turns, and a start that was cut off comes to its end."""
        from .._core.locks import exclusive
        from .places import prepare_base
        from .underway import settle

        prepare_base(self._places.base)
        with exclusive(self._places.lock, self._deadline, "another task that works on the guest %s" % self._name):
            settle(self._name, self._places, self._deadline)
            yield

    def apply(self, plan: Plan[Step]) -> None:
        """See Subject."""
        from .up import Up

        work = Up(self._options, self._declared, self._places, self._deadline)
        try:
            for step in plan.steps:
                {Step.END: work.end, Step.START: work.start, Step.WAIT: work.wait}[step]()
        finally:
            self._extras = work.extras
            self._warnings = work.warnings

    def view(self, seen: Seen) -> View:
        """See Subject."""
        if seen.pid is None:
            return {"state": "absent"}
        ready = seen.record is None or seen.record.phase is Phase.READY
        known = dict(seen.record.definition) if seen.record is not None else None
        return {"state": "running" if ready else "starting", "definition": known}

    def result(self, seen: Seen) -> View:
        """See Subject."""
        record, here = seen.record, self._places
        guest = {
            "name": self._name,
            "state": self.view(seen)["state"],
            "pid": seen.pid,
            "accel": record.accel if record else None,
            "digest": record.digest if record else None,
            "run_dir": here.folder,
            "pidfile": here.pidfile,
            "qmp_socket": here.qmp_socket,
            "agent_socket": here.agent_socket if self._declared["agent"] else None,
            "console_log": here.console_log,
            "qemu_log": here.qemu_log,
        }
        return {"guest": guest, "drift": self._drift}

    def extras(self) -> View:
        """See Subject."""
        return {"commands": [], "attempts": [], **self._extras}

    def warnings(self) -> Sequence[str]:
        """See Subject."""
        if not self._drift or self._may_restart:
            return self._warnings
        options = ", ".join(str(item["option"]) for item in self._drift)
        return [
            *self._warnings,
            "The guest %s runs, but not as declared (%s). It was left so; restart: if_needed would restart it."
            % (self._name, options),
        ]

    def _check(self) -> None:
        """Find what is wrong with the declaration before anything is touched. Of a guest that runs so nothing is."""
        from .spec import parse_readiness, parse_spec

        parse_readiness(self._options, parse_spec(self._name, self._declared))


def _drift(running: Definition, declared: Definition) -> list[dict[str, object]]:
    return [
        {"option": option, "running": running.get(option), "declared": declared.get(option)}
        for option in differing(running, declared)
    ]
