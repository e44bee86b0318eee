# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What qemu-img prints, as values. Unknown fields are ignored; a missing one is an error that shows the text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .._core.errors import LifecycleError
from .differences import READABLE_ENCRYPTION
from .found import CheckResult
from .model import Format, ImageInfo


def _load(text: str, of: str, part: str | None = None) -> Any:
    """``part`` of what was printed, or all of it; an error shows ``text``."""
    try:
        return json.loads(text if part is None else part)
    except ValueError:
        raise LifecycleError("qemu-img's %s could not be understood. It printed: %s" % (of, text[:2000])) from None


@contextmanager
def _complete(text: str, of: str) -> Iterator[None]:
    """What the block misses, or finds to be of another kind, becomes an error that shows the text."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LifecycleError("qemu-img's %s lacks %s. It printed: %s" % (of, error, text[:2000])) from None


def parse_info(text: str) -> ImageInfo:
    """`qemu-img info --output=json` of one image."""
    data = _load(text, "info")
    with _complete(text, "info"):
        specific: Mapping[str, Any] = data.get("format-specific", {}).get("data", {})
        return ImageInfo(
            format=Format(data["format"]),
            virtual_size_bytes=data["virtual-size"],
            actual_size_bytes=data["actual-size"],
            backing_file=data.get("backing-filename"),
            backing_format=data.get("backing-filename-format"),
            encrypted=bool(data.get("encrypted", False)),
            dirty=bool(data.get("dirty-flag", False)),
            corrupt=bool(specific.get("corrupt", False)),
            options=_visible_options(data, specific),
            snapshots=tuple(snapshot["name"] for snapshot in data.get("snapshots", ())),
            bitmaps=tuple(bitmap["name"] for bitmap in specific.get("bitmaps", ())),
        )


def _visible_options(data: Mapping[str, Any], specific: Mapping[str, Any]) -> dict[str, str]:
    """Creation options that an image shows afterwards, by the names that `-o` gives them."""
    kind = data["format"]
    if kind == "qcow2":
        names = (
            "compat",
            "lazy-refcounts",
            "refcount-bits",
            "extended-l2",
            "compression-type",
            "data-file",
            "data-file-raw",
        )
        options = {name.replace("-", "_"): _plain(specific[name]) for name in names if name in specific}
        options["cluster_size"] = str(data["cluster-size"])
        # QEMU leaves out what an old header can't have.
        for name in ("lazy_refcounts", "extended_l2", "data_file_raw"):
            options.setdefault(name, "off")
        encryption = specific.get("encrypt", {})
        options.update(
            {"encrypt.%s" % name: str(encryption[name]) for name in READABLE_ENCRYPTION if name in encryption}
        )
        return options
    if kind == "vmdk":
        return {"subformat": specific["create-type"]} if "create-type" in specific else {}
    if kind == "vhdx" and "cluster-size" in data:
        return {"block_size": str(data["cluster-size"])}
    return {}


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def parse_check(text: str) -> CheckResult:
    """`qemu-img check --output=json`; a format that can't be checked never gets here (exit 63)."""
    data = _load(text, "check")
    with _complete(text, "check"):
        return CheckResult(
            corruptions=int(data.get("corruptions", 0)) + int(data["check-errors"]), leaks=int(data.get("leaks", 0))
        )


def parse_measure(text: str) -> int:
    """Bytes that a convert will need, by `qemu-img measure --output=json`."""
    data = _load(text, "measure")
    with _complete(text, "measure"):
        return int(data["required"])


class MapReader:
    """`qemu-img map --output=json`, which prints an extent a line, added up while it comes: a fragmented image has
    millions of extents.

    ``summary`` has bytes of data, of explicit zeros and of nothing, and extents. ``holds_data``: the topmost image
    holds anything itself (zeros that hide the backing file count).
    """

    def __init__(self) -> None:
        self.summary = {"data": 0, "zero": 0, "unallocated": 0, "extents": 0}
        self.holds_data = False
        self._rest = b""
        self._last = b""

    def feed(self, piece: bytes) -> None:
        """The next piece of what is printed. Raises LifecycleError."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._take(line)

    def finish(self) -> None:
        """All has come. Raises LifecycleError for a list that was cut off."""
        rest, self._rest = self._rest, b""
        self._take(rest)
        if not self._last.endswith(b"]"):
            _load(self._last.decode("utf-8", "replace"), "map", "")

    def _take(self, line: bytes) -> None:
        self._last = line.strip() or self._last
        text = line.decode("utf-8", "replace")
        extent = text.strip().lstrip("[").rstrip("],")
        if not extent:
            return
        with _complete(text, "map"):
            self.take(_load(text, "map", extent))

    def take(self, extent: Mapping[str, Any]) -> None:
        """One extent, as qemu-img describes it."""
        self.summary[_kind(extent)] += int(extent["length"])
        self.summary["extents"] += 1
        own = extent["depth"] == 0 and (extent["data"] or extent["zero"]) and extent.get("present", True)
        self.holds_data = self.holds_data or bool(own)


def _kind(extent: Mapping[str, Any]) -> str:
    if extent["data"] and not extent["zero"]:
        return "data"
    return "zero" if extent.get("present", True) else "unallocated"
