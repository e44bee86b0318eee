# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's documentation markup, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_OURS = "vmops.lifecycle."

_MARK = re.compile(r"\b(?:(?P<name>RV|[BCEIMOPRUVL])\((?P<body>(?:\\.|[^\\)])*)\)|(?P<rule>HORIZONTALLINE)\b)")
"""NAME(body), where a backslash makes the character after it plain."""


def text(marked: str) -> str:
    """One sentence; newlines and runs of blanks become one blank."""
    return " ".join(_MARK.sub(_replace, marked).split())


def cell(marked: str) -> str:
    """The same for a cell of a table."""
    return text(marked).replace("|", "\\|")


def code(literal: str) -> str:
    """A literal, also one with back-ticks in it."""
    fence = "``" if "`" in literal else "`"
    return f"{fence}{literal}{fence}"


def module(name: str) -> str:
    """A module's name, with a link where the page is one of ours."""
    short = name.removeprefix(_OURS)
    return f"[{name}]({short}.md)" if name.startswith(_OURS) else code(name)


def sentences(told: object) -> list[str]:
    """Ansible takes one text or a list of them."""
    if told is None:
        return []
    return [told] if isinstance(told, str) else [str(sentence) for sentence in told] if isinstance(told, list) else []


def _replace(match: re.Match[str]) -> str:
    if match["rule"]:
        return "---"
    return _MEANINGS[match["name"]](re.sub(r"\\(.)", r"\1", match["body"]))


def _without_plugin(body: str) -> str:
    """An option or result may be named with its plugin: namespace.name.plugin#module:option."""
    return body.rpartition("#")[2].partition(":")[2] if "#" in body.partition("=")[0] else body


def _link(body: str) -> str:
    label, _comma, address = body.rpartition(",")
    return f"[{label.strip()}]({address.strip()})"


_MEANINGS: Mapping[str, Callable[[str], str]] = {
    "B": lambda body: f"**{body}**",
    "I": lambda body: f"*{body}*",
    "C": code,
    "E": code,
    "V": code,
    "O": lambda body: code(_without_plugin(body)),
    "RV": lambda body: code(_without_plugin(body)),
    "M": module,
    "P": lambda body: code(body.partition("#")[0]),
    "R": lambda body: body.partition(",")[0],
    "U": lambda body: f"<{body}>",
    "L": _link,
}
