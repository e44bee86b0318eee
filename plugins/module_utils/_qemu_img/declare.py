# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module options into a Desired, with everything refused that can be told wrong from the options alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .._core.errors import BadInput
from .._core.units import parse_size
from .identity import source_is_image
from .model import Backing, Desired, Encryption, Format, Named, RepairMode, Request, Source, Verify, round_to_sector

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
_SWITCH = {"true": "on", "yes": "on", "1": "on", "on": "on", "false": "off", "no": "off", "0": "off", "off": "off"}
_COMPAT = {"v2": "0.10", "v3": "1.1", "0.1": "0.10"}  # YAML takes a bare 0.10 for the number 0.1
_COMPRESSIBLE = (Format.QCOW2, Format.VMDK)
_SINGLE_FILE_SUBFORMATS = ("monolithicSparse", "streamOptimized")  # VMDK's others keep the data in files beside it
# QEMU cuts a longer snapshot name off without a word, and refuses a longer bitmap name after all the work.
_NAME_LIMITS_BYTES = {"snapshots": 255, "bitmaps": 1023}
_SECRET_LIMIT_BYTES = 4096  # a pipe takes that much without a reader, on every system


def declared(params: Mapping[str, Any]) -> Desired:
    """What the task wants. Raises BadInput."""
    _refuse_nul(params)
    path = declared_path(params["path"], "path")
    image_format = Format(params["format"])
    desired = Desired(
        path=path,
        present=params["state"] == "present",
        format=image_format,
        size_bytes=_size(params["size"]),
        source=_source(params),
        backing=_backing(params, path),
        options=_options(params["options"]),
        compress=params["compress"],
        encryption=_encryption(params["encrypt"]),
        allow_shrink=params["allow_shrink"],
        force=params["force"],
        verify=Verify(params["verify"]),
        repair=RepairMode(params["repair"]),
        snapshots=_named(params["snapshots"], "snapshots"),
        bitmaps=_named(params["bitmaps"], "bitmaps"),
        commit=params["commit"],
    )
    _check_together(desired)
    return desired


def declared_request(params: Mapping[str, Any]) -> Request:
    """What an info task wants to know. Raises BadInput."""
    return Request(
        paths=tuple(declared_path(path, "path") for path in params["path"]),
        format=Format(params["format"]) if params["format"] else None,
        chain=params["backing_chain"],
        check=params["check"],
        map=params["map"],
        measure=Format(params["measure"]) if params["measure"] else None,
        measure_options=_options(params["measure_options"]),
    )


def url_secrets(source: str | None) -> list[str]:
    """What a URL carries that no result may show: its user's password."""
    from urllib.parse import unquote, urlsplit

    if source is None or not source.startswith(("http://", "https://")):
        return []
    try:
        password = urlsplit(source).password
    except ValueError:  # no URL after all: `declared` will say so
        return []
    return [password, unquote(password)] if password else []


def declared_path(path: str, option: str) -> str:
    """An absolute path, which QEMU can't take for a protocol. Raises BadInput."""
    if not path or "\0" in path:
        raise BadInput(option, "the path is empty or holds a NUL", "Name one file")
    if path.endswith("/"):
        raise BadInput(option, "%r names a directory" % path, "Name the image file itself")
    return os.path.abspath(path)


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


def _refuse_nul(params: Mapping[str, Any]) -> None:
    """No name, option or word of a command line can hold a NUL."""
    for option, value in params.items():
        if any("\0" in text for text in _texts(value)):
            raise BadInput(option, "it holds a NUL", "Leave that character out")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _options(given: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: normalise_option(name, value) for name, value in sorted((given or {}).items())}


def _size(given: str | None) -> int | None:
    if given is None:
        return None
    size = parse_size(given, "size")
    if size == 0:
        raise BadInput("size", "0 is no size for a disk", "Write a size such as 20G")
    if round_to_sector(size) > 2**63 - 1:
        raise BadInput("size", "%s is more than any file can hold" % given, "Write a smaller size")
    return round_to_sector(size)


def _source(params: Mapping[str, Any]) -> Source | None:
    given = params["source"]
    if given is None:
        for option in ("source_format", "checksum"):
            if params[option] is not None:
                raise BadInput(
                    option, "it describes a source, and there is none", "Add source, or leave %s out" % option
                )
        return None
    checksum = _checksum(params["checksum"])
    is_url = given.startswith(("http://", "https://"))
    if is_url and checksum is None:
        raise BadInput(
            "checksum", "a source from the network needs one", "Add checksum: sha256:… of what the URL yields"
        )
    if is_url and params["allow_references"]:
        raise BadInput("allow_references", "a download can name any file of this host", "Leave it out for a URL")
    return Source(
        location=given if is_url else declared_path(os.path.expanduser(given), "source"),
        format=Format(params["source_format"]) if params["source_format"] else None,
        checksum=checksum,
        allow_references=params["allow_references"],
    )


def _checksum(given: str | None) -> tuple[str, str] | None:
    if given is None:
        return None
    algorithm, _colon, digest = given.partition(":")
    algorithm, digest = algorithm.strip().lower(), digest.strip().lower()
    known = sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake"))
    if algorithm not in known:
        raise BadInput(
            "checksum", "%r is no known algorithm" % algorithm, "Write sha256:…; known are %s" % ", ".join(known)
        )
    length = hashlib.new(algorithm, usedforsecurity=False).digest_size * 2
    if not re.match(r"^[0-9a-f]{%d}$" % length, digest):
        raise BadInput("checksum", "that is no %s checksum" % algorithm, "It has %d hexadecimal digits" % length)
    return algorithm, digest


def _backing(params: Mapping[str, Any], path: str) -> Backing | None:
    given = params["backing_file"]
    if given is None:
        if params["backing_format"] is not None:
            raise BadInput("backing_format", "it describes a backing file, and there is none", "Add backing_file")
        return None
    image_format = Format(params["backing_format"]) if params["backing_format"] else None
    if given == "":
        return Backing("", "", None)
    absolute = os.path.abspath(os.path.join(os.path.dirname(path), given))
    # QEMU takes a colon before the first slash for a protocol; such a name is stored by its absolute path.
    looks_like_protocol = ":" in given.split("/", 1)[0]
    return Backing(absolute if looks_like_protocol else given, absolute, image_format)


def _encryption(given: Mapping[str, Any] | None) -> Encryption | None:
    if given is None:
        return None
    if not given["secret"]:
        raise BadInput("encrypt.secret", "it is empty", "Give the passphrase")
    if len(_bytes(given["secret"], "encrypt.secret")) > _SECRET_LIMIT_BYTES:
        raise BadInput(
            "encrypt.secret", "it is longer than %d bytes" % _SECRET_LIMIT_BYTES, "Give a passphrase that is shorter"
        )
    options = given["options"] or {}
    return Encryption(given["secret"], tuple((name, str(value)) for name, value in sorted(options.items())))


def _named(given: list[Mapping[str, Any]] | None, option: str) -> tuple[Named, ...]:
    items = []
    for entry in given or ():
        if not entry["name"]:
            raise BadInput(option, "a name is empty", "Give each entry a name")
        limit = _NAME_LIMITS_BYTES[option]
        if len(_bytes(entry["name"], option)) > limit:
            raise BadInput(
                option, "%r is longer than the %d bytes that QEMU keeps" % (entry["name"], limit), "Shorten it"
            )
        granularity = entry.get("granularity")
        size = parse_size(granularity, "%s.granularity" % option) if granularity else None
        if size is not None and (size < 512 or size > 2**31 or size & (size - 1)):
            raise BadInput(
                "%s.granularity" % option,
                "%r is no power of two from 512 to 2G" % granularity,
                "Write one, such as 64K",
            )
        items.append(Named(entry["name"], entry["state"] == "present", size))
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(option, "%r is declared more than once" % name, "Keep one entry of it")
    return tuple(items)


def _bytes(text: str, option: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadInput(option, "it is no valid UTF-8", "Write it in UTF-8") from None


def _check_together(desired: Desired) -> None:
    """Options that don't fit each other."""
    only_qcow2 = (
        ("backing_file", desired.backing is not None),
        ("encrypt", desired.encryption is not None),
        ("snapshots", bool(desired.snapshots)),
        ("bitmaps", bool(desired.bitmaps)),
        ("commit", desired.commit),
    )
    for option, used in only_qcow2:
        if used and desired.format is not Format.QCOW2:
            raise BadInput(
                option, "format %s has no such thing" % desired.format.value, "Use format: qcow2, or leave it out"
            )
    if desired.source is not None and desired.backing is not None and desired.backing.stored:
        raise BadInput(
            "backing_file", "an image is made from a source or over a backing file", "Leave one of the two out"
        )
    if desired.compress and desired.source is None:
        raise BadInput("compress", "only a conversion writes compressed data", "Add source, or leave compress out")
    if desired.compress and desired.format not in _COMPRESSIBLE:
        raise BadInput("compress", "format %s can't be compressed" % desired.format.value, "Use format: qcow2")
    if desired.source is not None and not desired.source.is_url and desired.source.location == desired.path:
        raise source_is_image()
    for name in desired.options:
        _check_option_name(name)
    if desired.format is Format.VMDK and desired.options.get("subformat", "monolithicSparse") not in (
        _SINGLE_FILE_SUBFORMATS
    ):
        raise BadInput(
            "options.subformat",
            "%r would put the image's data into other files" % desired.options["subformat"],
            "One path is one image: use %s" % " or ".join(_SINGLE_FILE_SUBFORMATS),
        )


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
