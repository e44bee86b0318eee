# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The values of image management: what is declared, what is seen, and the steps between.

They are NamedTuples, not dataclasses: every task defines them anew, and a frozen dataclass costs about a millisecond
each.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Union

SECTOR_BYTES = 512  # QEMU's unit of virtual size


class Format(str, Enum):
    """Image formats that are written and read; the value is QEMU's driver name."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    VPC = "vpc"


CHECKED_FORMATS = (Format.QCOW2, Format.VMDK, Format.VDI, Format.VHDX)  # `qemu-img check` answers 63 for the others


class Verify(str, Enum):
    """How a new image is proved before it is published."""

    NONE = "none"
    CHECK = "check"
    COMPARE = "compare"


class RepairMode(str, Enum):
    """What `qemu-img check -r` may mend."""

    NONE = "none"
    LEAKS = "leaks"
    ALL = "all"


class Source(NamedTuple):
    """Where a new image's content comes from.

    ``location`` is an absolute path or an http(s) URL; ``checksum`` is (algorithm, hex).
    """

    location: str
    format: Format | None
    checksum: tuple[str, str] | None
    allow_references: bool

    @property
    def is_url(self) -> bool:
        return self.location.startswith(("http://", "https://"))

    @property
    def shown(self) -> str:
        """The location for messages, results and records: a URL without a user's name, password and query, where
        signatures and tokens are.
        """
        if not self.is_url:
            return self.location
        scheme, separator, rest = self.location.partition("://")
        host, slash, path = rest.partition("?")[0].partition("/")
        return scheme + separator + host.rpartition("@")[2] + slash + path


class Backing(NamedTuple):
    """A declared backing file: the name to be stored (empty: none), its absolute path and its format (None: as its
    header says).
    """

    stored: str
    path: str
    format: Format | None


class Encryption(NamedTuple):
    """LUKS inside qcow2. ``options`` are `encrypt.*` creation options without that prefix."""

    secret: str
    options: tuple[tuple[str, str], ...]


class Named(NamedTuple):
    """A snapshot or bitmap that shall be there or not. ``granularity_bytes`` is a bitmap's, None: QEMU's choice."""

    name: str
    present: bool
    granularity_bytes: int | None = None


class Desired(NamedTuple):
    """The declared image; sizes are in bytes, ``size_bytes`` a multiple of a sector."""

    path: str
    present: bool
    format: Format
    size_bytes: int | None
    source: Source | None
    backing: Backing | None
    options: Mapping[str, str]
    compress: bool
    encryption: Encryption | None
    allow_shrink: bool
    force: bool
    verify: Verify
    repair: RepairMode
    snapshots: tuple[Named, ...]
    bitmaps: tuple[Named, ...]
    commit: bool


class Request(NamedTuple):
    """What an info task looks up of each image beside its header; ``measure_options`` are for the measurement."""

    paths: tuple[str, ...]
    format: Format | None
    chain: bool
    check: bool
    map: bool
    measure: Format | None
    measure_options: Mapping[str, str]


class ImageInfo(NamedTuple):
    """What `qemu-img info` says of one file.

    ``options`` holds the creation options that can be read back, normalised.
    """

    format: Format
    virtual_size_bytes: int
    actual_size_bytes: int
    backing_file: str | None
    backing_format: str | None
    encrypted: bool
    dirty: bool
    corrupt: bool
    options: Mapping[str, str]
    snapshots: tuple[str, ...]
    bitmaps: tuple[str, ...]


class CheckResult(NamedTuple):
    """What `qemu-img check` says: numbers of faults left."""

    corruptions: int
    leaks: int


class SourceIdentity(NamedTuple):
    """What tells one state of a source from another: content by checksum, or a file by name or inode with its size
    and time.
    """

    location: str
    checksum: str
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


class Record(NamedTuple):
    """What we remember of an image that we made or adopted: its format, its seed and the arguments that shaped it."""

    format: Format
    source: SourceIdentity | None
    arguments: Mapping[str, str]
    qemu_img: str


class SourceSeen(NamedTuple):
    """A source as it is. ``virtual_size_bytes`` is unknown for a URL that wasn't fetched."""

    identity: SourceIdentity
    format: Format | None
    virtual_size_bytes: int | None


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


class Seen(NamedTuple):
    """One observation. What was not asked for is None: no decision depends on it.

    ``other_files`` are those, beside a backing file, that hold the image's data.
    """

    exists: bool
    info: ImageInfo | None = None
    record: Record | None = None
    leftovers: tuple[str, ...] = ()
    source: SourceSeen | None = None
    source_gone: bool = False
    same_content: bool | None = None
    backing: BackingSeen | None = None
    backing_is_current: bool = True
    commit_to: BackingSeen | None = None
    left_below: tuple[str, ...] = ()
    check: CheckResult | None = None
    holders: tuple[Holder, ...] = ()
    other_files: tuple[str, ...] = ()


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
    """Give the image another virtual size."""

    size_bytes: int
    shrinks: bool


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
    """Take the image away."""


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


def round_to_sector(size_bytes: int) -> int:
    """The virtual size that QEMU makes of a size: it rounds up to whole sectors."""
    return -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES
