# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A running guest whose disk was removed or replaced: what it writes is in its process only.

Only imported when there is one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from .._core.errors import Refused
from .process import open_files

_REMOVED = " (deleted)"  # what the kernel adds to the name of a file that has none any more


def refuse(name: str, pid: int, disks: Sequence[str]) -> NoReturn:
    """Say which disks process ``pid`` lost, and how their data can be kept. Raises Refused, always."""
    descriptors = {disk: _descriptor(pid, disk) for disk in disks}
    saved = "; ".join(
        "copy %s to keep what was %s" % (path, disk) if path else "look with query-block where %s went" % disk
        for disk, path in descriptors.items()
    )
    raise Refused(
        "go on with the guest %s" % name,
        "it runs in process %d, which doesn't have the file open that should be its disk %s: %s. What the guest writes"
        " is lost when that process ends"
        % (pid, " and ".join(disks), ", ".join("%s is %s" % (disk, _fate(disk)) for disk in disks)),
        "Pause the guest and %s. Or shut it down knowing that this is lost. Then put the right file in place and run "
        "the task again" % saved,
        pid=pid,
        disks=list(disks),
        opened_as=[path for path in descriptors.values() if path],
    )


def _fate(disk: str) -> str:
    return "another file now" if os.path.exists(disk) else "gone"


def _descriptor(pid: int, disk: str) -> str:
    """The path by which the removed file can still be read; empty where it isn't known, as it was only renamed."""
    wanted = os.path.realpath(disk) + _REMOVED
    for path in open_files(pid):
        try:
            if os.readlink(path) == wanted:
                return path
        except OSError:
            continue  # it was closed meanwhile
    return ""
