# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an image keeps of how it was made when it is written anew, and what its record says of that afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .differences import HEADER_FORMAT, arguments
from .model import STREAM_OPTIMIZED, Desired, Format, Seen, SourceSeen
from .options import OWN_OPTIONS, SINGLE_FILE_SUBFORMATS, is_preallocated
from .steps import Adopt, Create, Rebuild, Seed, Step

_PREFIX = "options."
# What no image shows afterwards, and what it is without a word: so that another declaration is known for another later.
_HIDDEN = {
    Format.RAW: {"preallocation": "off"},
    Format.QCOW2: {"preallocation": "off"},
    Format.VDI: {"static": "off"},
    Format.VHDX: {"subformat": "dynamic"},
    Format.VPC: {"subformat": "dynamic"},
}


class Shape(NamedTuple):
    """How an image is written: its creation options, `encrypt.*` among them, and whether its data is compressed."""

    options: Mapping[str, str]
    compress: bool


def declared_shape(desired: Desired) -> Shape:
    """The shape of an image that is made anew: as declared, whatever was there before."""
    return Shape(desired.options, desired.compress)


def kept_shape(desired: Desired, seen: Seen) -> Shape:
    """The shape of an image whose content stays: as it shows it, else as its record has it, under what is declared.

    Of an image of another format nothing is kept, as formats share no options.
    """
    info = seen.info
    if info is None or info.format is not desired.format:
        return declared_shape(desired)
    recorded = seen.record.arguments if seen.record else {}
    options = {name[len(_PREFIX) :]: value for name, value in recorded.items() if name.startswith(_PREFIX)}
    options.update((name, value) for name, value in info.options.items() if _is_kept(desired, name, value))
    if desired.compress:
        options.pop("preallocation", None)
    options.update(desired.options)
    compress = desired.compress if desired.source is not None else recorded.get("compress") == "on"
    return Shape(options, compress and _is_compressible(desired, options))


def _is_compressible(desired: Desired, options: Mapping[str, str]) -> bool:
    """QEMU writes compressed data as it is into an encrypted image, and not at all into a preallocated one."""
    if desired.format is Format.VMDK and options.get("subformat") != STREAM_OPTIMIZED:
        return False
    return desired.encryption is None and not is_preallocated(options)


def _is_kept(desired: Desired, name: str, value: str) -> bool:
    if name in OWN_OPTIONS:
        return False
    if name.startswith("encrypt."):
        return desired.encryption is not None
    return desired.format is not Format.VMDK or name != "subformat" or value in SINGLE_FILE_SUBFORMATS


def remembered(desired: Desired, seen: Seen, steps: Sequence[Step], content: SourceSeen | None) -> dict[str, str]:
    """The arguments that the record will hold after ``steps``: what the image was made with, as far as that is known.

    An adopted image counts as made with what is declared. ``content`` is the source that was read for it.
    """
    declared = {**arguments(desired), **_formats(content)}
    hidden = {_PREFIX + name: value for name, value in _HIDDEN.get(desired.format, {}).items()}
    if any(isinstance(step, (Create, Seed)) for step in steps):
        return {**hidden, **declared}
    known = dict(seen.record.arguments) if seen.record else {}
    if any(isinstance(step, Adopt) for step in steps):
        known.update(declared)
    if any(isinstance(step, Rebuild) for step in steps):
        return {**hidden, **_rebuilt(desired, seen, known)}
    return known


def _formats(content: SourceSeen | None) -> dict[str, str]:
    if content is None or content.format is None:
        return {}
    header_format = content.header_format.value if content.header_format else ""
    return {"source_format": content.format.value, HEADER_FORMAT: header_format}


def _rebuilt(desired: Desired, seen: Seen, known: Mapping[str, str]) -> dict[str, str]:
    shape = kept_shape(desired, seen)
    after = {name: value for name, value in known.items() if not name.startswith(_PREFIX)}
    if "compress" in after:
        after["compress"] = "on" if shape.compress else "off"
    for name, value in shape.options.items():
        if name in desired.options or _PREFIX + name in known:
            after[_PREFIX + name] = value
    return after
