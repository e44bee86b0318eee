# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a part of the benchmark measures, and how it is shown."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured figure. `limit` is what the project promises (None: only told); `note` says how it was measured."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def table(figures: Iterable[Figure]) -> str:
    """The figures as a table that is also Markdown."""
    rows = [("figure", "measured", "promised", "kept", "how")]
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        promised = "" if figure.limit is None else "%s %g %s" % (sign, figure.limit, figure.unit)
        kept = "" if figure.limit is None else ("yes" if figure.kept else "NO")
        rows.append((figure.name, "%.3g %s" % (figure.value, figure.unit), promised, kept, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| %s |" % " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "|%s|" % "|".join("-" * (width + 2) for width in widths))
    return "\n".join(lines)


def machine() -> str:
    """The machine that the figures are from."""
    facts = [
        "%d x %s" % (os.cpu_count() or 0, _processor()),
        "%.1f GiB of memory" % (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "%s %s" % (platform.system(), platform.release()),
        "Python %s" % platform.python_version(),
        _first_line("qemu-system-x86_64", "--version"),
        "ansible-core %s" % _core_version(),
    ]
    return "\n".join("- " + fact for fact in facts if fact)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def _core_version() -> str:
    code = "import ansible.release; print(ansible.release.__version__)"
    return _first_line(sys.executable, "-c", code)
