# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be done: from the differences (differences.py) to the steps, pure functions of what is declared and what
was seen.
"""

from __future__ import annotations

from .._core.converge import Plan
from .._core.errors import BadInput, Refused
from .differences import (
    RESIZABLE,
    amended,
    is_locked,
    is_made_otherwise,
    is_rebased,
    is_recorded,
    is_resized,
    is_unproved,
    needs_repair,
    rebuild_reasons,
    unlike,
)
from .keep import kept_shape
from .limits import refuse_unfit
from .model import Desired, Format, ImageInfo, RepairMode, Seen
from .options import check_values, is_preallocated
from .predict import predicted
from .refusals import (
    cut_off,
    lost_by_conversion,
    not_the_source,
    refuse_in_use,
    refuse_led_out,
    refuse_marked,
    refuse_scattered,
    refuse_shrink,
    refuse_unclosed_source,
    refuse_without_secret,
    unclosed,
)
from .steps import (
    Adopt,
    Amend,
    CommitDown,
    Copy,
    Create,
    Rebase,
    Rebuild,
    Remove,
    Repair,
    Resize,
    Seed,
    SetBitmap,
    SetSnapshot,
    Step,
    Sweep,
    SweepBelow,
)


def plan(desired: Desired, seen: Seen) -> Plan[Step]:
    """Steps to the declared image, and its view afterwards.

    Raises BadInput or Refused for what can't or must not be done.
    """
    steps = _steps(desired, seen)
    if seen.left_below:
        steps.insert(0, SweepBelow(seen.below))
    if seen.leftovers:
        steps.insert(0, Sweep(seen.leftovers))
    if not steps:
        return Plan((), {})
    if seen.holders:
        refuse_in_use(desired, seen, steps)
    if seen.info is not None and is_locked(desired, seen.info):
        refuse_without_secret(desired, steps)
    if seen.leads_out:
        refuse_led_out(desired, seen, steps)
    if seen.other_files:
        refuse_scattered(desired, seen, steps)
    if seen.info is not None:
        refuse_marked(desired, seen.info, steps)
    refuse_unfit(desired, seen, steps)
    if seen.source is not None and any(isinstance(step, Seed) for step in steps):
        refuse_unclosed_source(desired, seen.source)
    return Plan(steps, predicted(desired, seen, steps))


def _steps(desired: Desired, seen: Seen) -> list[Step]:
    if not desired.present:
        return [Remove(seen.extents)] if seen.exists else []
    if not seen.exists:
        return _new(desired, seen)
    return _existing(desired, seen)


def _new(desired: Desired, seen: Seen) -> list[Step]:
    first: Step
    if desired.source is not None:
        if seen.source_gone:
            raise BadInput("source", "%s is not there" % desired.source.shown, "Correct the path")
        first = Seed(_seeded_size(desired, seen))
    elif desired.backing is not None and desired.backing.stored:
        _refuse_preallocated_overlay(desired)
        first = Create(desired.size_bytes or (seen.backing.virtual_size_bytes if seen.backing else None))
    elif desired.size_bytes is None:
        raise BadInput(
            "size", "%s is not there, and a new image needs a size" % desired.path, "Add size, source or backing_file"
        )
    else:
        if desired.commit:
            raise BadInput(
                "commit",
                "%s is not there, and has nothing to commit" % desired.path,
                "Add backing_file, or leave it out",
            )
        first = Create(desired.size_bytes)
    return [first, *_inner(desired, (), ())]


def _refuse_preallocated_overlay(desired: Desired) -> None:
    if is_preallocated(desired.options) and desired.options.get("extended_l2") != "on":
        raise BadInput(
            "options.preallocation",
            "a new overlay can only be preallocated with extended_l2",
            "Add extended_l2: true, or leave preallocation out",
        )


def _seeded_size(desired: Desired, seen: Seen) -> int | None:
    """The new image's virtual size; None where only the download will tell."""
    content = seen.source.virtual_size_bytes if seen.source else None
    if desired.size_bytes is None or content is None:
        return desired.size_bytes or content
    if desired.size_bytes < content and not desired.allow_shrink:
        raise cut_off(desired, content)
    return desired.size_bytes


def _existing(desired: Desired, seen: Seen) -> list[Step]:
    info = seen.info
    if info is None:
        return []
    seeding: list[Step] = []
    if desired.source is not None and not is_recorded(desired, seen):
        seeding = _seed_or_adopt(desired, seen, info)
        if isinstance(seeding[0], Seed):
            return [*seeding, *_inner(desired, (), ())]
    elif is_unproved(desired, seen):
        seeding = [Adopt(compared=True)]  # with the checksum, which was compared when the source was looked at
    rebuild = _rebuild(desired, seen, info)
    if rebuild is not None:
        inner = _inner(desired, info.snapshots, info.bitmaps)
        return [*_mended_first(desired, seen, info), *seeding, rebuild, *_rebase(desired, seen), *inner]
    repair, commit = _repair(desired, seen), _commit(desired, seen, info)
    if repair and commit:  # what is damaged must not go down
        commit, repair = [Copy(), *repair, *commit], []
    changes = [*repair, *_changes(desired, seen, info)]
    if not all(_is_safe_in_place(change, info) for change in changes):
        changes.insert(0, Copy())
    return [*commit, *changes, *seeding]


def _is_safe_in_place(change: Step, info: ImageInfo) -> bool:
    """Whether qemu-img can be killed, or its disk fail, at any moment of this change without tearing the image.

    Found by trying every system call of QEMU 7.2's: snapshots, rebases, shrinking a qcow2 and whatever opens a qcow2
    with bitmaps for writing all have moments in which the image is corrupt, or silently wrong.
    """
    if isinstance(change, Resize):
        return info.format is Format.RAW or not (change.shrinks or info.bitmaps or change.preallocation != "off")
    return isinstance(change, Amend) and not info.bitmaps


def _repair(desired: Desired, seen: Seen) -> list[Step]:
    if seen.check is None or not needs_repair(desired, seen):
        return []
    if seen.check.corruptions and desired.repair is RepairMode.LEAKS:
        if seen.holders:
            return [Repair(desired.repair)]  # refused for that: what a check finds beside whoever writes says nothing
        if seen.info is not None and seen.info.dirty:
            raise unclosed("repair %s" % desired.path, "Use repair: all, which counts anew, on a copy")
        raise Refused(
            "repair %s" % desired.path,
            "it has %d corruptions, and repair: leaks doesn't mend those" % seen.check.corruptions,
            "Restore it from a backup, or try repair: all (on a copy, which replaces the image only if that worked)",
        )
    return [Repair(desired.repair)]


def _mended_first(desired: Desired, seen: Seen, info: ImageInfo) -> list[Step]:
    """A repair before a conversion, which takes over what is damaged; leaks it leaves behind by itself."""
    repair = _repair(desired, seen)
    is_damaged = info.dirty or info.corrupt or (seen.check is not None and seen.check.corruptions > 0)
    return [Copy(), *repair] if repair and is_damaged else []


def _commit(desired: Desired, seen: Seen, info: ImageInfo) -> list[Step]:
    """An overlay's data goes down before its changes: they concern the overlay alone."""
    if not desired.commit:
        return []
    if is_rebased(desired, seen):  # else the next run would commit the backing files' differences as well
        raise Refused(
            "commit %s" % desired.path,
            "it lies over %s, and backing_file names another" % (info.backing_file or "no other image"),
            "Commit it first, and give it the other backing file in a task of its own",
        )
    if seen.commit_to is None:
        return []
    losses = [name for name, lost in (("snapshots", info.snapshots), ("bitmaps", info.bitmaps)) if lost]
    if info.encrypted and desired.encryption is None:
        losses.append("encryption")
    if losses:
        raise Refused(
            "commit %s" % desired.path,
            "the emptied overlay would lose its %s" % " and its ".join(losses),
            "Remove those first (with state: absent), or give encrypt",
        )
    base = seen.commit_to
    if base.other_files:
        raise Refused(
            "commit %s" % desired.path,
            "its backing file keeps its data in other files: %s" % ", ".join(base.other_files),
            "Convert the backing file into one that stands alone first",
        )
    if base.format not in RESIZABLE and base.virtual_size_bytes < info.virtual_size_bytes:
        raise Refused(
            "commit %s" % desired.path,
            "its backing file has %d bytes, fewer than its own %d, and format %s can't grow in place"
            % (base.virtual_size_bytes, info.virtual_size_bytes, base.format.value),
            "Grow the backing file first (qemu_img with size), then run the task again",
        )
    return [CommitDown(base, in_place=base.plain and base.format in RESIZABLE)]


def _seed_or_adopt(desired: Desired, seen: Seen, info: ImageInfo) -> list[Step]:
    """The image is there, and nothing proves that this source was its seed."""
    if desired.source is None:
        return []
    if seen.source_gone:
        raise BadInput(
            "source",
            "%s is not there, and %s isn't recorded as made from it" % (desired.source.shown, desired.path),
            "Correct the path, or leave source out to keep the image as it is",
        )
    if info.format is desired.format and not (desired.force and is_made_otherwise(desired, seen)):
        if seen.same_content:
            return [Adopt(compared=True)]
        if is_locked(desired, info) and not desired.force:
            raise BadInput(
                "encrypt",
                "%s is encrypted, and can't be compared with the source without its passphrase" % desired.path,
                "Give it, or leave source out to keep the image; force: true makes it anew, and not encrypted",
            )
        if seen.same_content is None and not desired.force:
            return [Adopt(compared=False)]
    if desired.force:
        return [Seed(_seeded_size(desired, seen))]
    raise not_the_source(desired, seen.record, info)


def _rebuild(desired: Desired, seen: Seen, info: ImageInfo) -> Rebuild | None:
    """A conversion of the image into itself, where the declared differs in what can't be changed in place."""
    reasons = rebuild_reasons(desired, seen, info)
    size = desired.size_bytes or info.virtual_size_bytes
    if not reasons and not (is_resized(desired, info) and desired.format not in RESIZABLE):
        return None
    if reasons and not desired.force:
        raise Refused(
            "change %s" % desired.path,
            "; ".join(reasons) + ", which needs a conversion",
            "Declare it as it is, or use force: true (its content is kept)",
        )
    refuse_shrink(desired, info, size)
    losses = [name for name, lost in lost_by_conversion(desired, info) if lost]
    if losses:
        raise Refused(
            "convert %s" % desired.path,
            "it would lose its %s" % " and its ".join(losses),
            "Remove those first (snapshots: and bitmaps: with state: absent, backing_file: '' to make it stand alone)",
        )
    check_values(desired.format, kept_shape(desired, seen).options)
    return Rebuild(size, size < info.virtual_size_bytes)


def _changes(desired: Desired, seen: Seen, info: ImageInfo) -> list[Step]:
    """Changes of one existing image that keep its format, in the order in which they fit."""
    steps = _rebase(desired, seen)
    size = desired.size_bytes
    if size is not None and is_resized(desired, info):
        refuse_shrink(desired, info, size)
        shrinks = size < info.virtual_size_bytes
        mode = kept_shape(desired, seen).options.get("preallocation", "off")
        steps.append(Resize(size, shrinks, "off" if shrinks else mode))
    options = amended(desired, info)
    if options:
        steps.append(Amend(tuple(sorted(options.items()))))
    return steps + _inner(desired, info.snapshots, info.bitmaps)


def _rebase(desired: Desired, seen: Seen) -> list[Step]:
    if desired.backing is None or not is_rebased(desired, seen):
        return []
    return [Rebase(desired.backing, seen.backing.format if seen.backing else None)]


def _inner(desired: Desired, snapshots: tuple[str, ...], bitmaps: tuple[str, ...]) -> list[Step]:
    """Snapshots and bitmaps that are missing or too many.

    QEMU takes a second snapshot of the same name, and deletes one at a time: look first.
    """
    steps: list[Step] = []
    for snapshot in unlike(desired.snapshots, snapshots):
        times = 1 if snapshot.present else snapshots.count(snapshot.name)
        steps += [SetSnapshot(snapshot.name, snapshot.present)] * times
    steps += [SetBitmap(bitmap) for bitmap in unlike(desired.bitmaps, bitmaps)]
    # What is taken away first makes room and can't be in the way.
    return sorted(steps, key=lambda step: step.present if isinstance(step, SetSnapshot) else True)
