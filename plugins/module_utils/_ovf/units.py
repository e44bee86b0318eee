# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units as descriptors write them: DSP0004's programmatic ones (``byte * 2^20``) and the names in use before those."""

from __future__ import annotations

import re

# In this field these have always meant powers of 1024.
_NAMES: dict[str, int] = {
    word: 1024**power
    for power, words in enumerate(
        (("byte", "b"), ("kilobyte", "kb"), ("megabyte", "mb"), ("gigabyte", "gb"), ("terabyte", "tb"))
    )
    for word in words
}
_FACTOR = r"\*(\d{1,18})(?:\^(\d{1,2}))?"
_PROGRAMMATIC = re.compile(r"byte((?:\*\d{1,18}(?:\^\d{1,2})?){0,4})", re.ASCII)


def unit_bytes(units: str) -> int | None:
    """How many bytes one of ``units`` is; None for what is no unit of bytes."""
    plain = "".join(units.split()).lower()
    name = plain[:-1] if plain.endswith("s") else plain
    if name in _NAMES:
        return _NAMES[name]
    match = _PROGRAMMATIC.fullmatch(plain)
    if match is None:
        return None
    size = 1
    for base, power in re.findall(_FACTOR, match.group(1)):
        size *= int(base) ** int(power or 1)
    return size
