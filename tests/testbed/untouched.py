# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows that nobody changed a file, though it may have been read."""

from __future__ import annotations

import os
from pathlib import Path


def untouched(path: Path) -> tuple[int, ...]:
    """What is the same as long as a file (or the link itself) is neither written, replaced nor given other attributes.

    Comparing whole stat results would count a read as a change: they hold the time of the last access.
    """
    status = os.lstat(path)
    return (status.st_ino, status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
