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
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.testbed.syscalls import Action
from tests.torture.scenarios import Scenario
from tests.torture.strike import Rig
from tests.torture.workers import WORKERS

MEMORY = Path("/dev/shm")  # what is struck are system calls, not disks: without a disk more of them fit the time
_USABLE = 0.85  # of the time: the rest is for what can't be foreseen


class Torture:
    """The scenarios of this session, ready to be struck, and what was tried of them."""

    def __init__(self, folder: Path, scenarios: Sequence[Scenario]) -> None:
        self.folder = folder
        self.tried: dict[str, int] = {}
        self._ends = time.monotonic() + _USABLE * float(os.environ.get("VMOPS_TORTURE_SECONDS", "300"))
        self._everything = os.environ.get("VMOPS_TORTURE") == "all"
        self.rigs: dict[str, Rig] = {}
        self._cost_s: dict[str, float] = {}
        for scenario in scenarios:
            self.rigs[scenario.name] = rig = Rig(scenario, folder / scenario.name / "0")
            self._cost_s[scenario.name] = rig.undisturbed_s * 3  # the struck run, the next one, a look

    def total(self, name: str) -> int:
        """All that could be struck in a scenario."""
        return len(self.rigs[name].points) * len(Action)

    def stride(self, name: str) -> int:
        """So that this scenario and all that are still to come end in time."""
        if self._everything:
            return 1
        coming = [other for other in self.rigs if other not in self.tried]
        need_s = sum(self.total(other) * self._cost_s[other] for other in coming)
        left_s = max(1.0, self._ends - time.monotonic()) * WORKERS
        return max(1, min(round(need_s / left_s + 0.5), len(self.rigs[name].points)))

    def done(self, name: str, tried: int, elapsed_s: float) -> None:
        """A scenario has ended; what it cost tells how dear the others will be."""
        self.tried[name] = tried
        if tried:
            factor = (elapsed_s * WORKERS / tried) / self._cost_s[name]
            # Half of the surprise is this scenario's own.
            self._cost_s = {other: cost * (1 + (factor - 1) / 2) for other, cost in self._cost_s.items()}

    def lines(self) -> list[str]:
        """What was tried, for people."""
        told = [f"{name}: tried {tried} of {self.total(name)} points" for name, tried in self.tried.items()]
        return [*told, self.summary()]

    def summary(self) -> str:
        everything = sum(self.total(name) for name in self.tried)
        return f"tried {sum(self.tried.values())} of {everything} points"


_TORTURE = pytest.StashKey[Torture]()


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    with _folder(tmp_path_factory) as folder:
        calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
        chosen = [call.params["scenario"] for call in calls if "scenario" in call.params]
        prepared = Torture(Path(folder), chosen)
        request.config.stash[_TORTURE] = prepared
        yield prepared


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
    torture = config.stash.get(_TORTURE, None)
    if torture is None or not torture.tried:
        return
    terminalreporter.section("calls that were struck")
    for line in torture.lines():
        terminalreporter.write_line(line)
    note = os.environ.get("VMOPS_NOTE_FILE")
    if note:
        Path(note).write_text(torture.summary() + "\n", encoding="utf-8")
