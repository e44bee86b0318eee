# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Creation options (`qemu-img create -o`) as they are declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core.errors import BadInput
from .._core.units import parse_size
from .model import STREAM_OPTIMIZED, Format

# Options whose values are sizes or switches: "64k" and 65536 are the same, as are "on" and true.
SIZE_OPTIONS = ("cluster_size", "block_size", "extent_size_hint", "log_size")
SWITCH_OPTIONS = (
    "lazy_refcounts",
    "extended_l2",
    "data_file_raw",
    "force_size",
    "static",
    "nocow",
    "block_state_zero",
    "zeroed_grain",
    "compat6",
)
# What has an option of its own here must not come in by the back door.
OWN_OPTIONS = {
    "size": "size",
    "backing_file": "backing_file",
    "backing_fmt": "backing_format",
    "encryption": "encrypt",
    "data_file": "",
    "data_file_raw": "",
}
_VERSION_2 = {"lazy_refcounts": "off", "extended_l2": "off", "compression_type": "zlib", "refcount_bits": "16"}
_EXTENDED_L2_CLUSTER_BYTES = 16384
_SWITCH = {"true": "on", "yes": "on", "1": "on", "on": "on", "false": "off", "no": "off", "0": "off", "off": "off"}
_COMPAT = {"v2": "0.10", "v3": "1.1", "0.1": "0.10"}  # YAML takes a bare 0.10 for the number 0.1
SINGLE_FILE_SUBFORMATS = ("monolithicSparse", STREAM_OPTIMIZED)  # VMDK's others keep the data in files beside it


def declared_options(given: Mapping[str, Any]) -> dict[str, str]:
    """Names and normalised values, by name. Raises BadInput."""
    return {name: normalise_option(name, value) for name, value in sorted(given.items())}


def normalise_option(name: str, value: object) -> str:
    """A creation option's value as qemu-img's info would show it."""
    text = str(value).strip()
    if name in SIZE_OPTIONS:
        return str(parse_size(text, "options.%s" % name))
    if name in SWITCH_OPTIONS:
        switch = _SWITCH.get(text.lower())
        if switch is None:
            raise BadInput("options.%s" % name, "%r is neither on nor off" % text, "Write true or false")
        return switch
    return _COMPAT.get(text, text) if name == "compat" else text


def is_preallocated(options: Mapping[str, str]) -> bool:
    """Whether an image that is made with these options has its place for data from the beginning."""
    return options.get("preallocation", "off") != "off"


def check_options_together(image_format: Format, options: Mapping[str, str]) -> None:
    """Raise BadInput for what belongs elsewhere or doesn't fit the format."""
    for name in options:
        _check_option_name(name)
    check_values(image_format, options)
    subformat = options.get("subformat", "monolithicSparse")
    if image_format is Format.VMDK and subformat not in SINGLE_FILE_SUBFORMATS:
        raise BadInput(
            "options.subformat",
            "%r would put the image's data into other files" % subformat,
            "One path is one image: use %s" % " or ".join(SINGLE_FILE_SUBFORMATS),
        )


def check_values(image_format: Format, options: Mapping[str, str]) -> None:
    """Raise BadInput for what no qemu-img makes, of options as they are declared or as an image keeps them."""
    modes = ("off", "metadata", "falloc", "full") if image_format is Format.QCOW2 else ("off", "falloc", "full")
    mode = options.get("preallocation", "off")
    if mode not in modes:
        raise BadInput(
            "options.preallocation",
            "format %s has no %r" % (image_format.value, mode),
            "Use %s" % " or ".join(modes),
        )
    if image_format is Format.VHDX:
        _check_power(options, "block_size", 1 << 20, 256 << 20, "1M to 256M")
    if image_format is Format.QCOW2:
        _check_power(options, "refcount_bits", 1, 64, "1 to 64")
        _check_power(options, "cluster_size", 512, 2 << 20, "512 to 2M")
        _check_version(options)


def _check_power(options: Mapping[str, str], name: str, least: int, most: int, words: str) -> None:
    text = options.get(name)
    if text is None:
        return
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not least <= value <= most or value & (value - 1):
        raise BadInput("options.%s" % name, "%s is no power of two from %s" % (text, words), "Write one")


def _check_version(options: Mapping[str, str]) -> None:
    """What an old qcow2 header can't have, and what extended L2 entries need."""
    compat = options.get("compat", "1.1")
    if compat not in ("0.10", "1.1"):
        raise BadInput("options.compat", "qcow2 has no compatibility level %r" % compat, 'Use "0.10" or "1.1"')
    for name, value in _VERSION_2.items():
        if compat == "0.10" and options.get(name, value) != value:
            raise BadInput(
                "options.compat",
                "0.10 can't have %s: %s" % (name, options[name]),
                "Use compat: 1.1, or %s: %s" % (name, value),
            )
    small = int(options.get("cluster_size", _EXTENDED_L2_CLUSTER_BYTES)) < _EXTENDED_L2_CLUSTER_BYTES
    if small and options.get("extended_l2") == "on":
        raise BadInput("options.extended_l2", "it needs clusters of 16K or more", "Use a larger cluster_size")


def _check_option_name(name: str) -> None:
    if name.startswith("encrypt."):
        raise BadInput("options", "%s belongs to encrypt" % name, "Use encrypt.options")
    if name not in OWN_OPTIONS:
        return
    own = OWN_OPTIONS[name]
    if own:
        raise BadInput("options", "%s has an option of its own" % name, "Use %s" % own)
    raise BadInput(
        "options", "%s would put the image's data into a second file" % name, "Leave it out; one path is one image"
    )
