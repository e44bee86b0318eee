# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two processes share the strikes of a scenario."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tests.testbed.syscalls import Fault
from tests.torture.scenarios import Scenario
from tests.torture.strike import Rig, Struck

WORKERS = 2


def strike_all(scenario: Scenario, first: Rig, folder: Path, faults: Sequence[Fault]) -> list[Struck]:
    """Every fault once. Each worker has a world of its own: the first one that of ``first``."""
    fork = multiprocessing.get_context("fork")
    jobs = []
    for turn in range(WORKERS):
        receiving, sending = fork.Pipe(duplex=False)
        rig = first if turn == 0 else None
        process = fork.Process(
            target=_work, args=(scenario, rig, folder / str(turn), list(faults[turn::WORKERS]), sending)
        )
        process.start()
        sending.close()
        jobs.append((process, receiving))
    struck: list[Struck] = []
    for process, receiving in jobs:
        try:
            struck += receiving.recv()
        except EOFError:
            raise AssertionError(f"a worker of {scenario.name} died: its words are above") from None
        finally:
            process.join()
    return struck


def _work(scenario: Scenario, rig: Rig | None, folder: Path, faults: list[Fault], answers: Connection) -> None:
    rig = rig or Rig(scenario, folder)
    answers.send([rig.strike(fault) for fault in faults])
