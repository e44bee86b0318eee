# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""In what an image differs from its declaration: pure functions of what is declared and what was seen.

Every rule of idempotency is here, and only here. What is done about a difference is plan.py's, which a task with
nothing to do never loads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._core.names import absolute
from .model import Desired, Format, ImageInfo, Record, RepairMode, Seen, Source, SourceIdentity

if TYPE_CHECKING:
    from .extras import Named

# QEMU 7.2 resizes only these in place; the others go through a conversion.
RESIZABLE = (Format.RAW, Format.QCOW2)
# Options of the encryption that an image shows afterwards; QEMU shows ivgen-hash-alg for some of them only.
READABLE_ENCRYPTION = ("cipher-alg", "cipher-mode", "hash-alg", "ivgen-alg")
# `qemu-img amend` changes these; the rest of the visible options need a conversion.
AMENDABLE = ("compat", "lazy_refcounts", "refcount_bits")
HEADER_FORMAT = "source_header_format"  # what the record says of a source beside what it was read as


def is_at_rest(desired: Desired, seen: Seen) -> bool:
    """Whether nothing is to be done."""
    if seen.leftovers or seen.left_below or seen.exists != desired.present:
        return False
    info = seen.info
    if not desired.present or info is None:
        return True
    return not (
        needs_source(desired, seen)
        or rebuild_reasons(desired, seen, info)
        or is_resized(desired, info)
        or is_rebased(desired, seen)
        or amended(desired, info)
        or unlike(desired.snapshots, info.snapshots)
        or unlike(desired.bitmaps, info.bitmaps)
        or (desired.commit and seen.commit_to is not None)
        or needs_repair(desired, seen)
    )


def is_resized(desired: Desired, info: ImageInfo) -> bool:
    """Whether another virtual size is declared."""
    return desired.size_bytes is not None and desired.size_bytes != info.virtual_size_bytes


def is_rebased(desired: Desired, seen: Seen) -> bool:
    """Whether another backing file is declared."""
    return desired.backing is not None and not seen.backing_is_current


def is_current_backing(desired: Desired, info: ImageInfo | None) -> bool:
    """Whether the declared backing file, or none if none is declared to be there, is the one that the image has."""
    backing = desired.backing
    if backing is None:
        return True
    if info is None or info.backing_file is None:
        return not backing.stored
    if not backing.stored:
        return False
    current = absolute(info.backing_file, os.path.dirname(desired.path))
    return current == backing.path and (backing.format is None or info.backing_format == backing.format.value)


def amended(desired: Desired, info: ImageInfo) -> dict[str, str]:
    """Declared options that differ and can be changed in place."""
    return {
        name: value
        for name, value in desired.options.items()
        if name in AMENDABLE and info.options.get(name, value) != value
    }


def unlike(declared: tuple[Named, ...], there: tuple[str, ...]) -> list[Named]:
    """Those declared snapshots or bitmaps that are missing or too many."""
    return [item for item in declared if item.present != (item.name in there)]


def shown_encryption(desired: Desired) -> dict[str, str]:
    """Declared options of the encryption that an image shows, by the names that it shows them under."""
    options = desired.encryption.options if desired.encryption else ()
    return {"encrypt.%s" % name: value for name, value in options if name in READABLE_ENCRYPTION}


def is_locked(desired: Desired, info: ImageInfo) -> bool:
    """Whether the image's content can't be read for want of its passphrase."""
    return info.encrypted and desired.encryption is None


def needs_repair(desired: Desired, seen: Seen) -> bool:
    """Whether a check was asked for and found something, or the image bears a mark that only a repair takes away."""
    found, info = seen.check, seen.info
    if desired.repair is RepairMode.NONE or found is None or info is None:
        return False
    return bool(found.leaks or found.corruptions or info.dirty or info.corrupt)


def has_unknown_option(desired: Desired, seen: Seen) -> bool:
    """Whether an option is declared of an existing image that neither it nor its record shows: it may be misspelt."""
    if not desired.present or seen.info is None:
        return False
    recorded = seen.record.arguments if seen.record else {}
    return any(name not in seen.info.options and "options.%s" % name not in recorded for name in desired.options)


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
        if desired.source.format is not None:
            shaped["source_format"] = desired.source.format.value
        shaped["compress"] = "on" if desired.compress else "off"
    return shaped


def is_recorded(desired: Desired, seen: Seen) -> bool:
    """Whether the image is known to be made from the declared source with the declared arguments."""
    if desired.source is None or seen.record is None:
        return False
    now = seen.source.identity if seen.source else None
    if not is_same_source(desired.source, now, seen.record.source):
        return False
    return not differing_arguments(desired, seen.record, seen.info)


def differing_arguments(desired: Desired, record: Record, info: ImageInfo | None) -> list[str]:
    """Arguments that were others when the image was made, as far as the image itself doesn't show them.

    A source whose format isn't declared is read as its header says, and that was remembered.
    """
    declared = arguments(desired)
    if desired.source is not None and HEADER_FORMAT in record.arguments:
        declared.setdefault("source_format", record.arguments[HEADER_FORMAT])
    visible = {"options.%s" % name for name in (info.options if info else {})}
    return sorted(
        name
        for name, value in declared.items()
        if name not in visible and name in record.arguments and record.arguments[name] != value
    )


def is_made_otherwise(desired: Desired, seen: Seen) -> bool:
    """Whether the image is known to be made with other arguments that shape it: equal content doesn't make it equal."""
    if seen.record is None:
        return False
    return any(name != "source_format" for name in differing_arguments(desired, seen.record, seen.info))


def needs_source(desired: Desired, seen: Seen) -> bool:
    """Whether the source has to be read (its header, its checksum, and a comparison where the image exists)."""
    if not desired.present or desired.source is None:
        return False
    return not is_recorded(desired, seen) or is_unproved(desired, seen)


def is_unproved(desired: Desired, seen: Seen) -> bool:
    """Whether the image is recorded as made from this source without the checksum that is declared now, and the source
    is there to be compared with it.
    """
    if desired.source is None or desired.source.checksum is None or seen.source is None:
        return False
    if seen.record is None or seen.record.source is None or not is_recorded(desired, seen):
        return False
    return not seen.record.source.checksum.startswith(desired.source.checksum[0] + ":")


def rebuild_reasons(desired: Desired, seen: Seen, info: ImageInfo) -> list[str]:
    reasons = []
    if info.format is not desired.format:
        reasons.append("its format is %s, not %s" % (info.format.value, desired.format.value))
        return reasons
    if desired.encryption is not None and not info.encrypted:
        reasons.append("it isn't encrypted")
    for name, wanted in {**desired.options, **shown_encryption(desired)}.items():
        actual = info.options.get(name)
        if actual is not None and actual != wanted and name not in AMENDABLE:
            reasons.append("its %s is %s, not %s" % (name, actual, wanted))
    if seen.record is not None and desired.source is None:
        reasons += ["it was made with another %s" % name for name in differing_arguments(desired, seen.record, info)]
    return reasons
