# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One task of ovf_import under one blow: run, strike, look at what the server has, run again twice."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tests.testbed import module_main, socket_calls
from tests.testbed.faults import until
from tests.testbed.images import MIB
from tests.testbed.importing import NAME, importing
from tests.testbed.ovf_packages import DiskSpec, Spec
from tests.testbed.socket_calls import Action, Blow, Who
from tests.testbed.syscalls import Point, Run
from tests.torture.module_run import arguments_of, result_of, told, warm_main

_SMALL = Spec(disks=(DiskSpec(size=MIB, written=("write -P 1 0 64k",)),))
_SOON_S = 30.0  # for what the server still does on its own


class ImportTask(NamedTuple):
    """``options`` are the struck task's. ``old``: what imports the machine that is there before; None: there is none.
    ``keeps``: the server leaves the machine of a lease that was given up.
    """

    name: str
    options: Mapping[str, Any]
    old: Mapping[str, Any] | None = None
    keeps: bool = False


TASKS = (
    ImportTask("an import", {}, keeps=True),
    ImportTask("a replacement", {"annotation": "new", "replace": True}, old={"annotation": "old"}),
    ImportTask("a removal", {"state": "absent"}, old={}),
)


class Machine(NamedTuple):
    name: str
    moid: str
    whole: bool
    digest: str


class Struck(NamedTuple):
    """What one strike showed; ``problems`` are promises that were broken."""

    blow: Blow
    hit: Point | None
    problems: tuple[str, ...]

    def __str__(self) -> str:
        what = f"at its call {self.blow.at} ({self.hit})" if self.hit else f"at call {self.blow.at}, which never came"
        return f"{self.blow.action.value}, {what}:\n" + "".join(f"    {problem}\n" for problem in self.problems)


class ImportRig:
    """A task with a server of its own, its module loaded, and what the server has after an undisturbed run."""

    def __init__(self, task: ImportTask, folder: Path) -> None:
        self._task = task
        self._open = ExitStack()
        folder.mkdir(parents=True)
        self._bench = self._open.enter_context(importing(folder, _SMALL))
        self._server = self._bench.server
        self._server.set(abort_keeps_vm=task.keeps)
        self._main = warm_main("ovf_import", "_core", "_ovf", "_vsphere")
        self._old: Machine | None = None
        self.problems: list[str] = []
        self._prepare()
        started = time.monotonic()
        self._points = self._undisturbed()
        self.undisturbed_s = time.monotonic() - started
        self.total = sum(self._most(action) for action in Action)

    def close(self) -> None:
        self._open.close()

    def _undisturbed(self) -> tuple[Point, ...]:
        run = self._run(self._task.options)
        if run.status or not result_of(run).get("changed"):
            self.problems.append(f"undisturbed: {told(run)}")
        self._wanted = [(machine.name, machine.digest) for machine in self._machines()]
        self.problems += [f"undisturbed: {machine} isn't whole" for machine in self._machines() if not machine.whole]
        self.problems += [f"undisturbed: {problem}" for problem in self._held()]
        return run.points

    def _most(self, action: Action) -> int:
        return sum(point.by_module is (action.at_call_of is Who.MODULE) for point in self._points)

    def faults(self, stride: int) -> list[Blow]:
        """Every ``stride``-th call for each action, the actions beginning at different calls."""
        return [
            Blow(at, action)
            for turn, action in enumerate(Action)
            for at in range(1 + turn * stride // len(Action) % self._most(action), self._most(action) + 1, stride)
        ]

    def strike(self, fault: Blow) -> Struck:
        """One blow, and all that is promised about it."""
        self._clean()
        self._prepare()
        run = self._run(self._task.options, fault)
        asked = self._server.calls
        # Where nobody is left, the server's own time-out ends the lease: it needn't be waited for.
        both = fault.action.kills_both and run.hit is not None
        if both:
            self._server.fail_leases("Timedout", "The lease timed out.")
        problems = [f"lived on: {survivor}" for survivor in run.survivors]
        problems += self._answer(run, fault)
        problems += self._soon(
            lambda: [*self._held(logins=0 if not both else None), *self._halves(both), *self._logs(run, both)]
        )
        problems += self._again(len(self._server.sessions))
        if problems:
            problems += [f"the server was asked: {', '.join(asked)}", f"the struck run: {told(run)}"]
        return Struck(fault, run.hit, tuple(problems))

    def _run(self, options: Mapping[str, Any], blow: Blow | None = None) -> Run:
        arguments = arguments_of(self._bench.options(**options))

        def target() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a task is started, whatever pytest has set
            tempfile.tempdir = str(self._bench.temporary)
            module_main.set_arguments(arguments)
            self._main()

        self._server.forget_calls()
        run = socket_calls.run(target, blow)
        until(self._is_quiet, "the server to have dealt with all that it was asked")
        return run

    def _is_quiet(self) -> bool:
        """No connection to it is open: what the dead had asked is done."""
        with open("/proc/net/tcp", encoding="ascii") as table:
            ends = [line.split()[1:4] for line in list(table)[1:]]
        port = "%04X" % self._server.port
        return not any(local.endswith(":" + port) and state in _BUSY for local, _remote, state in ends)

    def _prepare(self) -> None:
        if self._task.old is not None:
            run = self._run(self._task.old)
            assert result_of(run).get("changed"), told(run)
            [self._old] = self._machines()
        self._server.forget_uploads()

    def _clean(self) -> None:
        self._server.fail_leases("SystemError")
        for machine in self._machines():
            self._server.govc("vm.destroy", f"/DC0/vm/{machine.name}")
        self._server.expire_sessions()
        for left in self._bench.temporary.iterdir():
            left.unlink()

    def _machines(self) -> list[Machine]:
        found = self._server.govc_json("vm.info", "-e", f"/DC0/vm/{NAME}*")["virtualMachines"]
        return sorted(map(_machine, found or ()))

    # --- what is promised

    def _answer(self, run: Run, blow: Blow) -> Iterator[str]:
        if b"Traceback" in run.stdout + run.stderr:
            yield "traceback"
        if run.status == 0 and not result_of(run).get("failed"):
            found = [(machine.name, machine.digest) for machine in self._machines()]
            if found != self._wanted:
                yield f"a success that is none: there are {found}"
        elif run.status >= 0 and not (run.status == 1 and result_of(run).get("failed")):
            yield "no clean failure"

    def _held(self, logins: int | None = 0) -> Iterator[str]:
        """A lease that lives, and logins above so many (None: any)."""
        state = self._server.state
        yield from (f"a lease lives: {lease}" for lease in state["leases"] if lease["alive"])
        if logins is not None and len(state["sessions"]) > logins:
            yield f"{len(state['sessions'])} logins are left, not {logins}"

    def _halves(self, both: bool) -> Iterator[str]:
        """A machine that isn't whole, though somebody was there to remove it or mark it; one that was whole and isn't
        there any more.
        """
        machines = self._machines()
        if not both:
            yield from (f"left: {machine}" for machine in machines if not machine.whole)
        here = {machine.moid for machine in machines}
        completed = self._completed()
        yield from (f"a good machine was destroyed: {moid}" for moid in completed if moid not in here)
        if self._old is not None and self._old.moid not in here and self._wanted and not completed:
            yield "the old machine was destroyed, and the new one isn't there"

    def _logs(self, run: Run, both: bool) -> Iterator[str]:
        """A guard's log that no result names, though somebody was there to remove it."""
        left = [] if both else self._bench.temporary.glob("vmops-guard-*")
        yield from (f"a log is left that nothing names: {log}" for log in left if str(log).encode() not in run.stdout)

    def _completed(self) -> list[str]:
        return [lease["entity"] for lease in self._server.leases if lease["state"] == "done"]

    def _again(self, logins: int) -> Iterator[str]:
        """The next run leads to what was declared, with what was complete, and the one after it finds nothing to do."""
        before, completed = self._machines(), self._completed()
        reached = [(machine.name, machine.digest) for machine in before if machine.whole] == self._wanted
        reached = reached and len(before) == len(self._wanted)
        second = self._run(self._task.options)
        if second.status or "changed" not in result_of(second):
            yield f"the next run failed: {told(second)}; there were {before}"
            return
        if result_of(second)["changed"] is reached:
            yield f"the next run says changed={not reached}, and there were {before}"
        after = self._machines()
        if [(machine.name, machine.digest) for machine in after] != self._wanted:
            yield f"after the next run there are {after}"
        yield from (f"after the next run: {machine} isn't whole" for machine in after if not machine.whole)
        here = {machine.moid for machine in after}
        yield from (f"the next run destroyed a good machine: {moid}" for moid in completed if moid not in here)
        yield from (f"after the next run: {problem}" for problem in self._held(logins))
        third = self._run(self._task.options)
        if third.status or result_of(third).get("changed", True):
            yield f"the run after the next wasn't unchanged: {told(third)}"

    @staticmethod
    def _soon(problems: Callable[[], Sequence[str]]) -> Sequence[str]:
        """Those that are still there after a while."""
        ends = time.monotonic() + _SOON_S
        while (found := problems()) and time.monotonic() < ends:
            time.sleep(0.05)
        return found


_BUSY = ("01", "08")  # ESTABLISHED, CLOSE_WAIT (include/net/tcp_states.h)


def _machine(told_of: Mapping[str, Any]) -> Machine:
    extra = {item["key"]: item["value"] for item in told_of["config"]["extraConfig"] or ()}
    whole = extra.get("vmops.ovf.state") == "complete"
    return Machine(told_of["name"], told_of["self"]["value"], whole, extra.get("vmops.ovf.digest", ""))
