# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps from an image as it is to the declared one. Only a task that has something to do needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Union

if TYPE_CHECKING:
    from .extras import Backing, Named
    from .found import BackingSeen
    from .model import Format, RepairMode


class Sweep(NamedTuple):
    """Remove what a killed run left."""

    names: tuple[str, ...]


class SweepBelow(NamedTuple):
    """Remove what a killed commit left beside the backing file."""

    backing_path: str


class Create(NamedTuple):
    """Make an empty image or overlay."""

    size_bytes: int | None


class Seed(NamedTuple):
    """Make the image from its source."""

    size_bytes: int | None


class Rebuild(NamedTuple):
    """Convert the image into itself, for what can't be changed in place; its content stays."""

    size_bytes: int
    shrinks: bool


class Adopt(NamedTuple):
    """Remember an image that has the source's content already.

    ``compared``: that is known; else it is found out first.
    """

    compared: bool


class Resize(NamedTuple):
    """Give the image another virtual size. ``preallocation`` is of what it grows by."""

    size_bytes: int
    shrinks: bool
    preallocation: str = "off"


class Rebase(NamedTuple):
    """Give the overlay another backing file, or none; its content stays."""

    backing: Backing
    format: Format | None


class Amend(NamedTuple):
    """Change creation options in place."""

    options: tuple[tuple[str, str], ...]


class SetSnapshot(NamedTuple):
    """Take or delete an internal snapshot."""

    name: str
    present: bool


class SetBitmap(NamedTuple):
    """Add or remove a persistent bitmap."""

    bitmap: Named


class CommitDown(NamedTuple):
    """Write the overlay's data into its backing file (``in_place``, or a copy of it), then empty the overlay."""

    backing: BackingSeen
    in_place: bool


class Copy(NamedTuple):
    """Copy the image, for changes that qemu-img can't make in place without a moment in which it is torn."""


class Repair(NamedTuple):
    """Mend what a check found."""

    mode: RepairMode


class Remove(NamedTuple):
    """Take the image away, and before it the files that hold parts of it."""

    extents: tuple[str, ...] = ()


Step = Union[
    Sweep,
    SweepBelow,
    Create,
    Seed,
    Rebuild,
    Copy,
    Adopt,
    Repair,
    Rebase,
    Resize,
    Amend,
    SetSnapshot,
    SetBitmap,
    CommitDown,
    Remove,
]
# These build a new file beside the target; what follows works on that file, which is then published.
WHOLE = (Create, Seed, Rebuild, Copy)
