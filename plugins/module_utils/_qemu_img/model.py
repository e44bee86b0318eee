# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The values that every task needs: what is declared and what is seen.

They are NamedTuples, not dataclasses: every task defines them anew, and a frozen dataclass costs about a millisecond
each. Even so each costs a quarter of one, so what only some tasks need is elsewhere: the steps in steps.py, the rarer
parts of a declaration in extras.py, the rarer findings in found.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .extras import Backing, Encryption, Named
    from .found import BackingSeen, CheckResult, Holder

STREAM_OPTIMIZED = "streamOptimized"  # the only subformat of VMDK that can be compressed
SECTOR_BYTES = 512  # QEMU's unit of virtual size


class Format(str, Enum):
    """Image formats that are written and read; the value is QEMU's driver name."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    VPC = "vpc"


def known_format(name: str | None) -> Format | None:
    """The format of this driver name; None without a name, and for QEMU's other drivers."""
    return next((image_format for image_format in Format if image_format.value == name), None)


def is_protocol(name: str) -> bool:
    """Whether QEMU takes a name in an image's header for a protocol: it has a colon before its first slash."""
    return ":" in name.split("/", 1)[0]


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

    @property
    def least_bytes(self) -> int | None:
        """How much of its source's beginning the image has to hold; None: all of it."""
        return self.size_bytes if self.allow_shrink else None


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
    """A source as it is. Its formats and ``virtual_size_bytes`` are unknown where it wasn't opened.

    ``format`` is what it is read as, ``header_format`` what it would be read as if no format were declared. ``dirty``:
    it was not closed properly.
    """

    identity: SourceIdentity
    format: Format | None
    virtual_size_bytes: int | None
    header_format: Format | None = None
    dirty: bool = False


class Seen(NamedTuple):
    """One observation. What was not asked for is None: no decision depends on it.

    ``opened``: False for an image that nobody opens, of which only the format is known.
    ``other_files`` are those, beside a backing file, that hold the image's data, by its own names for them.
    ``below`` is the file into which a commit would write, links followed; ``left_below`` lies beside it.
    ``extents`` are those that go when the image goes, ``left_extents`` those that it names too and that stay.
    ``leads_out`` is a name below the image that is no disk's: whoever opens the image with what is below it would
    connect there, or hang.
    ``split`` are the files that a new one takes the place of, although they have other names (hard links).
    """

    exists: bool
    info: ImageInfo | None = None
    opened: bool = True
    record: Record | None = None
    leftovers: tuple[str, ...] = ()
    source: SourceSeen | None = None
    source_gone: bool = False
    same_content: bool | None = None
    backing: BackingSeen | None = None
    backing_is_current: bool = True
    commit_to: BackingSeen | None = None
    below: str = ""
    left_below: tuple[str, ...] = ()
    check: CheckResult | None = None
    holders: tuple[Holder, ...] = ()
    other_files: tuple[str, ...] = ()
    leads_out: str = ""
    extents: tuple[str, ...] = ()
    left_extents: tuple[str, ...] = ()
    split: tuple[str, ...] = ()


def round_to_sector(size_bytes: int) -> int:
    """The virtual size that QEMU makes of a size: it rounds up to whole sectors."""
    return -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES
