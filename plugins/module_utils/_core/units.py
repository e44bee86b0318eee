# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes as people write them."""

from __future__ import annotations

import re

from .errors import BadInput

_POWERS: dict[str, int] = {suffix: 1024**power for power, suffix in enumerate(("", "K", "M", "G", "T", "P", "E"))}
_SIZE = re.compile(r"^(\d{1,30})(?:\.(\d{1,30}))?\s*(?:([KMGTPE])(iB|B)?|B)?$", re.IGNORECASE | re.ASCII)
LARGEST_BYTES = 2**63 - 1  # off_t
_EXPECTED = "Write a number of bytes, or one with K, M, G, T, P or E (powers of 1024), such as 20G or 512MiB"


def parse_size(text: str, option: str) -> int:
    """Bytes meant by "20G", "512MiB", "1.5T" or "1073741824". Raises BadInput.

    "GB" is refused: half of the world's tools mean 10^9 by it, the other half 2^30.
    """
    given = str(text).strip()
    if given[:1] in ("+", "-"):
        raise BadInput(option, "%r is relative or negative" % given, "State the whole size that is wanted, such as 20G")
    match = _SIZE.match(given)
    if match is None:
        raise BadInput(option, "%r is no size" % given, _EXPECTED)
    whole, fraction, suffix, unit = match.groups()
    if suffix and unit in ("B", "b"):
        raise BadInput(
            option, "%r could mean powers of 1000 or of 1024" % given, "Write %siB (powers of 1024)" % suffix.upper()
        )
    factor = _POWERS[(suffix or "").upper()]
    size = int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)
    if fraction and not suffix:
        raise BadInput(option, "%r is a part of a byte" % given, _EXPECTED)
    if size > LARGEST_BYTES:
        raise BadInput(
            option, "%r is more than any file can hold" % given, "The limit is %d bytes (just under 8E)" % LARGEST_BYTES
        )
    return size
