# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a descriptor's attributes and texts are read, and how its faults are told: with the line."""

from __future__ import annotations

import re

from .._core.errors import BadInput
from .xml_tree import Element

VMWARE = "http://www.vmware.com/schema/ovf"  # the namespace of vSphere's own additions
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_NUMBER = re.compile(r"[0-9]{1,19}")
_AGAIN = "Export the package again, or correct the descriptor"


def is_true(value: str | None) -> bool:
    """Whether an attribute is XML Schema's true, in any case."""
    return value is not None and value.strip().lower() in ("true", "1")


class Reading:
    """Reads the elements of one descriptor, which ``where`` names in errors."""

    def __init__(self, root: Element, where: str) -> None:
        self._where = where
        self._english: dict[str | None, str] = {}
        self._others: dict[str | None, str] = {}
        for strings in root.own("Strings"):
            language = strings.attributes.get(_LANGUAGE, "")
            known = self._english if language.lower().startswith("en") else self._others
            for message in strings.own("Msg"):
                known.setdefault(message.attribute("msgid"), message.text)

    def place(self, element: Element) -> str:
        """Where an element is, for errors."""
        return "%s, line %d" % (self._where, element.line)

    def bad(self, element: Element, problem: str, instead: str = _AGAIN) -> BadInput:
        """The error about an element."""
        return BadInput(self.place(element), problem, instead)

    def text(self, element: Element | None) -> str:
        """A text for people: in English where the descriptor has it so, else the neutral one, else any; "" without."""
        if element is None:
            return ""
        name = element.attribute("msgid")
        if name is None:
            return element.text
        return self._english.get(name) or element.text or self._others.get(name, "")

    def needed(self, element: Element, name: str) -> str:
        """An attribute that has to be there. Raises BadInput."""
        value = element.attribute(name)
        if value is None:
            raise self.bad(element, "a %s has no attribute %s" % (element.name, name))
        return value

    def number(self, element: Element, name: str, least: int = 0) -> int | None:
        """A whole number, or None without the attribute. Raises BadInput."""
        value = element.attribute(name)
        return None if value is None else self.whole(element, value, name, least)

    def whole(self, element: Element, value: str, name: str, least: int = 0) -> int:
        """``value`` as a number of at least ``least``. Raises BadInput."""
        value = value.strip()
        if not _NUMBER.fullmatch(value) or int(value) < least:
            raise self.bad(element, "%s is %r: no whole number of at least %d" % (name, value[:40], least))
        return int(value)

    def unique(self, element: Element, name: str, seen: set[str], what: str) -> str:
        """An attribute that names the element among its like, which are ``seen``. Raises BadInput."""
        value = self.needed(element, name)
        self.once(element, value, seen, what)
        return value

    def once(self, element: Element, value: str, seen: set[str], what: str) -> None:
        """Raise BadInput for an empty name or one that another has already."""
        if not value.strip():
            raise self.bad(element, "a %s has an empty name" % what)
        if value in seen:
            raise self.bad(element, "the %s %r is there twice" % (what, value))
        seen.add(value)
