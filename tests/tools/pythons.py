# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds Python interpreters without starting any: a call with nothing to do must stay well under a second."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

Version = tuple[int, int]

OLDEST_CORE_RANGE: tuple[Version, ...] = ((3, 11), (3, 10), (3, 12))
"""What ansible-core 2.16 runs on, the best first."""

NEWEST_CORE_RANGE: tuple[Version, ...] = ((3, 14), (3, 13), (3, 12))
"""What the core of newest.txt runs on, the best first."""


class Python(NamedTuple):
    """An interpreter: where it is, and its version."""

    path: Path
    version: Version

    @property
    def label(self) -> str:
        return "%d.%d" % self.version


def running() -> Python:
    """The interpreter that runs this, without the virtual environment that it may be in."""
    return Python(Path(os.path.realpath(sys.executable)), sys.version_info[:2])


def find(*versions: Version) -> Python | None:
    """The interpreter of the first of these versions that is at hand: this one, one of pyenv's, or one on PATH."""
    for version in versions:
        if version == sys.version_info[:2]:
            return running()
        found = _pyenv(version) or _on_path(version)
        if found:
            return Python(found, version)
    return None


def _pyenv(version: Version) -> Path | None:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    pythons = root.glob("versions/%d.%d.*/bin/python" % version)
    return max(pythons, key=_patch_release, default=None)


def _patch_release(python: Path) -> int:
    patch = python.parents[1].name.rpartition(".")[2]
    return int(patch) if patch.isdigit() else -1


def _on_path(version: Version) -> Path | None:
    for folder in os.get_exec_path():
        # pyenv's shims answer to every name and fail when started
        python = Path(folder, "python%d.%d" % version)
        if python.parent.name != "shims" and os.access(python, os.X_OK):
            return python
    return None
