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
from .._core.names import absolute
from .._core.units import parse_size
from .._core.wait import check_timeout
from .identity import source_is_image
from .model import STREAM_OPTIMIZED, Desired, Format, RepairMode, Source, Verify, round_to_sector

# Declared by few tasks, and read by modules of their own.
_RARE = ("backing_format", "options", "encrypt", "snapshots", "bitmaps")
_COMPRESSIBLE = (Format.QCOW2, Format.VMDK)
# What a task that removes an image declares of it, whatever else it says: it may share its options with another task.
_GONE = {
    "format": Format.QCOW2.value,
    "size": None,
    "source": None,
    "source_format": None,
    "checksum": None,
    "allow_references": False,
    "backing_file": None,
    "backing_format": None,
    "options": None,
    "compress": False,
    "encrypt": None,
    "snapshots": None,
    "bitmaps": None,
    "commit": False,
}


def declared(params: Mapping[str, Any]) -> Desired:
    """What the task wants. Raises BadInput."""
    if params["state"] == "absent":
        params = {**params, **_GONE}
    _refuse_nul(params)
    check_timeout(params["timeout"])
    path = declared_path(params["path"], "path")
    image_format = Format(params["format"])
    desired = Desired(
        path=path,
        present=params["state"] == "present",
        format=image_format,
        size_bytes=_size(params["size"]),
        source=_source(params),
        backing=None,
        options={},
        compress=params["compress"],
        encryption=None,
        allow_shrink=params["allow_shrink"],
        force=params["force"],
        verify=Verify(params["verify"]),
        repair=RepairMode(params["repair"]),
        snapshots=(),
        bitmaps=(),
        commit=params["commit"],
    )
    if any(params[option] for option in _RARE) or params["backing_file"] is not None:
        desired = _with_rare(desired, params)
    _check_together(desired)
    return desired


def _with_rare(desired: Desired, params: Mapping[str, Any]) -> Desired:
    """What most tasks don't declare, and so don't load."""
    from .extras import declared_backing, declared_encryption, declared_named
    from .options import check_options_together, declared_options, is_preallocated

    options = declared_options(params["options"] or {})
    check_options_together(desired.format, options)
    if desired.compress:
        _check_compressed(params, is_preallocated(options))
    return desired._replace(
        backing=declared_backing(params, desired.path),
        options=options,
        encryption=declared_encryption(params["encrypt"]),
        snapshots=declared_named(params["snapshots"], "snapshots"),
        bitmaps=declared_named(params["bitmaps"], "bitmaps"),
    )


def _check_compressed(params: Mapping[str, Any], preallocated: bool) -> None:
    """What compressed data can't be as well."""
    if params["encrypt"] is not None:
        raise BadInput("compress", "QEMU doesn't encrypt compressed data", "Leave compress or encrypt out")
    if preallocated:
        raise BadInput(
            "compress",
            "compressed data goes to no place that was preallocated",
            "Leave compress or options.preallocation out",
        )


def url_secrets(source: str | None) -> list[str]:
    """Texts of a URL that no result may show: its user and password, and what it has after its "?".

    All but the password come with the sign before them: words as short as those of a query are in other texts too.
    """
    if source is None or not _is_url(source):
        return []
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(source)
    except ValueError:  # no URL after all: `declared` will say so
        return []
    user, password = parts.username, parts.password
    secrets = [password, unquote(password)] if password else []
    if user:
        secrets.append("//%s%s" % (user, "@" if password is None else ":"))
    return secrets + re.findall(r"[?&;#][^&;#]+", "".join(source.partition("?")[1:]))


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def declared_path(path: str, option: str) -> str:
    """An absolute path, which QEMU can't take for a protocol. Raises BadInput."""
    if not path or "\0" in path:
        raise BadInput(option, "the path is empty or holds a NUL", "Name one file")
    if path.endswith("/"):
        raise BadInput(option, "%r names a directory" % path, "Name the image file itself")
    return absolute(path)


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
    scheme, separator, rest = given.partition("://")
    is_url = _is_url(given)
    if is_url:
        given = scheme.lower() + separator + rest
    elif separator and re.match(r"^[A-Za-z][A-Za-z0-9+.-]*$", scheme):
        raise BadInput(
            "source",
            "nothing is fetched by %s" % scheme,
            "Give an http or https URL, or fetch it first; a file of that name is written ./%s://…" % scheme,
        )
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
    if desired.commit and (desired.source is not None or (desired.backing is not None and not desired.backing.stored)):
        raise BadInput(
            "commit", "only an overlay has data to commit, and it is declared to be none", "Commit in a task of its own"
        )
    if desired.compress and desired.source is None:
        raise BadInput("compress", "only a conversion writes compressed data", "Add source, or leave compress out")
    if desired.compress and desired.format not in _COMPRESSIBLE:
        raise BadInput("compress", "format %s can't be compressed" % desired.format.value, "Use format: qcow2")
    if desired.compress and desired.format is Format.VMDK and desired.options.get("subformat") != STREAM_OPTIMIZED:
        raise BadInput(
            "compress",
            "of vmdk only subformat %s can be compressed" % STREAM_OPTIMIZED,
            "Add options with subformat: %s, or leave compress out" % STREAM_OPTIMIZED,
        )
    if desired.source is not None and not desired.source.is_url and desired.source.location == desired.path:
        raise source_is_image()
