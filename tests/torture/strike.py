# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One scenario under one fault: run, strike, look at what is left, run again twice.

The module's imports are done once; each run is a fork of this process. Only calls that change something in the
scenario's folder count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.testbed import module_main, syscalls
from tests.testbed.syscalls import Action, Fault, Point, Run
from tests.torture.module_run import arguments_of, result_of, told, warm_main
from tests.torture.scenarios import Scenario
from tests.torture.world import CORRUPT, FINE, Look, World

_OWN = ".vmops-"  # in the names of the module's own files beside an image
KILLS = (Action.KILL_TREE, Action.KILL_MODULE)
_CAUSE = {
    Action.ENOSPC: "No space left",  # in the file header, says qemu-img where it only guesses
    Action.ENOSPC_ON: "No space left",
    Action.EIO: "Input/output error",
    Action.EIO_ON: "Input/output error",
}
# Where qemu-img hides a failed call behind a good exit code, or behind words of its own, the module finds that
# something is wrong by looking, and can't know of what kind it was.
_FOUND_BY_LOOKING = "look at the host's disk"


class Struck(NamedTuple):
    """What one strike showed; ``problems`` are promises that were broken."""

    fault: Fault
    hit: Point | None
    problems: tuple[str, ...]

    def __str__(self) -> str:
        what = f"at call {self.fault.at} ({self.hit})" if self.hit else f"at call {self.fault.at}, which never came"
        return f"{self.fault.action.value} {what}:\n" + "".join(f"    {problem}\n" for problem in self.problems)


class Rig:
    """A scenario in a folder of its own, its module loaded, and how the world is after an undisturbed run."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario = scenario
        folder.mkdir(parents=True)
        world = folder / "world"
        world.mkdir()
        scenario.prepare(world)
        self._world = World(world, dict(scenario.images))
        self._world.keep()
        self._main = warm_main("qemu_img", "_core", "_qemu_img")
        self._before = self._world.looks()
        self._bytes_before = self._world.bytes()
        self.problems: list[str] = []
        started = time.monotonic()
        self.points = self._undisturbed()
        self.total = len(self.points) * len(Action)
        self.undisturbed_s = time.monotonic() - started

    def faults(self, stride: int) -> list[Fault]:
        """Those that are tried."""
        return spread(self.points, tuple(Action), min(stride, len(self.points)))

    def close(self) -> None:
        """Nothing is held."""

    def _undisturbed(self) -> tuple[Point, ...]:
        """The run whose calls are counted; what it makes is what every disturbed one has to come to."""
        run = self._run(None)
        result = result_of(run)
        if run.status or not result.get("changed"):
            self.problems.append(f"undisturbed: {told(run)}")
        self._after = self._world.looks()
        self._names_after = self._world.names()
        self.problems += [
            f"undisturbed: {name} is {found}"
            for name, found in self._after.items()
            if isinstance(found, str) or (isinstance(found, Look) and found.check == CORRUPT)
        ]
        self.problems += [f"undisturbed, leftover: {name}" for name in self._leftovers()]
        return run.points

    def strike(self, fault: Fault) -> Struck:
        """One strike, and all that is promised about it."""
        self._world.reset()
        run = self._run(fault)
        problems = [*self._children(run, fault), *self._torn()]
        if fault.action not in KILLS:
            problems += self._answer(run, fault)
        problems += self._strangers()
        problems += self._again()
        return Struck(fault, run.hit, tuple(problems))

    def _run(self, fault: Fault | None) -> Run:
        arguments = arguments_of(self._scenario.given(self._world.folder))

        def target() -> None:
            os.environ["VMOPS_HIDE_CAPABILITIES"] = self._scenario.hides
            module_main.set_arguments(arguments)
            self._main()

        return syscalls.run(target, fault, below=self._world.folder)

    def _children(self, run: Run, fault: Fault) -> Iterator[str]:
        """Nobody outlives the module, however it ended, or changes anything once it is dead."""
        if fault.action is Action.KILL_MODULE and run.hit is not None:
            yield from (f"went on after the module's death: {point}" for point in run.points[fault.at :])
        for survivor in run.survivors:
            yield f"lived on: {survivor}"

    def _torn(self) -> Iterator[str]:
        """Every image is the old one or the new one, whole."""
        bytes_now = self._world.bytes()
        for name, found in self._world.looks().items():
            if bytes_now[name] == self._bytes_before[name] and not self._scenario.flows:
                continue
            if isinstance(found, str):
                yield f"torn: {found}"
            elif not self._is_whole(name, found):
                yield f"torn: {name} isn't as before: {_differences(found, self._before[name])}"
                yield f"torn: {name} isn't as after: {_differences(found, self._after[name])}"

    def _is_whole(self, name: str, found: Look | None) -> bool:
        before, after = self._before[name], self._after[name]
        if found is None or not isinstance(after, Look) or not isinstance(before, Look):
            return found == after or (
                isinstance(found, Look) and isinstance(after, Look) and found.sound == after.sound
            )
        if self._scenario.flows:
            return self._flowed(found, before, after)
        allowed = [after, *([before] if self._scenario.in_place else [])]
        if self._scenario.mended:
            allowed.append(before._replace(check=FINE))
        return any(found.sound == state.sound for state in allowed)

    @staticmethod
    def _flowed(found: Look, before: Look, after: Look) -> bool:
        """Data on its way: an overlay shows the same all the time, a base only loses nothing and is consistent."""
        if found.check == CORRUPT or (found.snapshots, found.bitmaps) != (before.snapshots, before.bitmaps):
            return False
        return found.backing is None or found.content == before.content == after.content

    def _answer(self, run: Run, fault: Fault) -> Iterator[str]:
        """A failed call ends in a clean failure that names the cause, or in what was declared, truly reached."""
        result = result_of(run)
        if b"Traceback" in run.stdout + run.stderr:
            yield f"traceback: {told(run)}"
        elif run.status == 0 and not result.get("failed"):
            yield from (f"a success that is none: {problem}" for problem in self._missing())
        elif run.status != 1 or not result.get("failed"):
            yield f"no clean failure: {told(run)}"
        elif not any(cause in result["msg"] for cause in (_CAUSE[fault.action], _FOUND_BY_LOOKING)):
            yield f"the cause isn't named: {result['msg']}"

    def _missing(self) -> Iterator[str]:
        for name, found in self._world.looks().items():
            after = self._after[name]
            same = found.sound == after.sound if isinstance(found, Look) and isinstance(after, Look) else found == after
            if not same:
                yield f"{name}: {_differences(found, after)}"

    def _strangers(self) -> Iterator[str]:
        """Whatever lies beside the images has a name by which the next run knows it."""
        known = {*self._scenario.images, *self._names_after}
        for name in self._world.names():
            if name not in known and not (name.startswith(".") and _OWN in name):
                yield f"a leftover that nobody will recognise: {name}"

    def _leftovers(self) -> list[str]:
        return [name for name in self._world.names() if _OWN in name and not name.endswith("record")]

    def _again(self) -> Iterator[str]:
        """The next run mends everything, and the one after it finds nothing to do and touches nothing."""
        second = self._run(None)
        if second.status or "changed" not in result_of(second):
            yield f"the next run failed: {told(second)}"
            return
        yield from (f"after the next run: {problem}" for problem in self._missing())
        if self._world.names() != self._names_after:
            yield f"after the next run there are {self._world.names()}, not {self._names_after}"
        third = self._run(None)
        if third.status or result_of(third).get("changed", True):
            yield f"the run after the next wasn't unchanged: {told(third)}"
        elif third.points:
            yield f"the run after the next touched {', '.join(map(str, third.points))}"


def _differences(found: Look | str | None, wanted: Look | str | None) -> str:
    if not isinstance(found, Look) or not isinstance(wanted, Look):
        return f"it is {found}, not {wanted}"
    unlike = [name for name in Look._fields if getattr(found, name) != getattr(wanted, name)]
    return ", ".join(f"{name} is {getattr(found, name)}, not {getattr(wanted, name)}" for name in unlike) or "none"


def spread(points: Sequence[Point], actions: Sequence[Action], stride: int) -> list[Fault]:
    """Every ``stride``-th call for each action, the actions beginning at different calls; and each flush of a child's
    fails once in any case, since what qemu-img loses then it hardly tells.
    """
    faults = {
        Fault(at, action)
        for turn, action in enumerate(actions)
        for at in range(1 + turn * stride // len(actions), len(points) + 1, stride)
    }
    flushes = [at for at, point in enumerate(points, 1) if point.name == "fdatasync" and not point.by_module]
    return sorted(faults | {Fault(at, Action.ENOSPC) for at in flushes})
