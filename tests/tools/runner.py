# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs stages: one line each while they end, the whole output in a log, a summary at the end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.tools.paths import LOGS, ROOT, STATE

_SHOWN_LINES = 60
"""How much of a failed stage's log is shown: a pytest failure with its summary fits."""

_SHOWN_TESTS = 10
_SHOWN_WORDS_LINES = 8
"""Which failed tests failed, and why, comes first: where only the beginning of an output is kept, that is in it."""

_GRACE_S = 20
"""How long an interrupted stage has for its own clean-up: pytest's fixtures stop their guests in it."""

_LOOK_S = 0.5

AT_ONCE = 4
"""Stages side by side: two for each core of the smallest machine of a CI. Half of its time a stage waits, for guests,
for time limits, for disks; its core is then another's.
"""

_ENVIRON = {
    "NO_COLOR": "1",
    # thousands of modules are run, which would each compile all that they import; and the sources stay clean
    "PYTHONPYCACHEPREFIX": str(STATE / "pycache"),
    "PYTHONDONTWRITEBYTECODE": "",
}

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class Command(NamedTuple):
    """One process of a stage; the environment's variables come on top of ours."""

    argv: Sequence[str]
    environ: Mapping[str, str] = {}
    folder: Path = ROOT


class Stage(NamedTuple):
    """A step of the tests: all its commands are run, and it passes when each of them did."""

    name: str
    title: str
    commands: Sequence[Command]
    timeout_s: float = 45 * 60

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    @property
    def report(self) -> Path:
        """Where pytest leaves its counts."""
        return LOGS / f"{self.name}.xml"

    @property
    def note(self) -> Path:
        """Where the stage may leave one line for the summary, told by VMOPS_NOTE_FILE."""
        return LOGS / f"{self.name}.note"


class Counts(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        told = f"{self.passed} passed, {self.failed} failed"
        return f"{told}, {self.skipped} skipped" if self.skipped else told


class Outcome(NamedTuple):
    stage: Stage
    ok: bool
    elapsed_s: float
    counts: Counts | None


def run(stages: Sequence[Stage], at_once: int = AT_ONCE) -> int:
    """Runs the stages, begun in their order and `at_once` side by side; answers the exit code."""
    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    width = max(len(stage.title) for stage in stages)
    running = _Running()
    for number in _INTERRUPTS:
        # handled, even where whoever started us ignores it (a shell does for what it runs in the background):
        # so it isn't ignored by the children either
        signal.signal(number, signal.default_int_handler)
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        try:  # from the first stage on: it may run, and be interrupted, before the next one is handed over
            jobs = [pool.submit(_run_stage, stage, running, width) for stage in stages]
            # The kernel may hand a signal to any of our threads, and only this one acts on it: when it next wakes.
            while wait(jobs, timeout=_LOOK_S).not_done:
                pass
            outcomes = [job.result() for job in jobs]
        except KeyboardInterrupt:
            for number in _INTERRUPTS:
                signal.signal(number, signal.SIG_IGN)  # ending them has an end, and a second word must not cut it short
            running.stop()
            print("interrupted", flush=True)
            return 130
    return _summary(outcomes, time.monotonic() - started)


class _Running:
    """The processes now running, so that an interrupt can end them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def start(self, command: Command, environ: Mapping[str, str], output: int) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self.stopped:
                return None
            # a session of its own: its children can be ended with it, and a terminal's Ctrl-C comes by us alone
            process = subprocess.Popen(
                list(command.argv),
                cwd=command.folder,
                env={**os.environ, **environ, **command.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._processes.add(process)
            return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.discard(process)

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            processes = list(self._processes)
        for process in processes:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process with all of its session's group: by a polite word to it alone first, so that it can clean up."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _run_stage(stage: Stage, running: _Running, width: int) -> Outcome:
    started = time.monotonic()
    stage.report.unlink(missing_ok=True)
    stage.note.unlink(missing_ok=True)
    with stage.log.open("wb", buffering=0) as log:
        # every command runs, whatever became of the one before it
        verdicts = [_run_command(command, stage, started, running, log.fileno()) for command in stage.commands]
    ok = all(verdicts)
    counts = _read_counts(stage.report)
    outcome = Outcome(stage, ok, time.monotonic() - started, counts)
    if not running.stopped:
        sys.stdout.write(_line(outcome, width) + ("" if ok else _tail(stage)))
        sys.stdout.flush()
    return outcome


def _run_command(command: Command, stage: Stage, started: float, running: _Running, log: int) -> bool:
    def say(text: str) -> None:
        os.write(log, text.encode())

    say(f"$ {shlex.join(command.argv)}\n")
    try:
        process = running.start(command, {"VMOPS_NOTE_FILE": str(stage.note), **_ENVIRON}, log)
    except OSError as error:
        say(f"could not start: {error}\n")
        return False
    if process is None:
        return False
    try:
        code = process.wait(max(0.0, started + stage.timeout_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        _end(process)
        say(f"ended: the stage took longer than {stage.timeout_s:.0f} s\n")
        return False
    finally:
        running.forget(process)
    if code:
        say(f"exit code {code}\n")
    return code == 0


def _read_counts(report: Path) -> Counts | None:
    """The counts of a pytest run; None where the stage had none, or ended before it could tell."""
    if not report.is_file():
        return None
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))

    def total(name: str) -> int:
        return sum(int(suite.get(name, 0)) for suite in suites)

    failed = total("failures") + total("errors")
    return Counts(total("tests") - failed - total("skipped"), failed, total("skipped"))


def _line(outcome: Outcome, width: int) -> str:
    stage = outcome.stage
    remarks = [str(outcome.counts)] if outcome.counts else []
    if stage.note.is_file():
        remarks += stage.note.read_text().splitlines()[:1]
    verdict = "ok  " if outcome.ok else "FAIL"
    return f"{verdict}  {stage.title:<{width}}  {outcome.elapsed_s:7.1f} s  {'; '.join(remarks)}".rstrip() + "\n"


def _tail(stage: Stage) -> str:
    lines = stage.log.read_text(errors="replace").splitlines()
    shown = [*_failures(stage.report), *lines[-_SHOWN_LINES:], f"(all of it: {os.path.relpath(stage.log, ROOT)})"]
    return "".join(f"      {line}\n" for line in shown)


def _failures(report: Path) -> list[str]:
    """The tests that failed, each with what it said."""
    if not report.is_file():
        return []
    cases = ElementTree.parse(report).getroot().iter("testcase")
    failed = [(case, part) for case in cases for part in case if part.tag in ("failure", "error")]
    told: list[str] = []
    for case, part in failed[:_SHOWN_TESTS]:
        said = part.get("message", "").splitlines()[:_SHOWN_WORDS_LINES]
        told += [f"{case.get('classname')}::{case.get('name')}", *(f"    {line}" for line in said)]
    return told


def _summary(outcomes: Sequence[Outcome], elapsed_s: float) -> int:
    bad = [outcome.stage.name for outcome in outcomes if not outcome.ok]
    counts = [outcome.counts for outcome in outcomes if outcome.counts]
    failed = sum(count.failed for count in counts)
    # a stage can fail without a failed test (lint, a crash): the closing line must not look green then
    failed += sum(1 for outcome in outcomes if not outcome.ok and not (outcome.counts and outcome.counts.failed))
    print(f"\n{len(outcomes) - len(bad)} of {len(outcomes)} stages passed in {elapsed_s:.0f} s", flush=True)
    if bad:
        print(f"failed: {', '.join(bad)}")
    print(Counts(sum(count.passed for count in counts), failed, sum(count.skipped for count in counts)), flush=True)
    return 1 if bad else 0
