# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only some images have declared: a backing file, encryption, snapshots, bitmaps. The values, and their making."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from .._core.errors import BadInput
from .._core.names import absolute
from .._core.units import parse_size
from .model import Format, is_protocol

# QEMU cuts a longer snapshot name off without a word, and refuses a longer bitmap name after all the work.
_NAME_LIMITS_BYTES = {"snapshots": 255, "bitmaps": 1023}
_HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3")
# `encrypt.*` of qcow2 and its values (QEMU's qapi/crypto.json); its format is luks, and its key-secret is ours to name.
_ENCRYPTION_OPTIONS = {
    "cipher-alg": (
        *("aes-128", "aes-192", "aes-256", "des", "des-rfb", "3des", "cast5-128", "serpent-128", "serpent-192"),
        *("serpent-256", "twofish-128", "twofish-192", "twofish-256", "sm4"),
    ),
    "cipher-mode": ("ecb", "cbc", "xts", "ctr"),
    "hash-alg": _HASHES,
    "iter-time": (),
    "ivgen-alg": ("plain", "plain64", "essiv"),
    "ivgen-hash-alg": _HASHES,
}
_LONGEST_ITER_TIME_MS = 10**6
_SECRET_LIMIT_BYTES = 4096  # a pipe takes that much without a reader, on every system


class Backing(NamedTuple):
    """A declared backing file: the name to be stored (empty: none), its absolute path and its format (None: as its
    header says).
    """

    stored: str
    path: str
    format: Format | None


class Encryption(NamedTuple):
    """LUKS inside qcow2. ``options`` are `encrypt.*` creation options without that prefix."""

    secret: str
    options: tuple[tuple[str, str], ...]


class Named(NamedTuple):
    """A snapshot or bitmap that shall be there or not. ``granularity_bytes`` is a bitmap's, None: QEMU's choice."""

    name: str
    present: bool
    granularity_bytes: int | None = None


def declared_backing(params: Mapping[str, Any], path: str) -> Backing | None:
    given = params["backing_file"]
    if given is None:
        if params["backing_format"] is not None:
            raise BadInput("backing_format", "it describes a backing file, and there is none", "Add backing_file")
        return None
    image_format = Format(params["backing_format"]) if params["backing_format"] else None
    if given == "":
        if image_format is not None:
            raise BadInput("backing_format", "it describes a backing file, and there is to be none", "Leave it out")
        return Backing("", "", None)
    given = os.path.expanduser(given)
    whole = absolute(given, os.path.dirname(path))
    return Backing(whole if is_protocol(given) else given, whole, image_format)


def declared_encryption(given: Mapping[str, Any] | None) -> Encryption | None:
    if given is None:
        return None
    if not given["secret"]:
        raise BadInput("encrypt.secret", "it is empty", "Give the passphrase")
    if len(_bytes(given["secret"], "encrypt.secret")) > _SECRET_LIMIT_BYTES:
        raise BadInput(
            "encrypt.secret", "it is longer than %d bytes" % _SECRET_LIMIT_BYTES, "Give a passphrase that is shorter"
        )
    options = given["options"] or {}
    for name in options:
        if name not in _ENCRYPTION_OPTIONS:
            raise BadInput(
                "encrypt.options", "LUKS has no option %r" % name, "Known are %s" % ", ".join(_ENCRYPTION_OPTIONS)
            )
        _check_encryption_value(name, str(options[name]))
    return Encryption(given["secret"], tuple((name, str(value)) for name, value in sorted(options.items())))


def _check_encryption_value(name: str, value: str) -> None:
    known = _ENCRYPTION_OPTIONS[name]
    if known and value not in known:
        raise BadInput("encrypt.options", "%s has no value %r" % (name, value), "Known are %s" % ", ".join(known))
    if not known and not (value.isascii() and value.isdigit() and int(value) <= _LONGEST_ITER_TIME_MS):
        raise BadInput(
            "encrypt.options",
            "%s: %r is no number of milliseconds up to %d" % (name, value, _LONGEST_ITER_TIME_MS),
            "Write one, such as 2000",
        )


def declared_named(given: list[Mapping[str, Any]] | None, option: str) -> tuple[Named, ...]:
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
