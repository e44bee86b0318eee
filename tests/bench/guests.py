# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shutting twenty guests down: the module beside the least that any client could need, and beside the usual poller."""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.testbed.boot_guest import BootGuest, Kind, Qmp, ended, start_many
from tests.testbed.module_main import ROOT

from .report import Figure

TITLE = "Guests: twenty shut down at once"
GUESTS = 20
ROUNDS = 5
NO_OPS = 30

# Runs a module in a fresh process, with the clock started at main(): reads arguments, prints the result, then a line
# of its own figures.
_TIMED = """
import json, sys, time
sys.path.insert(0, %(root)r)
import tests.conftest
from tests.testbed.module_main import load, set_arguments
module = load(%(name)r)
set_arguments(json.dumps({"ANSIBLE_MODULE_ARGS": json.load(sys.stdin)}).encode())

def read_bytes():
    with open("/proc/self/io") as io:
        return int(io.readline().split()[1])

started, read_before = time.perf_counter(), read_bytes()
try:
    module.main()
except SystemExit:
    spent_s = time.perf_counter() - started
with open("/proc/self/status") as status:  # getrusage's maximum also holds that of the process that started this one
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
figures = {"main_s": spent_s, "rss_kib": peak_kib, "read_bytes": read_bytes() - read_before}
print(json.dumps(figures), file=sys.stderr)
"""


class Timed(NamedTuple):
    """A module's result, the seconds from main() on, the most memory that its process ever had, and what it has read
    from files and sockets from main() on.
    """

    result: dict[str, Any]
    main_s: float
    rss_mib: float
    read_mib: float


def timed(name: str, arguments: dict[str, Any]) -> Timed:
    """Run a module and measure it from inside its process."""
    code = _TIMED % {"root": str(ROOT), "name": name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    figures = json.loads(done.stderr.splitlines()[-1])
    return Timed(
        json.loads(done.stdout.splitlines()[-1]),
        figures["main_s"],
        figures["rss_kib"] / 1024,
        figures["read_bytes"] / 2**20,
    )


class Fleet(NamedTuple):
    """One round of the module over all guests."""

    connected_s: float
    down_s: float
    main_s: float
    rss_mib: float


def by_module(guests: list[BootGuest]) -> Fleet:
    """From main() to all connected, from the first press to all proven dead, and the whole."""
    run = timed("qemu_guest_shutdown", {"guests": [guest.options for guest in guests]})
    assert run.result["changed"], run.result
    assert not any(guest.alive() for guest in guests)
    attempts = [attempt for record in run.result["guests"] for attempt in record["attempts"]]
    presses = [attempt for attempt in attempts if attempt["sent"] == "system_powerdown"]
    first = min(press["started"] for press in presses)
    before_run_s = run.main_s - run.result["elapsed_s"]  # reading the arguments, and writing the result
    return Fleet(
        before_run_s + max(press["started"] for press in presses),
        max(press["ended"] for press in presses) - first,
        run.main_s,
        run.rss_mib,
    )


def by_least_client(guests: list[BootGuest]) -> float:
    """What the slowest guest itself needs: connected beforehand, pressed by a bare write, seen to end by its pidfd."""
    monitors = [Qmp(guest.qmp_socket) for guest in guests]
    pidfds = {os.pidfd_open(guest.pid): number for number, guest in enumerate(guests)}
    pressed: list[float] = []
    for monitor in monitors:
        pressed.append(time.perf_counter())
        monitor.send("system_powerdown")
    needed = []
    while pidfds:
        for descriptor in select.select(list(pidfds), [], [], 60)[0]:
            needed.append(time.perf_counter() - pressed[pidfds.pop(descriptor)])
            os.close(descriptor)
    for monitor in monitors:
        monitor.close()
    return max(needed)


def by_poller(guests: list[BootGuest]) -> float:
    """The usual way: one guest after the other, pressed and looked at every second."""
    started = time.perf_counter()
    for guest in guests:
        with Qmp(guest.qmp_socket) as monitor:
            monitor.execute("system_powerdown")
        while guest.alive():
            time.sleep(1)
    return time.perf_counter() - started


def measure() -> list[Figure]:
    """Rounds of the module and of the least client alternate; the poller goes once, because it takes so long."""
    rounds: list[Fleet] = []
    least: list[float] = []
    for _round in range(ROUNDS):
        with fleet() as guests:
            rounds.append(by_module(guests))
        with fleet() as guests:
            least.append(by_least_client(guests))
    with fleet() as guests:
        poller_s = by_poller(guests)
    main_s = statistics.median(round_.main_s for round_ in rounds)
    down_s = statistics.median(round_.down_s for round_ in rounds)
    least_s = statistics.median(least)
    medians = "median of %d rounds, %d boot-sector guests under TCG" % (ROUNDS, GUESTS)
    return [
        Figure("connected, from main() on", statistics.median(r.connected_s for r in rounds), "s", 0.5, note=medians),
        Figure("first press to all proven dead", down_s, "s", note=medians),
        Figure("the slowest guest's own need", least_s, "s", note="pressed by a bare write, watched by its pidfd"),
        Figure("… the first to the second", down_s / least_s, "times", 1.5),
        Figure("the module from main() to its end", main_s, "s", note=medians),
        Figure("a 1 s poller, one after another", poller_s, "s", note="once"),
        Figure("… the second to the first", poller_s / main_s, "times", 5, at_least=True),
        Figure("memory of the module", max(r.rss_mib for r in rounds), "MiB", 60, note="largest resident set"),
        no_op(),
    ]


def no_op() -> Figure:
    """A guest that is down already."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"pidfile": folder + "/qemu.pid", "qmp_socket": folder + "/qmp.sock"}
        spent = [timed("qemu_guest_shutdown", arguments).main_s for _run in range(NO_OPS)]
    return Figure(
        "nothing to do, from main() on",
        statistics.median(spent) * 1000,
        "ms",
        25,
        note="median of %d, imports excluded" % NO_OPS,
    )


@contextmanager
def fleet() -> Iterator[list[BootGuest]]:
    """Twenty guests that are ready; they have ended however the block ends."""
    with tempfile.TemporaryDirectory(prefix="vmops-bench-") as folder:
        guests = start_many(Path(folder), [Kind.OBEYS] * GUESTS)
        with ended(*guests):
            yield guests
