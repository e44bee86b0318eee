# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs every part of the benchmark (or those named) and prints the machine and a table for each.

A part is a module beside this one with a `TITLE` and a function `measure()` that returns figures. The exit code is 1
if a promise isn't kept.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from tests.conftest import link_collection

from .report import machine, table

NO_PARTS = ("__init__", "__main__", "report")


def parts() -> list[str]:
    """The names of the parts that are there."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in NO_PARTS and "def measure(" in path.read_text():
            found.append(path.stem)
    return found


def main(chosen: list[str]) -> int:
    link_collection()
    unknown = set(chosen) - set(parts())
    if unknown:
        print("There is no part %s. There are: %s." % (", ".join(sorted(unknown)), ", ".join(parts())), file=sys.stderr)
        return 2
    print("Machine:\n\n%s" % machine())
    all_kept = True
    for name in chosen or parts():
        part = importlib.import_module("tests.bench." + name)
        started = time.monotonic()
        print("\n%s ..." % part.TITLE, flush=True)
        figures = part.measure()
        all_kept = all_kept and all(figure.kept for figure in figures)
        print("\n%s\n\n(%.0f s)" % (table(figures), time.monotonic() - started), flush=True)
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
