# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which names of files a package may use: those that stay within it, however they are read."""

from __future__ import annotations

import re

from .._core.errors import BadInput

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_WITHIN = "A package names its files by their names beside the descriptor: export it again, or correct the name"


def plain(name: str) -> str:
    """The name by which a file is looked up: ``./disk.vmdk`` and ``disk.vmdk`` are one."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def check_href(href: str, where: str) -> None:
    """Raise BadInput for a name that leads out of the package, or that some program could take for such a one.

    As a URI reference it may be percent-encoded: it has to be safe before and after decoding.
    """
    _check(href, href, where)
    if "%" in href:
        from urllib.parse import unquote

        _check(unquote(href), href, where)


def _check(name: str, href: str, where: str) -> None:
    scheme = _SCHEME.match(name)
    if scheme and scheme.group(1).lower() in ("http", "https"):
        raise BadInput(
            where,
            "the file %r lies on a server of its own" % href,
            "Download it, put it beside the descriptor, and write its name there into the descriptor",
        )
    problem = _problem(name)
    if problem or scheme:
        raise BadInput(where, "the file name %r %s" % (href, problem or "has a drive letter or a scheme"), _WITHIN)


def _problem(name: str) -> str:
    parts = name.split("/")
    if parts[-1] in ("", "."):
        return "names no file"
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
        return "has control characters"
    if "\\" in name:
        return "has a backslash"
    if parts[0] == "":
        return "is absolute"
    return "leads out of the package" if ".." in parts else ""
