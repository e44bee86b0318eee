# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task shows of an image: the managed part, compared for ``changed`` and printed by ``--diff``."""

from __future__ import annotations

from .differences import is_recorded, shown_encryption
from .model import Desired, ImageInfo, Record, Seen


def view(desired: Desired, seen: Seen) -> dict[str, object]:
    """The managed part of what was seen: what the task declares, and what it can do something about."""
    shown: dict[str, object] = {"path": desired.path, "state": "present" if seen.exists else "absent"}
    if seen.leftovers or seen.left_below:
        shown["leftovers"] = [*seen.leftovers, *seen.left_below]
    if seen.extents:
        shown["extents"] = list(seen.extents)
    info = seen.info
    if info is None:
        return shown
    shown.update(format=info.format.value)
    if not seen.opened:
        return shown
    shown.update(virtual_size=info.virtual_size_bytes)
    backing = desired.backing.stored if desired.backing and seen.backing_is_current else info.backing_file or ""
    options = _shown_options(desired, info, seen.record)
    declared: tuple[tuple[bool, str, object], ...] = (
        (desired.source is not None, "made_from", _seed_name(desired, seen)),
        (desired.backing is not None, "backing_file", backing),
        (bool(options), "options", options),
        (desired.encryption is not None, "encrypted", info.encrypted),
        (bool(desired.snapshots), "snapshots", sorted(info.snapshots)),
        (bool(desired.bitmaps), "bitmaps", sorted(info.bitmaps)),
        (desired.commit, "uncommitted_data", seen.commit_to is not None),
        (seen.check is not None, "check", seen.check._asdict() if seen.check else None),
        (seen.check is not None and info.dirty, "dirty", True),
        (seen.check is not None and info.corrupt, "corrupt", True),
    )
    shown.update((key, value) for is_declared, key, value in declared if is_declared)
    return shown


def _shown_options(desired: Desired, info: ImageInfo, record: Record | None) -> dict[str, str]:
    """The declared options as the image shows them, or else as the record has them."""
    recorded = record.arguments if record else {}
    declared = (*desired.options, *shown_encryption(desired))
    shown = {name: info.options.get(name, recorded.get("options.%s" % name)) for name in declared}
    return {name: value for name, value in shown.items() if value is not None}


def _seed_name(desired: Desired, seen: Seen) -> str:
    if desired.source is not None and is_recorded(desired, seen):
        return desired.source.shown
    return "another source or arguments" if seen.record and seen.record.source else "unknown"
