# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of files: in full, and those of our own files beside the ones that we manage."""

from __future__ import annotations

import hashlib
import os

NAME_MAX = 255  # bytes in one path component, on every file system of this field


def absolute(path: str, folder: str = "") -> str:
    """The whole name of the file that ``path`` means to the kernel, where a relative one starts at ``folder`` (by
    default the current directory).

    What is left of a directory by ".." is the directory that it really lies in: behind a link that isn't the one
    before it in the name. A name without ".." asks nothing of the file system.
    """
    whole = ""
    for part in os.path.join(folder or os.getcwd(), path).split("/"):
        if part in ("", "."):
            continue
        whole = _parent(whole) if part == ".." else whole + "/" + part
    return whole or "/"


def _parent(folder: str) -> str:
    if not folder:
        return ""  # the root is its own
    if os.path.islink(folder):
        folder = os.path.realpath(folder)
    # What is no directory has no parent either: the kernel will say so.
    return folder.rpartition("/")[0] if os.path.isdir(folder) else folder + "/.."


def beside(path: str, role: str) -> str:
    """The one name that our ``role`` file (lock, new, record …) for ``path`` has, hidden in the same directory.

    Being fixed, what a killed run left needs no search: whoever holds the lock knows that the others are stale.
    """
    folder, name = os.path.split(path)
    own = ".%s.vmops-%s" % (name, role)
    if len(os.fsencode(own)) > NAME_MAX:
        own = ".%s.vmops-%s" % (hashlib.sha256(os.fsencode(name)).hexdigest()[:32], role)
    return os.path.join(folder, own)
