# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that go when a VMDK goes that keeps its data in several."""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from .model import Format, Record
from .vmdk import DESCRIPTOR_LIMIT_BYTES, inspect

_HEAD_BYTES = 4096
# As QEMU and VMware name them: what comes between the descriptor's name and its ending.
_PARTS = r"-(?:flat|delta|sesparse|[fs]\d{3,})"


class Extents(NamedTuple):
    """``own`` are absolute paths of files that are surely parts of the image; ``others`` are all other names."""

    own: tuple[str, ...]
    others: tuple[str, ...]


def extents_of(path: str, record: Record | None) -> Extents:
    """Of the image file at ``path``.

    Whoever made the image chose the names in it, so its own are only those that begin with its own name, and are
    regular files beside it. A disk that is recorded with another format, or too large for a descriptor, has none: its
    guest may have written what looks like one.
    """
    if (record is not None and record.format is not Format.VMDK) or os.stat(path).st_size > DESCRIPTOR_LIMIT_BYTES:
        return Extents((), ())
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = inspect(descriptor, os.pread(descriptor, _HEAD_BYTES, 0))
    finally:
        os.close(descriptor)
    if found is None or not found.is_text:
        return Extents((), ())
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    own_name = re.compile(re.escape(stem) + _PARTS + re.escape(ending))
    names = dict.fromkeys(found.extents)
    own = [one for one in names if own_name.fullmatch(one) and _is_regular(os.path.join(folder, one))]
    gone = [one for one in names if own_name.fullmatch(one) and not os.path.lexists(os.path.join(folder, one))]
    others = tuple(one for one in names if one not in own and one not in gone)
    return Extents(tuple(os.path.join(folder, one) for one in own), others)


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
