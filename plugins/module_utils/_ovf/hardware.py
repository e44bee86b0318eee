# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A descriptor's machines: what each is and has (clauses 8 and 9.10), with the default deployment option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .model import DeploymentOption, Machine, default_option, is_vsphere
from .reading import VMWARE, Reading
from .units import unit_bytes
from .xml_tree import Element

# CIM_ResourceAllocationSettingData.ResourceType
_CPU, _MEMORY, _ETHERNET = "3", "4", "10"
_ITEMS = ("Item", "EthernetPortItem", "StorageItem")  # the latter two are OVF 2's
_MIB = 1 << 20


class Item(NamedTuple):
    """A piece of virtual hardware: its fields, by their names without namespace, first of each."""

    element: Element
    fields: dict[str, str]

    @property
    def options(self) -> list[str]:
        """The deployment options that it is bound to; none: it is there unless another replaces it."""
        return (self.element.attribute("configuration") or "").split()


def machines(elements: Sequence[Element], options: Sequence[DeploymentOption], read: Reading) -> Iterator[Machine]:
    """Their values. Raises BadInput for numbers that are none and for two machines of one name."""
    option = default_option(options) or ""
    seen: set[str] = set()
    for element in elements:
        yield _machine(element, read.unique(element, "id", seen, "machine"), option, read)


def transports(elements: Sequence[Element]) -> tuple[str, ...]:
    """How the machines' properties may reach the guest."""
    found = [
        name
        for element in elements
        for hardware in _hardware(element)
        for name in (hardware.attribute("transport") or "").replace(",", " ").split()
    ]
    return tuple(dict.fromkeys(found))


def _hardware(machine: Element) -> list[Element]:
    return list(machine.own("VirtualHardwareSection"))


def _machine(element: Element, name: str, option: str, read: Reading) -> Machine:
    sections = _hardware(element)
    versions = [_versions(section) for section in sections]
    # A machine may be described for several platforms: vSphere's is the one that matters here.
    chosen = next((number for number, found in enumerate(versions) if any(map(is_vsphere, found))), 0)
    items = _items(sections[chosen], option) if sections else []
    return Machine(
        id=name,
        name=read.text(element.first("Name")) or name,
        operating_system=_operating_system(element, read),
        hardware_versions=tuple(dict.fromkeys(version for found in versions for version in found)),
        cpus=_cpus(items, read),
        memory_mib=_memory_mib(items, read),
        networks=tuple(
            item.fields["Connection"] for item in items if _type(item) == _ETHERNET and "Connection" in item.fields
        ),
    )


def _versions(section: Element) -> list[str]:
    kinds = [
        child for system in section.own("System") for child in system.children if child.name == "VirtualSystemType"
    ]
    return [version for kind in kinds for version in kind.text.replace(",", " ").split()]


def _operating_system(machine: Element, read: Reading) -> str:
    """In words, else by vSphere's identifier, else by CIM's number."""
    section = machine.first("OperatingSystemSection")
    if section is None:
        return ""
    identifier = section.attributes.get("%s osType" % VMWARE) or section.attribute("id") or ""
    return read.text(section.first("Description")) or identifier


def _items(section: Element, option: str) -> list[Item]:
    """Those of a machine with that option: of several with one InstanceID, that which is bound to it.

    Items with a bound (min, max) are limits, not hardware.
    """
    found: dict[str, Item] = {}
    for number, element in enumerate(child for child in section.children if child.name in _ITEMS):
        if (element.attribute("bound") or "normal") != "normal":
            continue
        fields: dict[str, str] = {}
        for field in element.children:
            fields.setdefault(field.name, field.text)
        item = Item(element, fields)
        place = fields.get("InstanceID") or fields.get("InstanceId") or "item %d" % number  # CIM once wrote it so
        if option in item.options or (not item.options and place not in found):
            found[place] = item
    return list(found.values())


def _type(item: Item) -> str:
    # Of OVF 2 an Ethernet port has an element of its own kind.
    return _ETHERNET if item.element.name == "EthernetPortItem" else item.fields.get("ResourceType", "")


def _cpus(items: Sequence[Item], read: Reading) -> int | None:
    found = [_quantity(item, read) for item in items if _type(item) == _CPU]
    return sum(found) if found else None


def _memory_mib(items: Sequence[Item], read: Reading) -> int | None:
    found = [_quantity(item, read) * _unit(item, read) for item in items if _type(item) == _MEMORY]
    return -(-sum(found) // _MIB) if found else None


def _quantity(item: Item, read: Reading) -> int:
    return read.whole(item.element, item.fields.get("VirtualQuantity", ""), "VirtualQuantity")


def _unit(item: Item, read: Reading) -> int:
    units = item.fields.get("AllocationUnits") or "MegaBytes"
    size = unit_bytes(units)
    if size is None:
        raise read.bad(item.element, "the unit %r of the memory is unknown" % units, "Write one such as byte * 2^20")
    return size
