# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A descriptor's products and their properties (clause 9.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .model import Product, Property
from .reading import VMWARE, Reading, is_true
from .xml_tree import Element


def products(owners: Sequence[Element], read: Reading) -> Iterator[Product]:
    """Those of all machines and systems."""
    for owner in owners:
        for section in owner.own("ProductSection"):
            yield Product(
                class_id=section.attribute("class") or "",
                instance=section.attribute("instance") or "",
                name=read.text(section.first("Product")),
                vendor=read.text(section.first("Vendor")),
                version=read.text(section.first("Version")),
                full_version=read.text(section.first("FullVersion")),
            )


def properties(owners: Sequence[Element], read: Reading) -> Iterator[Property]:
    """Those of all products. Keys are unique within a machine or system: two machines may have the same."""
    for owner in owners:
        seen: set[str] = set()
        for section in owner.own("ProductSection"):
            category = ""
            for child in section.children:
                if child.namespace != section.namespace:
                    continue
                if child.name == "Category":
                    category = read.text(child)
                elif child.name == "Property":
                    yield _property(child, _key(child, section, read, seen), category, read)


def _key(element: Element, section: Element, read: Reading, seen: set[str]) -> str:
    parts = (section.attribute("class"), read.needed(element, "key"), section.attribute("instance"))
    key = ".".join(part for part in parts if part)
    read.once(element, key, seen, "property")
    return key


def _property(element: Element, key: str, category: str, read: Reading) -> Property:
    values = {value.attribute("configuration"): value.attribute("value") for value in element.own("Value")}
    neutral = values.pop(None, None)
    default = element.attribute("value")
    # vSphere's own qualifiers, such as Ip("VM Network"), stand beside the standard's.
    qualifiers = (element.attribute("qualifiers"), element.attributes.get("%s qualifiers" % VMWARE))
    return Property(
        key=key,
        type=element.attribute("type") or "string",
        qualifiers=", ".join(part for part in qualifiers if part),
        default=neutral if default is None else default,
        values={option: value for option, value in values.items() if option and value is not None},
        user_configurable=is_true(element.attribute("userConfigurable")),
        password=is_true(element.attribute("password")),
        label=read.text(element.first("Label")),
        description=read.text(element.first("Description")),
        category=category,
    )
