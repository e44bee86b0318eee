# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One declared guest as the subject that `_core.converge` drives: is it up, is it the one that is declared?"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.converge import Plan
from .._core.errors import LifecycleError
from .._core.wait import Deadline, check_timeout
from .model import state_of
from .process import is_stopped, open_files, pidfile_owner
from .process import stat as process_stat
from .record import Definition, Phase, Record, awaited, definition, differing, digest, record_of
from .run_dir import check_folder, places
from .status import RESUMABLE, Answer, NotResumed, ask

if TYPE_CHECKING:
    from .spec import Spec

View = Mapping[str, object]


class Step(str, Enum):
    """What may have to be done."""

    END = "shut the running guest down"
    START = "start QEMU"
    RESUME = "let the paused guest run"
    WAIT = "wait until the guest is ready"
    TIDY = "remove what a killed task left"


class Seen(NamedTuple):
    """``pid`` is None without a process; ``record`` is None if nothing is known of that process's start; ``status`` is
    QEMU's own word, None where its monitor doesn't answer; ``silence`` tells why not. ``lost``: the disks of which it
    has another file open than the one that is there now.
    """

    pid: int | None
    record: Record | None
    status: str | None = None
    silence: str = ""
    lost: tuple[str, ...] = ()

    @property
    def starting(self) -> bool:
        """Whether it was started and has not been seen ready."""
        return self.record is not None and self.record.phase is Phase.STARTING

    @property
    def as_state(self) -> str:
        """What the guest is, in one word."""
        if self.pid is None:
            return "absent"
        return "starting" if self.starting else state_of(self.status).value


class Guest:
    """Observes and starts the guest of one task."""

    def __init__(self, options: Mapping[str, Any], deadline: Deadline) -> None:
        check_timeout(options["timeout"])
        self._options = options
        self._deadline = deadline
        self._name: str = options["name"]
        self._places = places(self._name, options["run_dir"])
        self._declared = definition(options)
        self._awaited = awaited(options)
        self._may_restart = options["restart"] == "if_needed"
        self._may_resume = options["paused"] == "resume"
        self._alone = False
        self._applied = False
        self._seen = Seen(None, None)
        self._drift: list[dict[str, object]] = []
        self._extras: dict[str, object] = {}
        self._changed = False
        self._succeeded = False
        self._warnings: list[str] = []

    def observe(self) -> Seen:
        """See Subject. Raises Refused where others could have put there what is to be seen."""
        here = self._places
        check_folder(here.folder)
        pid = pidfile_owner(here.pidfile)
        self._seen = Seen(None, None)
        if pid is not None:
            record, answer = record_of(here.record, pid), self._asked(pid)
            lost = _lost(pid, record, answer)
            if lost and pidfile_owner(here.pidfile) != pid:
                lost = ()  # it ended while we looked, and had closed its files already
            self._seen = Seen(pid, record, *answer, lost=lost)
        return self._seen

    def _asked(self, pid: int) -> Answer:
        process = process_stat(pid)
        if process is not None and is_stopped(process.state):
            return Answer(None, "process %d is stopped, by SIGSTOP or a debugger" % pid)
        return ask(self._places.qmp_socket, self._deadline)

    def plan(self, seen: Seen) -> Plan[Step]:
        """See Subject."""
        wanted = {"state": "running", "definition": self._declared}
        if self._applied and seen.pid is None:
            from .ready import Ended

            raise Ended(self._name, self._deadline.elapsed_s(), self._places, "as soon as it was up")
        if seen.pid is not None and seen.lost:
            from .lost import refuse

            refuse(self._name, seen.pid, seen.lost)
        if seen.pid is not None and seen.record is not None and seen.record.digest == digest(self._declared):
            self._drift = []
            steps: tuple[Step, ...] = ()
            if self._may_resume and seen.status in RESUMABLE:
                if self._applied:
                    raise NotResumed(self._name, str(seen.status))
                steps = (Step.RESUME,)
            if seen.starting or not self._is_reached(seen.record):
                self._check()
                steps += (Step.WAIT,)
            elif not steps and not self._alone and self._has_leftovers():
                steps = (Step.TIDY,)
            return Plan(steps, wanted, None if steps else wanted)
        return self._plan_another(seen, wanted)

    def _has_leftovers(self) -> bool:
        if not os.path.lexists(self._places.lock):
            return False
        from .._core.locks import is_stale

        return is_stale(self._places.lock)

    def _plan_another(self, seen: Seen, wanted: View) -> Plan[Step]:
        """What is to be done where the declared guest doesn't run. What would fail is told in check mode, too."""
        spec = self._check()
        self._drift = []
        if seen.pid is not None:
            self._drift = _drift(seen.record.definition if seen.record else {}, self._declared)
            if not self._may_restart:
                return Plan((), self.view(seen), wanted)
        from .launch import check_start

        check_start(spec, self._places)
        if seen.pid is None:
            return Plan((Step.START, Step.WAIT), wanted)
        from .up import check_end

        check_end(self._name, seen.status, self._options, self._places)
        return Plan((Step.END, Step.START, Step.WAIT), wanted)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Subject. Two tasks on one guest take turns, and a start that was cut off comes to its end."""
        from .._core.locks import exclusive
        from .run_dir import prepare_base
        from .underway import settle

        prepare_base(self._places.base)
        with exclusive(self._places.lock, self._deadline, "another task that works on the guest %s" % self._name):
            self._alone = True  # its lock is removed in the end, also one that a killed task left
            settle(self._name, self._places, self._deadline)
            yield

    def apply(self, plan: Plan[Step]) -> None:
        """See Subject."""
        from .up import Up

        answered = self._seen.status is not None
        work = Up(self._options, self._declared, self._places, self._deadline, answered)
        try:
            for step in plan.steps:
                {Step.END: work.end, Step.START: work.start, Step.RESUME: work.resume, Step.WAIT: work.wait}[step]()
            self._applied = True
        except LifecycleError as error:
            if work.ended:
                error.message += " The guest that ran before was shut down for this."
            raise
        finally:
            self._extras = work.extras
            self._changed = work.changed
            self._warnings = work.warnings

    def view(self, seen: Seen) -> View:
        """See Subject."""
        if seen.pid is None:
            return {"state": seen.as_state}
        known = dict(seen.record.definition) if seen.record is not None else None
        return {"state": seen.as_state, "definition": known}

    def result(self, seen: Seen) -> View:
        """See Subject."""
        self._succeeded = True
        record, here = seen.record, self._places
        guest = {
            "name": self._name,
            "state": seen.as_state,
            "status": seen.status,
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
        extras: dict[str, object] = {"commands": [], "attempts": [], **self._extras}
        if not self._succeeded:  # a task that fails halfway may have ended one guest, or left another running
            extras["changed"] = self._changed
        return extras

    def warnings(self) -> Sequence[str]:
        """See Subject."""
        return [*self._warnings, *self._said_of_drift(), *self._said_of_status()]

    def _said_of_drift(self) -> Iterator[str]:
        if self._drift and not self._may_restart:
            options = ", ".join(str(item["option"]) for item in self._drift)
            yield (
                "The guest %s runs, but not as declared (%s). It was left so; restart: if_needed would restart it."
                % (self._name, options)
            )

    def _said_of_status(self) -> Iterator[str]:
        word = self._seen.status
        if self._seen.silence:
            yield (
                "The guest %s is up, but its monitor doesn't answer: %s. Whether it runs is not known."
                % (self._name, self._seen.silence)
            )
        elif word in RESUMABLE and not self._may_resume:
            yield (
                "The guest %s is up, but doesn't run: QEMU calls it %s. It was left so; paused: resume would resume it."
                % (self._name, word)
            )
        elif word not in ("running", None, *RESUMABLE):
            yield "The guest %s is up, but doesn't run: QEMU calls it %s." % (self._name, word)

    def _is_reached(self, record: Record) -> bool:
        return self._awaited is None or record.reached is None or self._awaited in record.reached

    def _check(self) -> Spec:
        """Find what is wrong with the declaration before anything is touched. Of a guest that runs so nothing is."""
        from .spec import parse_readiness, parse_spec

        spec = parse_spec(self._name, self._declared)
        parse_readiness(self._options, spec)
        return spec


def _drift(running: Definition, declared: Definition) -> list[dict[str, object]]:
    return [
        {"option": option, "running": running.get(option), "declared": declared.get(option)}
        for option in differing(running, declared)
    ]


def _lost(pid: int, record: Record | None, answer: Answer) -> tuple[str, ...]:
    """The disks that the guest writes to and that are no longer what it has open at their paths.

    A QEMU that is only starting locks its pidfile before it opens any disk: of one that has not answered and was never
    ready nothing is said, and neither where /proc may not be read.
    """
    if record is None or (answer.status is None and record.phase is Phase.STARTING):
        return ()
    paths = [disk["path"] for disk in record.definition.get("disks", ()) if not _is_only_read(disk)]
    opened = {_identity(file) for file in open_files(pid).values()} if paths else set()
    return tuple(path for path in paths if opened and _is_lost(path, opened))


def _is_only_read(disk: Mapping[str, Any]) -> bool:
    return bool(disk["readonly"] or disk["interface"] == "cdrom")


def _is_lost(path: str, opened: Collection[tuple[int, ...]]) -> bool:
    try:
        return _identity(os.stat(path)) not in opened
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # what can't be looked at proves nothing


def _identity(file: os.stat_result) -> tuple[int, ...]:
    """A device's node may be made anew, for the same device."""
    return (file.st_rdev,) if stat.S_ISBLK(file.st_mode) else (file.st_dev, file.st_ino)
