# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Converting an image: the module beside cp and qemu-img itself, each until the result is durable, in turns."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.testbed.module_main import ROOT

from .guests import timed
from .report import Figure

TITLE = "Images: 4 GiB of which 2 GiB are data, from a cold cache to durable"
FOLDER = ROOT / ".testbed" / "bench"
ROUNDS = 5
MIB = 1024 * 1024
VIRTUAL_MIB = 4096
STRIPE_MIB = 64

# Flag sets of qemu-img that end in a flush or are followed by one; the module's own must not be far from the best.
SAFE_FLAGS = {
    "default": (),
    "-t writeback": ("-t", "writeback"),
    "-t writeback -m 16": ("-t", "writeback", "-m", "16"),
    "-W -m 16": ("-W", "-m", "16"),
    "-t writeback -W -m 16": ("-t", "writeback", "-W", "-m", "16"),
}


def measure() -> list[Figure]:
    """Every way to convert, one after another, ROUNDS times over; medians and their ratios."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        sources = _sources()
        figures: list[Figure] = []
        for source_format, target_format in (("raw", "raw"), ("raw", "qcow2"), ("qcow2", "raw")):
            figures += _direction(sources[source_format], source_format, target_format)
        return figures + _verification(sources["raw"])
    finally:
        shutil.rmtree(FOLDER)


def _sources() -> dict[str, Path]:
    """Stripes of 2 parts random data, 1 part written zeros, 1 part hole; as raw and as qcow2."""
    raw, qcow2 = FOLDER / "source.raw", FOLDER / "source.qcow2"
    data, zeros = os.urandom(STRIPE_MIB * MIB), bytes(STRIPE_MIB * MIB)
    with raw.open("wb") as file:
        for start in range(0, VIRTUAL_MIB, 4 * STRIPE_MIB):
            file.seek(start * MIB)
            file.write(data + data + zeros)
        file.truncate(VIRTUAL_MIB * MIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    return {"raw": raw, "qcow2": qcow2}


def _direction(source: Path, source_format: str, target_format: str) -> list[Figure]:
    module = ModuleRuns(source, target_format, "none")
    plain = {
        name: partial(_qemu_img, flags, source, source_format, target_format) for name, flags in SAFE_FLAGS.items()
    }
    others: dict[str, Callable[[], float]] = {"qemu-img %s" % name: way for name, way in plain.items()}
    if source_format == target_format == "raw":
        others["cp --sparse=always"] = partial(_cp, source)
        others["the disk's share, reading"] = partial(_read, source)
        others["the disk's share, writing"] = _write
    times = _in_turns(source, {"module": module.seconds, **others})
    what = "%s → %s" % (source_format, target_format)
    note = "median of %d, fsync included" % ROUNDS
    figures = [Figure("%s: %s" % (what, name), times[name], "s", note=note) for name in times]
    figures.append(Figure("%s: resident memory of the module" % what, max(module.rss), "MiB", limit=60))
    if "cp --sparse=always" in times:
        ratio = times["module"] / times["cp --sparse=always"]
        figures.append(Figure("%s: module / cp" % what, ratio, "x", limit=1.1))
        gain = times["qemu-img default"] / times["module"]
        figures.append(Figure("%s: qemu-img default / module" % what, gain, "x", limit=1.3, at_least=True))
    else:
        best = min(seconds for name, seconds in times.items() if name.startswith("qemu-img"))
        figures.append(Figure("%s: module / best of qemu-img" % what, times["module"] / best, "x", limit=1.1))
    return figures


def _verification(source: Path) -> list[Figure]:
    """What each way to prove the new image costs."""
    ways = {
        "verify: %s" % verify: ModuleRuns(source, "qcow2", verify).seconds for verify in ("none", "check", "compare")
    }
    note = "raw → qcow2, median of %d" % ROUNDS
    return [Figure(name, seconds, "s", note=note) for name, seconds in _in_turns(source, ways).items()]


def _in_turns(source: Path, ways: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each way's seconds. They take turns, so that a slow minute of the machine is everybody's."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for _round in range(ROUNDS):
        for name in order:
            _target().unlink(missing_ok=True)
            _forget(source)
            seconds[name].append(ways[name]())
        order.append(order.pop(0))  # who follows whom matters to a disk that is still busy with what came before
    return {name: statistics.median(values) for name, values in seconds.items()}


def _target() -> Path:
    return FOLDER / "target"


def _forget(source: Path) -> None:
    """Put everything on the disk, and the source out of the page cache."""
    os.sync()
    with source.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class ModuleRuns:
    """The module as one of the ways, and the most memory that each of its runs took."""

    def __init__(self, source: Path, target_format: str, verify: str) -> None:
        self._arguments = {
            "path": str(_target()),
            "source": str(source),
            "format": target_format,
            "verify": verify,
        }
        self.rss: list[float] = []

    def seconds(self) -> float:
        run = timed("qemu_img", self._arguments)
        if not run.result.get("changed"):
            raise RuntimeError("the module did not convert: %s" % run.result)
        self.rss.append(run.rss_mib)
        return run.main_s


def _qemu_img(flags: tuple[str, ...], source: Path, source_format: str, target_format: str) -> float:
    words = ["qemu-img", "convert", *flags, "-f", source_format, "-O", target_format, str(source), str(_target())]
    return _durable(words)


def _cp(source: Path) -> float:
    return _durable(["cp", "--sparse=always", str(source), str(_target())])


def _read(source: Path) -> float:
    """Seconds for the source alone: nobody who copies it can be faster than the slower of this and `_write`."""
    started = time.perf_counter()
    with source.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass
    return time.perf_counter() - started


def _write() -> float:
    """Seconds for as much data as the source has, written and flushed."""
    data = os.urandom(STRIPE_MIB * MIB)
    started = time.perf_counter()
    with _target().open("wb", buffering=0) as file:
        for _stripe in range(VIRTUAL_MIB // STRIPE_MIB // 2):
            file.write(data)
        os.fsync(file.fileno())
    return time.perf_counter() - started


def _durable(words: list[str]) -> float:
    """Seconds of a command and of the flush that it leaves to others."""
    started = time.perf_counter()
    subprocess.run(words, check=True)
    descriptor = os.open(_target(), os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.perf_counter() - started
