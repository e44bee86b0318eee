# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What must not be done, or can't be, told before anything is touched."""

from __future__ import annotations

from .._core.errors import BadInput, Refused
from .differences import differing_arguments, is_locked
from .model import Desired, ImageInfo, Record, RepairMode, Seen, SourceSeen, Verify
from .steps import Adopt, Copy, Create, Remove, Repair, Seed, Step, Sweep, SweepBelow


def cut_off(desired: Desired, content_bytes: int) -> Refused:
    """The refusal to make an image that is smaller than its source."""
    name = desired.source.shown if desired.source else "its source"
    return Refused(
        "make %s smaller than its source" % desired.path,
        "%s has %d bytes and size says %d" % (name, content_bytes, desired.size_bytes or 0),
        "State a size that holds it, or allow_shrink: true if its end is empty",
    )


def not_the_source(desired: Desired, record: Record | None, info: ImageInfo) -> Refused:
    """The refusal to overwrite an image whose content isn't the source's."""
    if info.format is not desired.format:
        why = "%s is there with format %s, not %s" % (desired.path, info.format.value, desired.format.value)
    elif record is None or record.source is None:
        why = "%s is there with another content, and nothing tells what it was made from" % desired.path
    elif desired.source is not None and differing_arguments(desired, record, info):
        why = "%s was made with another %s" % (desired.path, ", ".join(differing_arguments(desired, record, info)))
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


def lost_by_conversion(desired: Desired, info: ImageInfo) -> tuple[tuple[str, bool], ...]:
    return (
        ("snapshots", bool(info.snapshots)),
        ("bitmaps", bool(info.bitmaps)),
        ("backing file", info.backing_file is not None),
        ("encryption", is_locked(desired, info)),
    )


def refuse_shrink(desired: Desired, info: ImageInfo, size: int) -> None:
    if size < info.virtual_size_bytes and not desired.allow_shrink:
        raise Refused(
            "shrink %s" % desired.path,
            "it has %d bytes and size says %d, so what lies behind would be lost" % (info.virtual_size_bytes, size),
            "Shrink the file systems in it first, then add allow_shrink: true",
        )


def refuse_in_use(desired: Desired, seen: Seen, steps: list[Step]) -> None:
    """Nothing is done to an image that somebody has open, but for what leaves it alone."""
    if all(isinstance(step, (Sweep, SweepBelow, Adopt)) for step in steps):
        return
    holders = ", ".join(holder.shown for holder in seen.holders)
    verb = "remove" if any(isinstance(step, Remove) for step in steps) else "change"
    raise Refused(
        "%s %s" % (verb, desired.path),
        "it is in use by %s" % holders,
        "Shut that machine down first (qemu_guest_shutdown), then run the task again",
        path=desired.path,
        holders=[{"pid": holder.pid, "name": holder.name} for holder in seen.holders],
    )


def without_secret(path: str, what: str) -> BadInput:
    """The refusal of what needs the content of an encrypted image, without its passphrase."""
    return BadInput(
        "encrypt", "%s is encrypted, and no %s is possible without its passphrase" % (path, what), "Give it"
    )


def refuse_look(desired: Desired, info: ImageInfo) -> None:
    """qemu-img looks into an encrypted image neither for faults nor for data of its own without its secret."""
    if desired.repair is not RepairMode.NONE:
        raise without_secret(desired.path, "repair")
    if desired.commit and info.backing_file is not None:
        raise without_secret(desired.path, "commit")


def refuse_without_secret(desired: Desired, steps: list[Step]) -> None:
    """qemu-img opens an encrypted image for no change without its secret."""
    if any(isinstance(step, (Create, Seed)) for step in steps):
        return
    if not all(isinstance(step, (Sweep, SweepBelow, Adopt, Remove)) for step in steps):
        raise without_secret(desired.path, "change")


def unclosed(operation: str, remedy: str) -> Refused:
    """The refusal of an image that whoever wrote it last didn't close: a check can't tell that from damage."""
    return Refused(
        operation,
        "it was not closed properly (dirty), so its counts of clusters in use are out of date; its content is whole "
        "unless it was damaged otherwise",
        remedy,
    )


def refuse_marked(desired: Desired, info: ImageInfo, steps: list[Step]) -> None:
    """An image that QEMU has marked is mended before anything else is done to its content."""
    changes = [step for step in steps if not isinstance(step, (Sweep, SweepBelow, Adopt, Copy))]
    if not changes or isinstance(changes[0], (Create, Seed, Remove, Repair)):
        return
    if info.corrupt:
        raise Refused(
            "change %s" % desired.path,
            "QEMU has marked it as corrupt, and opens it for no change",
            "Mend it first, by a task with repair: all (on a copy, which replaces the image only if that worked), or "
            "restore it from a backup",
        )
    if info.dirty and desired.verify is not Verify.NONE:
        raise unclosed(
            "change %s" % desired.path,
            "Mend it first, by a task with repair: all, which counts anew, on a copy; a machine that starts with it "
            "does so too",
        )


def refuse_unclosed_source(desired: Desired, source: SourceSeen) -> None:
    """Of a source that was not closed properly nobody can say that it is sound."""
    if source.dirty and desired.verify is not Verify.NONE:
        name = desired.source.shown if desired.source else "its source"
        raise unclosed(
            "use %s" % name,
            "Mend it first, by a task with that path and repair: all; or use verify: none, to take it as it is",
        )


def led_out(operation: str, name: str) -> Refused:
    """The refusal to open what is below an image: whoever wrote its header would have this host connect anywhere."""
    return Refused(
        operation,
        "below it is %s, which is no disk image's name: QEMU may take it for a protocol, or wait for it" % name,
        "If you trust its maker, change it with qemu-img yourself, or let its header name a file (qemu-img rebase -u)",
    )


def refuse_led_out(desired: Desired, seen: Seen, steps: list[Step]) -> None:
    """qemu-img opens all that is below an image, for any change of it and to compare it."""
    if any(isinstance(step, (Create, Seed)) for step in steps):
        return
    for step in steps:
        if isinstance(step, Adopt) and step.compared:
            continue
        if not isinstance(step, (Sweep, SweepBelow, Remove)):
            raise led_out("change %s" % desired.path, seen.leads_out)


def refuse_scattered(desired: Desired, seen: Seen, steps: list[Step]) -> None:
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
