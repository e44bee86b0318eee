# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the costlier looks at images find."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .model import Format


class CheckResult(NamedTuple):
    """What `qemu-img check` says: numbers of faults left."""

    corruptions: int
    leaks: int


class BackingSeen(NamedTuple):
    """A backing file as it is. ``plain``: it has no backing file, snapshots or bitmaps of its own; ``other_files``
    hold its data.
    """

    format: Format
    virtual_size_bytes: int
    plain: bool
    other_files: tuple[str, ...] = ()


class Holder(NamedTuple):
    """Somebody who has an image open; ``pid`` 0 where the system doesn't tell."""

    pid: int
    name: str
    writes: bool

    @property
    def shown(self) -> str:
        """For messages."""
        return "%s (pid %d)" % (self.name, self.pid) if self.pid else self.name
