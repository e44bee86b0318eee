# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names of our own files beside those that we manage."""

from __future__ import annotations

import hashlib
import os

NAME_MAX = 255  # bytes in one path component, on every file system of this field


def beside(path: str, role: str) -> str:
    """The one name that our ``role`` file (lock, new, record …) for ``path`` has, hidden in the same directory.

    Being fixed, what a killed run left needs no search: whoever holds the lock knows that the others are stale.
    """
    folder, name = os.path.split(path)
    own = ".%s.vmops-%s" % (name, role)
    if len(os.fsencode(own)) > NAME_MAX:
        own = ".%s.vmops-%s" % (hashlib.sha256(os.fsencode(name)).hexdigest()[:32], role)
    return os.path.join(folder, own)
