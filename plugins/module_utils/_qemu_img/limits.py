# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a format can't hold or have, told before qemu-img says it: in check mode too, and in our own words.

The bounds are those of QEMU 7.2's block drivers.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._core.errors import BadInput, Refused
from .keep import kept_shape
from .model import Desired, Format, ImageInfo, Seen
from .options import check_values
from .steps import Amend, Create, Rebuild, Resize, Seed, SetBitmap, Step

_LARGEST_BYTES = {
    Format.VMDK: 1 << 50,
    Format.VDI: 0x1FFFFF8000000,
    Format.VHDX: 64 << 40,
    Format.VPC: 2040 << 30,
}
_QCOW2_FIRST_TABLE_ENTRIES = (32 << 20) // 8
# What else of an image decides whether it can have an old header, or have something with it.
_BOUND_TO_VERSION = ("compat", "extended_l2", "refcount_bits")


def largest_bytes(image_format: Format, options: Mapping[str, str]) -> int | None:
    """The largest virtual size of an image with these creation options; None where its file system decides."""
    if image_format is not Format.QCOW2:
        return _LARGEST_BYTES.get(image_format)
    cluster_bytes = int(options.get("cluster_size", 65536))
    entry_bytes = 16 if options.get("extended_l2") == "on" else 8
    return _QCOW2_FIRST_TABLE_ENTRIES * (cluster_bytes // entry_bytes) * cluster_bytes


def refuse_unfit(desired: Desired, seen: Seen, steps: list[Step]) -> None:
    """Raise BadInput or Refused for steps to what the format can't be."""
    is_new = any(isinstance(step, (Create, Seed)) for step in steps)
    options = desired.options if is_new else kept_shape(desired, seen).options
    for step in steps:
        if isinstance(step, (Create, Seed, Rebuild, Resize)):
            refuse_too_large(desired, options, step)
    if seen.info is not None and not is_new:
        _refuse_for_old_header(desired, seen.info, steps)
    if options.get("compat") == "0.10" and any(isinstance(step, SetBitmap) and step.bitmap.present for step in steps):
        raise BadInput("bitmaps", "an image with compat 0.10 can't have any", "Use options with compat: 1.1")


def refuse_too_large(desired: Desired, options: Mapping[str, str], step: Create | Seed | Rebuild | Resize) -> None:
    """Raise BadInput for a virtual size that no image of the declared format and ``options`` can have."""
    largest = largest_bytes(desired.format, options)
    if step.size_bytes is None or largest is None or step.size_bytes <= largest:
        return
    option, whose, remedy = _origin_of_size(desired, step)
    raise BadInput(
        option,
        "%s%d bytes are more than format %s can hold (%d)" % (whose, step.size_bytes, desired.format.value, largest),
        remedy + (", or use a larger cluster_size" if desired.format is Format.QCOW2 else ""),
    )


def _origin_of_size(desired: Desired, step: Create | Seed | Rebuild | Resize) -> tuple[str, str, str]:
    """The option from which a size comes, whose size it is, and what to do about it."""
    if desired.size_bytes is not None:
        return "size", "", "Write a smaller size"
    if isinstance(step, Seed) and desired.source is not None:
        remedy = "Use another format, or a smaller size with allow_shrink: true if its end is empty"
        return "source", "%s is too large: its " % desired.source.shown, remedy
    if isinstance(step, Create) and desired.backing is not None:
        return "backing_file", "%s is too large: its " % desired.backing.path, "Write a smaller size"
    option = "options" if desired.format is Format.QCOW2 else "format"  # a qcow2's clusters bound it
    remedy = "Keep the image as it is, or write a smaller size with allow_shrink: true if its end is empty"
    return option, "the image is too large: its ", remedy


def _refuse_for_old_header(desired: Desired, info: ImageInfo, steps: list[Step]) -> None:
    if info.options.get("compat") == "0.10" and info.snapshots and any(isinstance(step, Resize) for step in steps):
        raise Refused(
            "resize %s" % desired.path,
            "it has compat 0.10 and snapshots",
            "Give it options with compat: 1.1 first, by a task of its own, or remove the snapshots",
        )
    amended = [dict(step.options) for step in steps if isinstance(step, Amend)]
    if not amended:
        return
    shown = {name: value for name, value in info.options.items() if name in _BOUND_TO_VERSION}
    check_values(desired.format, {**shown, **desired.options})
    if amended[0].get("compat") == "0.10" and info.bitmaps:
        raise Refused(
            "give %s compat 0.10" % desired.path,
            "it would lose its bitmaps: %s" % ", ".join(info.bitmaps),
            "Remove those first, by a task of its own (bitmaps with state: absent)",
        )
