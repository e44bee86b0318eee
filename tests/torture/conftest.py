# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the torture runs, how much of it fits the time, and the count of what was tried.

``VMOPS_TORTURE_SECONDS`` (300): every so-many-th call of each scenario, so that all scenarios fit in about that time.
``VMOPS_TORTURE=all``: every call.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.torture.import_strike import ImportRig
from tests.torture.strike import Rig as DiskRig
from tests.torture.workers import WORKERS, Outcome, Rig, strike_all

MEMORY = Path("/dev/shm")  # what is struck are system calls, not disks: without a disk more of them fit the time
_SOCKETS_SHARE = 0.2  # of the time
_SHOWN = 12  # broken promises: more tell nothing new
_USABLE = 0.85  # of the time: the rest is for what can't be foreseen


class Torture:
    """The scenarios of this session, ready to be struck, and what was tried of them."""

    def __init__(self, folder: Path, makers: Mapping[str, Callable[[Path], Rig]], seconds: float) -> None:
        self.tried: dict[str, int] = {}
        self._folder = folder
        self._makers = makers
        self._ends = time.monotonic() + _USABLE * seconds
        self._everything = os.environ.get("VMOPS_TORTURE") == "all"
        self.rigs: dict[str, Rig] = {}
        self._cost_s: dict[str, float] = {}
        for name, make in makers.items():
            self.rigs[name] = rig = make(folder / name / "0")
            self._cost_s[name] = rig.undisturbed_s * 3  # the struck run, the next one, a look

    def assert_promises_hold(self, name: str) -> None:
        """Of a scenario, whatever it is struck by."""
        assert self.rigs[name].problems == []
        struck = self.try_all(name)
        assert any(one.hit for one in struck)
        bad = [str(one) for one in struck if one.problems]
        if bad:
            pytest.fail(
                f"{len(bad)} of {len(struck)} strikes broke a promise:\n" + "".join(bad[:_SHOWN]), pytrace=False
            )

    def try_all(self, name: str) -> list[Outcome]:
        """All that fits the time."""
        rig = self.rigs[name]
        faults = rig.faults(self._stride(name))
        started = time.monotonic()
        struck = strike_all(self._makers[name], rig, self._folder / name, faults)
        self._done(name, sum(1 for one in struck if one.hit), time.monotonic() - started)
        return struck

    def _stride(self, name: str) -> int:
        """So that this scenario and all that are still to come end in time."""
        if self._everything:
            return 1
        coming = [other for other in self.rigs if other not in self.tried]
        need_s = sum(self.rigs[other].total * self._cost_s[other] for other in coming)
        left_s = max(1.0, self._ends - time.monotonic()) * WORKERS
        return max(1, round(need_s / left_s + 0.5))

    def _done(self, name: str, tried: int, elapsed_s: float) -> None:
        """A scenario has ended; what it cost tells how dear the others will be."""
        self.tried[name] = tried
        if tried:
            factor = (elapsed_s * WORKERS / tried) / self._cost_s[name]
            # Half of the surprise is this scenario's own.
            self._cost_s = {other: cost * (1 + (factor - 1) / 2) for other, cost in self._cost_s.items()}

    def lines(self) -> list[str]:
        """What was tried, for people."""
        return [f"{name}: tried {tried} of {self.rigs[name].total} points" for name, tried in self.tried.items()]

    def close(self) -> None:
        for rig in self.rigs.values():
            rig.close()


_TORTURES = pytest.StashKey[list[Torture]]()


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    """Of calls that change files."""
    makers = {scenario.name: partial(DiskRig, scenario) for scenario in _chosen(request, "scenario")}
    yield from _prepared(request, tmp_path_factory, makers, 1 - _SOCKETS_SHARE)


@pytest.fixture(scope="session")
def socket_torture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    """Of calls on sockets."""
    makers = {task.name: partial(ImportRig, task) for task in _chosen(request, "import_task")}
    yield from _prepared(request, tmp_path_factory, makers, _SOCKETS_SHARE)


def _chosen(request: pytest.FixtureRequest, parameter: str) -> list[Any]:
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    return [call.params[parameter] for call in calls if parameter in call.params]


def _prepared(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    makers: Mapping[str, Callable[[Path], Rig]],
    share: float,
) -> Iterator[Torture]:
    seconds = share * float(os.environ.get("VMOPS_TORTURE_SECONDS", "300"))
    with _folder(tmp_path_factory) as folder:
        prepared = Torture(Path(folder), makers, seconds)
        request.config.stash.setdefault(_TORTURES, []).append(prepared)
        yield prepared
        prepared.close()


def _folder(tmp_path_factory: pytest.TempPathFactory) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix="vmops-torture-", dir=MEMORY if _has_attributes(MEMORY) else tmp_path_factory.mktemp("torture")
    )


def _has_attributes(folder: Path) -> bool:
    """Whether files there carry `user.*` attributes, as on a disk."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            os.setxattr(file.name, "user.vmops.probe", b"x")
    except OSError:
        return False
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tortures = config.stash.get(_TORTURES, [])
    tried = sum(sum(torture.tried.values()) for torture in tortures)
    if not tried:
        return
    everything = sum(torture.rigs[name].total for torture in tortures for name in torture.tried)
    summary = f"tried {tried} of {everything} points"
    terminalreporter.section("calls that were struck")
    for line in [line for torture in tortures for line in torture.lines()] + [summary]:
        terminalreporter.write_line(line)
    note = os.environ.get("VMOPS_NOTE_FILE")
    if note:
        Path(note).write_text(summary + "\n", encoding="utf-8")
