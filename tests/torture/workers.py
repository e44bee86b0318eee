# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two processes share the strikes of a scenario."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

WORKERS = 2


class Outcome(Protocol):
    """What one strike showed; ``problems`` are promises that were broken."""

    @property
    def hit(self) -> object:
        """What was struck; nothing where that never came."""

    @property
    def problems(self) -> Sequence[str]:
        """One line each."""


class Rig(Protocol):
    """A scenario in a world of its own, that can be struck again and again."""

    problems: list[str]
    total: int
    """All that could be struck."""
    undisturbed_s: float

    def faults(self, stride: int) -> Sequence[Any]:
        """Every ``stride``-th of them."""

    def strike(self, fault: Any) -> Outcome:
        """One strike, and all that is promised about it."""

    def close(self) -> None:
        """The end of its world."""


def strike_all(another: Callable[[Path], Rig], first: Rig, folder: Path, faults: Sequence[Any]) -> list[Outcome]:
    """Every fault once. Each worker has a world of its own: the first one that of ``first``."""
    fork = multiprocessing.get_context("fork")
    jobs = []
    for turn in range(WORKERS):
        receiving, sending = fork.Pipe(duplex=False)
        rig = first if turn == 0 else None
        process = fork.Process(
            target=_work, args=(another, rig, folder / str(turn), list(faults[turn::WORKERS]), sending)
        )
        process.start()
        sending.close()
        jobs.append((process, receiving))
    struck: list[Outcome] = []
    for process, receiving in jobs:
        try:
            struck += receiving.recv()
        except EOFError:
            raise AssertionError(f"a worker of {folder.name} died: its words are above") from None
        finally:
            process.join()
    return struck


def _work(
    another: Callable[[Path], Rig], first: Rig | None, folder: Path, faults: list[Any], answers: Connection
) -> None:
    rig = first or another(folder)
    try:
        answers.send([rig.strike(fault) for fault in faults])
    finally:
        if first is None:
            rig.close()
