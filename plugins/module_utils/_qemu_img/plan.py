# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be done: pure functions of what is declared and what was seen.

Every rule of idempotency is here, and only here.
"""

from __future__ import annotations

import os

from .._core.converge import Plan
from .._core.errors import BadInput, Refused
from .model import (
    Adopt,
    Amend,
    CommitDown,
    Copy,
    Create,
    Desired,
    Format,
    ImageInfo,
    Rebase,
    Rebuild,
    Record,
    Remove,
    Repair,
    RepairMode,
    Resize,
    Seed,
    Seen,
    SetBitmap,
    SetSnapshot,
    Source,
    SourceIdentity,
    Step,
    Sweep,
    SweepBelow,
)

# QEMU 7.2 resizes only these in place; the others go through a conversion.
RESIZABLE = (Format.RAW, Format.QCOW2)
# `qemu-img amend` changes these; the rest of the visible options need a conversion.
AMENDABLE = ("compat", "lazy_refcounts", "refcount_bits", "data_file_raw")


def is_same_source(declared: Source, now: SourceIdentity | None, recorded: SourceIdentity | None) -> bool:
    """Whether the recorded seed is what ``source`` means today.

    Checksums by the same algorithm settle it. Else a file is the same by name or by inode, with the size and time it
    had: device numbers alone change at a reboot, and a name alone says nothing of the content. ``now`` is None when the
    source is gone or wasn't looked at.
    """
    if recorded is None:
        return False
    if declared.checksum is not None and recorded.checksum.startswith(declared.checksum[0] + ":"):
        return recorded.checksum == "%s:%s" % declared.checksum
    if declared.is_url:
        return False
    if now is None:
        return recorded.location == declared.shown
    if (now.size_bytes, now.mtime_ns) != (recorded.size_bytes, recorded.mtime_ns):
        return False
    return now.location == recorded.location or (now.device, now.inode) == (recorded.device, recorded.inode)


def arguments(desired: Desired) -> dict[str, str]:
    """What shaped the image besides its source and can't be read back from it; kept in the record."""
    shaped = {"options.%s" % name: value for name, value in desired.options.items()}
    if desired.source is not None:
        shaped["source_format"] = desired.source.format.value if desired.source.format else ""
        shaped["compress"] = "on" if desired.compress else "off"
    return shaped


def remembered(desired: Desired, seen: Seen) -> dict[str, str]:
    """The arguments that the next record will hold: what is declared now, over what was known of the image."""
    if not seen.exists or desired.source is not None or seen.record is None:
        return arguments(desired)
    return {**seen.record.arguments, **arguments(desired)}


def is_recorded(desired: Desired, seen: Seen) -> bool:
    """Whether the image is known to be made from the declared source with the declared arguments."""
    if desired.source is None or seen.record is None:
        return False
    now = seen.source.identity if seen.source else None
    if not is_same_source(desired.source, now, seen.record.source):
        return False
    return not _differing_arguments(desired, seen.record, seen.info)


def _differing_arguments(desired: Desired, record: Record, info: ImageInfo | None) -> list[str]:
    """Arguments that were others when the image was made, as far as the image itself doesn't show them."""
    visible = {"options.%s" % name for name in (info.options if info else {})}
    return sorted(
        name
        for name, value in arguments(desired).items()
        if name not in visible and name in record.arguments and record.arguments[name] != value
    )


def needs_source(desired: Desired, seen: Seen) -> bool:
    """Whether the source has to be read (its header, its checksum, and a comparison where the image exists)."""
    return desired.present and desired.source is not None and not is_recorded(desired, seen)


def plan(desired: Desired, seen: Seen) -> Plan[Step]:
    """Steps to the declared image, and its view afterwards.

    Raises BadInput or Refused for what can't or must not be done.
    """
    steps = _steps(desired, seen)
    if seen.left_below and seen.info is not None and seen.info.backing_file is not None:
        steps.insert(0, SweepBelow(os.path.join(os.path.dirname(desired.path), seen.info.backing_file)))
    if seen.leftovers:
        steps.insert(0, Sweep(seen.leftovers))
    if not steps:
        return Plan((), {})
    if seen.holders:
        _refuse_in_use(desired, seen, steps)
    if seen.info is not None and seen.info.encrypted and desired.encryption is None:
        _refuse_without_secret(desired, steps)
    if seen.other_files:
        _refuse_scattered(desired, seen, steps)
    from .predict import predicted

    return Plan(steps, predicted(desired, seen, steps))


def _steps(desired: Desired, seen: Seen) -> list[Step]:
    if not desired.present:
        return [Remove()] if seen.exists else []
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
        first = Create(desired.size_bytes or (seen.backing.virtual_size_bytes if seen.backing else None))
    elif desired.size_bytes is None:
        raise BadInput(
            "size", "%s is not there, and a new image needs a size" % desired.path, "Add size, source or backing_file"
        )
    else:
        first = Create(desired.size_bytes)
    return [first, *_inner(desired, (), ())]


def _seeded_size(desired: Desired, seen: Seen) -> int | None:
    """The new image's virtual size; None where only the download will tell."""
    content = seen.source.virtual_size_bytes if seen.source else None
    if desired.size_bytes is None or content is None:
        return desired.size_bytes or content
    if desired.size_bytes < content and not desired.allow_shrink:
        raise cut_off(desired, content)
    return desired.size_bytes


def cut_off(desired: Desired, content_bytes: int) -> Refused:
    """The refusal to make an image that is smaller than its source."""
    name = desired.source.shown if desired.source else "its source"
    return Refused(
        "make %s smaller than its source" % desired.path,
        "%s has %d bytes and size says %d" % (name, content_bytes, desired.size_bytes or 0),
        "State a size that holds it, or allow_shrink: true if its end is empty",
    )


def _existing(desired: Desired, seen: Seen) -> list[Step]:
    info = seen.info
    if info is None:
        return []
    seeding: list[Step] = []
    if desired.source is not None and not is_recorded(desired, seen):
        seeding = _seed_or_adopt(desired, seen, info)
        if isinstance(seeding[0], Seed):
            return [*seeding, *_inner(desired, (), ())]
    rebuild = _rebuild(desired, seen, info)
    if rebuild is not None:
        return [*seeding, rebuild, *_inner(desired, info.snapshots, info.bitmaps)]
    changes = [*_repair(desired, seen), *_changes(desired, seen, info)]
    if not all(_is_safe_in_place(change, info) for change in changes):
        changes.insert(0, Copy())
    return [*_commit(desired, seen, info), *changes, *seeding]


def _is_safe_in_place(change: Step, info: ImageInfo) -> bool:
    """Whether qemu-img can be killed, or its disk fail, at any moment of this change without tearing the image.

    Found by trying every system call of QEMU 7.2's: snapshots, rebases, shrinking a qcow2 and whatever opens a qcow2
    with bitmaps for writing all have moments in which the image is corrupt, or silently wrong.
    """
    if isinstance(change, Resize):
        return info.format is Format.RAW or not (change.shrinks or info.bitmaps)
    return isinstance(change, Amend) and not info.bitmaps


def _repair(desired: Desired, seen: Seen) -> list[Step]:
    if desired.repair is RepairMode.NONE or seen.check is None:
        return []
    if seen.check.corruptions and desired.repair is RepairMode.LEAKS:
        raise Refused(
            "repair %s" % desired.path,
            "it has %d corruptions, and repair: leaks doesn't mend those" % seen.check.corruptions,
            "Restore it from a backup, or try repair: all (on a copy, which replaces the image only if that worked)",
        )
    return [Repair(desired.repair)] if seen.check.leaks or seen.check.corruptions else []


def _commit(desired: Desired, seen: Seen, info: ImageInfo) -> list[Step]:
    """An overlay's data goes down first: all that follows concerns the overlay alone."""
    if not desired.commit or seen.commit_to is None:
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
    if info.format is desired.format:
        if seen.same_content:
            return [Adopt(compared=True)]
        if seen.same_content is None and not desired.force:
            return [Adopt(compared=False)]
    if desired.force:
        return [Seed(_seeded_size(desired, seen))]
    raise not_the_source(desired, seen.record, info)


def not_the_source(desired: Desired, record: Record | None, info: ImageInfo) -> Refused:
    """The refusal to overwrite an image whose content isn't the source's."""
    if info.format is not desired.format:
        why = "%s is there with format %s, not %s" % (desired.path, info.format.value, desired.format.value)
    elif record is None or record.source is None:
        why = "%s is there with another content, and nothing tells what it was made from" % desired.path
    elif desired.source is not None and _differing_arguments(desired, record, info):
        why = "%s was made with another %s" % (desired.path, ", ".join(_differing_arguments(desired, record, info)))
    else:
        why = "%s was made from %s, or from another state of it, and has another content" % (
            desired.path,
            record.source.location,
        )
    return Refused(
        "replace the image",
        why,
        "To keep it, leave source out of the task; to overwrite all that was written to it, use force: true",
        path=desired.path,
    )


def _rebuild(desired: Desired, seen: Seen, info: ImageInfo) -> Rebuild | None:
    """A conversion of the image into itself, where the declared differs in what can't be changed in place."""
    reasons = _rebuild_reasons(desired, seen, info)
    size = desired.size_bytes or info.virtual_size_bytes
    resizes = size != info.virtual_size_bytes and desired.format not in RESIZABLE
    if not reasons and not resizes:
        return None
    if reasons and not desired.force:
        raise Refused(
            "change %s" % desired.path,
            "; ".join(reasons) + ", which needs a conversion",
            "Declare it as it is, or use force: true (its content is kept)",
        )
    _refuse_shrink(desired, info, size)
    losses = [name for name, lost in _lost_by_conversion(desired, info) if lost]
    if losses:
        raise Refused(
            "convert %s" % desired.path,
            "it would lose its %s" % " and its ".join(losses),
            "Remove those first (snapshots: and bitmaps: with state: absent, backing_file: '' to make it stand alone)",
        )
    return Rebuild(size, size < info.virtual_size_bytes)


def _rebuild_reasons(desired: Desired, seen: Seen, info: ImageInfo) -> list[str]:
    reasons = []
    if info.format is not desired.format:
        reasons.append("its format is %s, not %s" % (info.format.value, desired.format.value))
        return reasons
    if desired.encryption is not None and not info.encrypted:
        reasons.append("it isn't encrypted")
    for name, wanted in desired.options.items():
        actual = info.options.get(name)
        if actual is not None and actual != wanted and name not in AMENDABLE:
            reasons.append("its %s is %s, not %s" % (name, actual, wanted))
    if seen.record is not None and desired.source is None:
        reasons += ["it was made with another %s" % name for name in _differing_arguments(desired, seen.record, info)]
    return reasons


def _lost_by_conversion(desired: Desired, info: ImageInfo) -> tuple[tuple[str, bool], ...]:
    return (
        ("snapshots", bool(info.snapshots)),
        ("bitmaps", bool(info.bitmaps)),
        ("backing file", info.backing_file is not None),
        ("encryption", info.encrypted and desired.encryption is None),
    )


def _refuse_shrink(desired: Desired, info: ImageInfo, size: int) -> None:
    if size < info.virtual_size_bytes and not desired.allow_shrink:
        raise Refused(
            "shrink %s" % desired.path,
            "it has %d bytes and size says %d, so what lies behind would be lost" % (info.virtual_size_bytes, size),
            "Shrink the file systems in it first, then add allow_shrink: true",
        )


def _changes(desired: Desired, seen: Seen, info: ImageInfo) -> list[Step]:
    """Changes of one existing image that keep its format, in the order in which they fit."""
    steps: list[Step] = []
    if desired.backing is not None and not seen.backing_is_current:
        steps.append(Rebase(desired.backing, seen.backing.format if seen.backing else None))
    size = desired.size_bytes or info.virtual_size_bytes
    if size != info.virtual_size_bytes:
        _refuse_shrink(desired, info, size)
        steps.append(Resize(size, size < info.virtual_size_bytes))
    amended = {
        name: value
        for name, value in desired.options.items()
        if info.options.get(name, value) != value and name in AMENDABLE
    }
    if amended:
        steps.append(Amend(tuple(sorted(amended.items()))))
    return steps + _inner(desired, info.snapshots, info.bitmaps)


def _inner(desired: Desired, snapshots: tuple[str, ...], bitmaps: tuple[str, ...]) -> list[Step]:
    """Snapshots and bitmaps that are missing or too many.

    QEMU takes a second snapshot of the same name, and deletes one at a time: look first.
    """
    steps: list[Step] = []
    for snapshot in desired.snapshots:
        there = snapshots.count(snapshot.name)
        times = int(there == 0) if snapshot.present else there
        steps += [SetSnapshot(snapshot.name, snapshot.present)] * times
    for bitmap in desired.bitmaps:
        if bitmap.present != (bitmap.name in bitmaps):
            steps.append(SetBitmap(bitmap))
    # What is taken away first makes room and can't be in the way.
    return sorted(steps, key=lambda step: step.present if isinstance(step, SetSnapshot) else True)


def _refuse_in_use(desired: Desired, seen: Seen, steps: list[Step]) -> None:
    """Nothing is done to an image that somebody has open, but for what leaves it alone."""
    if all(isinstance(step, (Sweep, SweepBelow, Adopt)) for step in steps):
        return
    holders = ", ".join(
        "%s (pid %d)" % (holder.name, holder.pid) if holder.pid else holder.name for holder in seen.holders
    )
    verb = "remove" if any(isinstance(step, Remove) for step in steps) else "change"
    raise Refused(
        "%s %s" % (verb, desired.path),
        "it is in use by %s" % holders,
        "Shut that machine down first (qemu_guest_shutdown), then run the task again",
        path=desired.path,
        holders=[{"pid": holder.pid, "name": holder.name} for holder in seen.holders],
    )


def _refuse_without_secret(desired: Desired, steps: list[Step]) -> None:
    """qemu-img opens an encrypted image for no change without its secret."""
    if any(isinstance(step, (Create, Seed)) for step in steps):
        return
    if not all(isinstance(step, (Sweep, SweepBelow, Adopt, Remove)) for step in steps):
        raise BadInput(
            "encrypt", "%s is encrypted, and no change is possible without its passphrase" % desired.path, "Give it"
        )


def _refuse_scattered(desired: Desired, seen: Seen, steps: list[Step]) -> None:
    """An image's header names the files that hold its data: whoever wrote it would have us change or read any file."""
    if any(isinstance(step, (Create, Seed)) for step in steps):
        return
    if all(isinstance(step, (Sweep, SweepBelow, Adopt, Remove)) for step in steps):
        return
    raise Refused(
        "change %s" % desired.path,
        "it keeps its data in other files: %s" % ", ".join(seen.other_files),
        "Make one image of it first: another path with it as source, and allow_references: true if you trust its maker",
        path=desired.path,
    )


def view(desired: Desired, seen: Seen) -> dict[str, object]:
    """The managed part of what was seen: what the task declares, and what it can do something about."""
    shown: dict[str, object] = {"path": desired.path, "state": "present" if seen.exists else "absent"}
    if seen.leftovers or seen.left_below:
        shown["leftovers"] = [*seen.leftovers, *seen.left_below]
    info = seen.info
    if info is None:
        return shown
    shown.update(format=info.format.value, virtual_size=info.virtual_size_bytes)
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
    )
    shown.update((key, value) for is_declared, key, value in declared if is_declared)
    return shown


def _shown_options(desired: Desired, info: ImageInfo, record: Record | None) -> dict[str, str]:
    """The declared options as the image shows them, or else as the record has them."""
    recorded = record.arguments if record else {}
    shown = {name: info.options.get(name, recorded.get("options.%s" % name)) for name in desired.options}
    return {name: value for name, value in shown.items() if value is not None}


def _seed_name(desired: Desired, seen: Seen) -> str:
    if desired.source is not None and is_recorded(desired, seen):
        return desired.source.shown
    return "another source or arguments" if seen.record and seen.record.source else "unknown"
