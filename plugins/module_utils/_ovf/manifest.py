# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A package's manifest: the digests of its files, in all the ways in which tools write them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._core.errors import BadInput
from .href import plain
from .model import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

# Whoever reads the manifest's bytes reads no more than these: enough for thousands of files.
MAX_MANIFEST_BYTES = 1024 * 1024
_HEX_DIGITS = {"sha1": 40, "sha256": 64, "sha512": 128}  # from the weakest to the strongest
LINE = re.compile(r"(SHA)-?(1|256|512)\s*\((.+)\)\s*=\s*([0-9A-F]+)", re.IGNORECASE | re.ASCII)
_EXPECTED = "A line reads SHA256(file)= and the digest in hexadecimal; known are SHA1, SHA256 and SHA512"


def parse(text: bytes, where: str) -> Mapping[str, Digest]:
    """The digest of each file, by its name. ``where`` names the manifest in errors.

    Raises BadInput for lines that are none and for two digests of one file that can't both be right.
    """
    found: dict[str, Digest] = {}
    for number, line in enumerate(text[len(_mark(text)) :].splitlines(), 1):
        if line.strip():
            _add(found, *_parsed(line, "%s, line %d" % (where, number)))
    return found


def _mark(text: bytes) -> bytes:
    """The byte order mark that some editors put before UTF-8."""
    mark = b"\xef\xbb\xbf"
    return mark if text.startswith(mark) else b""


def _parsed(line: bytes, place: str) -> tuple[str, Digest, str]:
    try:
        match = LINE.fullmatch(line.decode("utf-8").strip())
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise BadInput(place, "%r is no line of a manifest" % line[:80].decode("utf-8", "replace"), _EXPECTED)
    sha, size, name, value = match.groups()
    digest = Digest((sha + size).lower(), value.lower())
    if len(value) != _HEX_DIGITS[digest.algorithm]:
        problem = "a %s digest has %d hexadecimal digits, and that of %r has %d"
        raise BadInput(
            place,
            problem % (digest.algorithm.upper(), _HEX_DIGITS[digest.algorithm], name, len(value)),
            "Fetch or export the package again",
        )
    return plain(name.strip()), digest, place


def _add(found: dict[str, Digest], name: str, digest: Digest, place: str) -> None:
    """Of digests by two algorithms the stronger one is kept."""
    known = found.get(name, digest)
    if known.algorithm == digest.algorithm and known.value != digest.value:
        raise BadInput(
            place,
            "%r has another %s digest on a line before" % (name, digest.algorithm.upper()),
            "Fetch or export the package again",
        )
    if _HEX_DIGITS[digest.algorithm] >= _HEX_DIGITS[known.algorithm]:
        found[name] = digest


def hasher(algorithm: str) -> _Hash:
    """A new hash object of one of the manifest's algorithms."""
    import hashlib

    # It guards against damage; who forges a manifest can forge the digests too. So hosts that ban SHA-1 let it pass.
    return hashlib.new(algorithm, usedforsecurity=False)
