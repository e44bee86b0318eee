# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks that are tortured: what lies there before, what is declared."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.torture.world import tool

MIB = 1 << 20
CLUSTER = 65536


class Scenario(NamedTuple):
    """One declared image.

    ``images`` are all images of the folder, with the formats in which they are to be read, before and after.
    ``in_place``: the change is made in the image itself, so that between old and new there may be an image that has
    the old content and another layout. ``flows``: data moves from one image to another, so only the views count.
    ``hides``: capabilities that are hidden from the module. ``mended``: between old and new there may be the old image,
    repaired.
    """

    name: str
    prepare: Callable[[Path], None]
    arguments: Mapping[str, Any]
    images: Mapping[str, str]
    in_place: bool = False
    flows: bool = False
    hides: str = ""
    mended: bool = False

    def given(self, folder: Path) -> dict[str, Any]:
        """The task's arguments."""
        places = ("path", "source")
        return {name: str(folder / value) if name in places else value for name, value in self.arguments.items()}


def _create(path: Path, image_format: str, size: int, *words: str) -> None:
    tool("qemu-img", "create", "-q", "-f", image_format, *words, path, str(size))


def _write(path: Path, image_format: str, pattern: int, offset: int, length: int) -> None:
    tool("qemu-io", "-f", image_format, "-c", f"write -P {pattern} {offset} {length}", path)


def _filled(name: str, image_format: str = "qcow2", size: int = 2 * MIB, *words: str) -> Callable[[Path], None]:
    """An image with some data and holes."""

    def prepare(folder: Path) -> None:
        _create(folder / name, image_format, size, *words)
        _write(folder / name, image_format, 0xA1, 0, 3 * CLUSTER)
        _write(folder / name, image_format, 0xA2, size // 2, 2 * CLUSTER)

    return prepare


def _nothing(folder: Path) -> None:
    assert folder.is_dir()


def _both(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def _snapshot(name: str, tag: str) -> Callable[[Path], None]:
    """A snapshot that the image has since left behind."""

    def prepare(folder: Path) -> None:
        tool("qemu-img", "snapshot", "-c", tag, folder / name)
        _write(folder / name, "qcow2", 0xB1, CLUSTER, CLUSTER)

    return prepare


def _bitmap(name: str, bitmap: str) -> Callable[[Path], None]:
    return lambda folder: tool("qemu-img", "bitmap", "--add", "-f", "qcow2", folder / name, bitmap) and None


def _written(name: str, image_format: str, pattern: int, offset: int, length: int) -> Callable[[Path], None]:
    return lambda folder: _write(folder / name, image_format, pattern, offset, length)


def _overlay(base_format: str, *options: str) -> Callable[[Path], None]:
    """disk.qcow2 over a base in this format, with data of its own in both."""

    def prepare(folder: Path) -> None:
        base = "base." + base_format
        _filled(base, base_format)(folder)
        # A relative name: the folder is copied.
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, *options, "-b", base, folder / "disk.qcow2")
        _write(folder / "disk.qcow2", "qcow2", 0xC1, CLUSTER, CLUSTER)
        _write(folder / "disk.qcow2", "qcow2", 0xC2, MIB // 2, CLUSTER)

    return prepare


def _entry_of_refcount(path: Path, cluster: int) -> int:
    """Where the reference count (16 bits) of a cluster lies: QEMU's docs/interop/qcow2.txt."""
    with path.open("rb") as file:
        file.seek(48)
        table = struct.unpack(">Q", file.read(8))[0]
        file.seek(table)
        block = struct.unpack(">Q", file.read(8))[0]
    return int(block) + 2 * cluster


def _set_refcount(path: Path, cluster: int, count: int) -> None:
    at = _entry_of_refcount(path, cluster)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(">H", count))


def _leak(name: str) -> Callable[[Path], None]:
    """Two clusters at the end that count as used and aren't."""

    def prepare(folder: Path) -> None:
        path = folder / name
        first = -(-path.stat().st_size // CLUSTER)
        os.truncate(path, (first + 2) * CLUSTER)
        for cluster in (first, first + 1):
            _set_refcount(path, cluster, 1)

    return prepare


def _corrupt(name: str) -> Callable[[Path], None]:
    """The last cluster is used and doesn't count as used."""

    def prepare(folder: Path) -> None:
        path = folder / name
        _set_refcount(path, -(-path.stat().st_size // CLUSTER) - 1, 0)

    return prepare


def _several_files(folder: Path) -> None:
    tool("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", folder / "disk.vmdk", "3G")


def _raw(name: str, size: int = 2 * MIB) -> Callable[[Path], None]:
    return _filled(name, "raw", size)


_DISK = {"disk.qcow2": "qcow2"}
_QCOW2 = _filled("disk.qcow2")
_SEEDED = {"source.raw": "raw", **_DISK}
_OVER_RAW = {"base.raw": "raw", **_DISK}
_OVER_QCOW2 = {"base.qcow2": "qcow2", **_DISK}
_XATTRS = "user_xattrs"

SCENARIOS = (
    Scenario("create-qcow2", _nothing, {"path": "disk.qcow2", "size": "4M"}, _DISK),
    Scenario("create-raw", _nothing, {"path": "disk.raw", "size": "4M", "format": "raw"}, {"disk.raw": "raw"}),
    Scenario("convert-raw-qcow2", _raw("source.raw"), {"path": "disk.qcow2", "source": "source.raw"}, _SEEDED),
    Scenario(
        "convert-raw-qcow2-grown-compared",
        _raw("source.raw"),
        {"path": "disk.qcow2", "source": "source.raw", "size": "4M", "verify": "compare"},
        _SEEDED,
    ),
    Scenario(
        "convert-qcow2-raw",
        _filled("source.qcow2"),
        {"path": "disk.raw", "source": "source.qcow2", "format": "raw"},
        {"source.qcow2": "qcow2", "disk.raw": "raw"},
    ),
    Scenario(
        "convert-without-attributes",
        _raw("source.raw"),
        {"path": "disk.qcow2", "source": "source.raw"},
        _SEEDED,
        hides=_XATTRS,
    ),
    Scenario(
        "overlay",
        _filled("base.qcow2"),
        {"path": "disk.qcow2", "backing_file": "base.qcow2", "backing_format": "qcow2"},
        _OVER_QCOW2,
    ),
    Scenario("resize-qcow2", _QCOW2, {"path": "disk.qcow2", "size": "4M"}, _DISK, in_place=True),
    Scenario(
        "resize-qcow2-with-bitmap",
        _both(_QCOW2, _bitmap("disk.qcow2", "changes")),
        {"path": "disk.qcow2", "size": "4M"},
        _DISK,
    ),
    Scenario(
        "resize-raw",
        _raw("disk.raw"),
        {"path": "disk.raw", "size": "4M", "format": "raw"},
        {"disk.raw": "raw"},
        in_place=True,
    ),
    Scenario(
        "shrink-raw",
        _raw("disk.raw"),
        {"path": "disk.raw", "size": "1M", "format": "raw", "allow_shrink": True},
        {"disk.raw": "raw"},
        in_place=True,
    ),
    Scenario("shrink-qcow2", _QCOW2, {"path": "disk.qcow2", "size": "1M", "allow_shrink": True}, _DISK),
    Scenario(
        "resize-vdi",
        _filled("disk.vdi", "vdi", 2 * MIB),
        {"path": "disk.vdi", "size": "4M", "format": "vdi"},
        {"disk.vdi": "vdi"},
    ),
    Scenario(
        "amend",
        _QCOW2,
        {"path": "disk.qcow2", "options": {"lazy_refcounts": True}},
        _DISK,
        in_place=True,
    ),
    Scenario(
        "amend-refcount-bits",
        _filled("disk.qcow2", "qcow2", 2 * MIB, "-o", "cluster_size=4096"),
        {"path": "disk.qcow2", "options": {"refcount_bits": 64}},
        _DISK,
        in_place=True,
    ),
    Scenario(
        "amend-refcount-bits-with-snapshot",
        _both(_QCOW2, _snapshot("disk.qcow2", "old")),
        {"path": "disk.qcow2", "options": {"refcount_bits": 8}},
        _DISK,
        in_place=True,
    ),
    Scenario(
        "amend-compat",
        _both(
            _filled("disk.qcow2", "qcow2", 2 * MIB, "-o", "lazy_refcounts=on"),
            # Zeros without room of their own: an old image has to write them.
            lambda folder: tool("qemu-io", "-f", "qcow2", "-c", "write -z 1536k 128k", folder / "disk.qcow2") and None,
        ),
        {"path": "disk.qcow2", "options": {"compat": "0.10"}},
        _DISK,
        in_place=True,
    ),
    Scenario("snapshot-create", _QCOW2, {"path": "disk.qcow2", "snapshots": [{"name": "new"}]}, _DISK),
    Scenario(
        "snapshot-delete",
        _both(_QCOW2, _snapshot("disk.qcow2", "old"), _snapshot("disk.qcow2", "kept")),
        {"path": "disk.qcow2", "snapshots": [{"name": "old", "state": "absent"}]},
        _DISK,
    ),
    Scenario(
        "snapshot-with-bitmap",
        _both(_QCOW2, _bitmap("disk.qcow2", "changes"), _snapshot("disk.qcow2", "old")),
        {"path": "disk.qcow2", "snapshots": [{"name": "new"}, {"name": "old", "state": "absent"}]},
        _DISK,
    ),
    Scenario("bitmap-add", _QCOW2, {"path": "disk.qcow2", "bitmaps": [{"name": "changes"}]}, _DISK),
    Scenario(
        "bitmap-remove",
        _both(_QCOW2, _bitmap("disk.qcow2", "changes"), _bitmap("disk.qcow2", "kept")),
        {"path": "disk.qcow2", "bitmaps": [{"name": "changes", "state": "absent"}]},
        _DISK,
    ),
    Scenario("commit-raw", _overlay("raw"), {"path": "disk.qcow2", "commit": True}, _OVER_RAW, flows=True),
    Scenario("commit-qcow2", _overlay("qcow2"), {"path": "disk.qcow2", "commit": True}, _OVER_QCOW2, flows=True),
    Scenario(
        "commit-qcow2-with-snapshot",
        _both(_overlay("qcow2"), _snapshot("base.qcow2", "old")),
        {"path": "disk.qcow2", "commit": True},
        _OVER_QCOW2,
        flows=True,
    ),
    Scenario("repair-leaks", _both(_QCOW2, _leak("disk.qcow2")), {"path": "disk.qcow2", "repair": "leaks"}, _DISK),
    Scenario(
        "repair-all",
        _both(_QCOW2, _corrupt("disk.qcow2")),
        {"path": "disk.qcow2", "repair": "all"},
        _DISK,
    ),
    Scenario(
        "repair-and-rebuild",
        _both(_QCOW2, _corrupt("disk.qcow2")),
        {"path": "disk.qcow2", "repair": "all", "options": {"cluster_size": 4096}, "force": True},
        _DISK,
        mended=True,
    ),
    Scenario(
        "rebase",
        _both(
            _overlay("qcow2"),
            _filled("other.qcow2"),
            _written("other.qcow2", "qcow2", 0xD1, 2 * CLUSTER, 4 * CLUSTER),
        ),
        {"path": "disk.qcow2", "backing_file": "other.qcow2"},
        {**_OVER_QCOW2, "other.qcow2": "qcow2"},
    ),
    Scenario("rebase-to-none", _overlay("qcow2"), {"path": "disk.qcow2", "backing_file": ""}, _OVER_QCOW2),
    Scenario(
        "seed-anew",
        _both(_raw("source.raw"), _QCOW2, _written("disk.qcow2", "qcow2", 0xE1, 0, MIB)),
        {"path": "disk.qcow2", "source": "source.raw", "force": True},
        _SEEDED,
    ),
    Scenario("rebuild", _QCOW2, {"path": "disk.qcow2", "options": {"cluster_size": 4096}, "force": True}, _DISK),
    Scenario("adopt", _both(_raw("source.raw"), _QCOW2), {"path": "disk.qcow2", "source": "source.raw"}, _SEEDED),
    Scenario(
        "adopt-without-attributes",
        _both(_raw("source.raw"), _QCOW2),
        {"path": "disk.qcow2", "source": "source.raw"},
        _SEEDED,
        hides=_XATTRS,
    ),
    Scenario("remove", _QCOW2, {"path": "disk.qcow2", "state": "absent"}, _DISK),
    Scenario(
        "remove-vmdk-of-several-files",
        _several_files,
        {"path": "disk.vmdk", "state": "absent"},
        # Each is there as it was or gone.
        {"disk.vmdk": "raw", "disk-s001.vmdk": "raw", "disk-s002.vmdk": "raw"},
    ),
    Scenario(
        "many-changes",
        _both(_QCOW2, _snapshot("disk.qcow2", "old"), _bitmap("disk.qcow2", "changes")),
        {
            "path": "disk.qcow2",
            "size": "4M",
            "options": {"lazy_refcounts": True},
            "snapshots": [{"name": "old", "state": "absent"}, {"name": "new"}],
            "bitmaps": [{"name": "second"}],
        },
        _DISK,
    ),
)
