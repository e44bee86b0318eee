# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an image will look like after the steps of a plan: pure, and shown by the same function as what is seen."""

from __future__ import annotations

from .differences import AMENDABLE, shown_encryption
from .found import CheckResult
from .keep import declared_shape, kept_shape, remembered
from .model import CHECKED_FORMATS, Desired, Format, ImageInfo, Record, RepairMode, Seen
from .steps import (
    WHOLE,
    Adopt,
    Amend,
    CommitDown,
    Create,
    Rebuild,
    Repair,
    Resize,
    Seed,
    SetBitmap,
    SetSnapshot,
    Step,
)
from .view import view


def predicted(desired: Desired, seen: Seen, steps: list[Step]) -> dict[str, object]:
    """The view after the steps: what would be seen then, shown by the same function."""
    if not desired.present:
        return view(desired, Seen(exists=False))
    info = seen.info or _blank(desired)
    if any(isinstance(step, (Create, Seed)) for step in steps):
        info = _blank(desired)
    for step in steps:
        info = _after(info, step)
    if any(isinstance(step, (Create, Seed, Rebuild)) for step in steps):
        is_rebuilt = any(isinstance(step, Rebuild) for step in steps)
        options = (kept_shape(desired, seen) if is_rebuilt else declared_shape(desired)).options
        visible = {name: value for name, value in options.items() if name in _VISIBLE.get(desired.format, ())}
        visible.update(shown_encryption(desired))
        info = info._replace(format=desired.format, options=visible, encrypted=desired.encryption is not None)
    check = CheckResult(0, 0) if desired.repair is not RepairMode.NONE and desired.format in CHECKED_FORMATS else None
    after = seen._replace(
        exists=True,
        info=info,
        opened=True,
        leftovers=(),
        left_below=(),
        backing_is_current=True,
        commit_to=None,
        check=check,
    )
    if any(isinstance(step, (Adopt, CommitDown, *WHOLE)) for step in steps):
        after = after._replace(record=Record(desired.format, None, remembered(desired, seen, steps, seen.source), ""))
    shown = view(desired, after)
    if not info.virtual_size_bytes:  # only the download will tell
        shown.pop("virtual_size", None)
    if desired.source is not None:
        shown["made_from"] = desired.source.shown
    return shown


def _blank(desired: Desired) -> ImageInfo:
    """A new image, before any step."""
    return ImageInfo(desired.format, 0, 0, None, None, False, False, False, {}, (), ())


def _after(info: ImageInfo, step: Step) -> ImageInfo:
    """What a step makes of what an image shows."""
    if isinstance(step, (Create, Seed, Rebuild, Resize)):
        return info._replace(virtual_size_bytes=step.size_bytes or 0)
    if isinstance(step, Repair):
        return info._replace(dirty=False, corrupt=False)
    if isinstance(step, Amend):
        return info._replace(options={**info.options, **dict(step.options)})
    if isinstance(step, SetSnapshot):
        return info._replace(snapshots=_with(info.snapshots, step.name, step.present))
    if isinstance(step, SetBitmap):
        return info._replace(bitmaps=_with(info.bitmaps, step.bitmap.name, step.bitmap.present))
    return info


def _with(names: tuple[str, ...], name: str, present: bool) -> tuple[str, ...]:
    return (*(other for other in names if other != name), *((name,) if present else ()))


_VISIBLE = {
    Format.QCOW2: (*AMENDABLE, "cluster_size", "extended_l2", "compression_type"),
    Format.VMDK: ("subformat",),
    Format.VHDX: ("block_size",),
}
