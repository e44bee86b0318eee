# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The OVF descriptor: from its bytes to an Envelope. Pure.

Numbers of clauses are those of DSP0243 1.1. What only vSphere can judge, such as its own sections, is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from .._core.errors import BadInput
from .._core.units import LARGEST_BYTES
from .hardware import machines, transports
from .href import check_href
from .model import DeploymentOption, Disk, Envelope, Eula, File, Network
from .products import products, properties
from .reading import VMWARE, Reading, is_true
from .units import unit_bytes
from .xml_tree import Element
from .xml_tree import parse as parse_xml

# Whoever reads the descriptor's bytes reads no more than these. Honest ones have some kilobytes, with long licences
# and many languages some hundred.
MAX_DESCRIPTOR_BYTES = 16 * 1024 * 1024
NAMESPACES = ("http://schemas.dmtf.org/ovf/envelope/1", "http://schemas.dmtf.org/ovf/envelope/2")
_BEFORE_OVF_1 = "http://www.vmware.com/schema/ovf/1/envelope"
_COMPRESSIONS = ("identity", "gzip")
_MACHINE, _SYSTEM = "VirtualSystem", "VirtualSystemCollection"
_SECTIONS = {
    "AnnotationSection",
    "BootDeviceSection",
    "DeploymentOptionSection",
    "DiskSection",
    "EnvironmentFilesSection",
    "EulaSection",
    "InstallSection",
    "NetworkSection",
    "OperatingSystemSection",
    "PlacementGroupSection",
    "PlacementSection",
    "ProductSection",
    "ResourceAllocationSection",
    "ScaleOutSection",
    "SharedDiskSection",
    "StartupSection",
    "VirtualHardwareSection",
}
_CAPACITY_OF_PROPERTY = re.compile(r"\$\{([^{}]+)\}")


def parse(text: bytes, where: str) -> Envelope:
    """What the descriptor says. ``where`` names it in errors; ``text`` is at most MAX_DESCRIPTOR_BYTES.

    Raises BadInput for what is no descriptor, contradicts itself, is unsafe, or asks for what nobody here supports.
    """
    root = parse_xml(text, where)
    _check_root(root, where)
    return _Descriptor(root, where).envelope()


def _check_root(root: Element, where: str) -> None:
    if root.namespace == _BEFORE_OVF_1:
        raise BadInput(where, "it is of OVF 0.9, before the standard", "Convert it to OVF 1 with VMware's ovftool")
    if root.name != "Envelope":
        raise BadInput(where, "it is XML, but no OVF descriptor: its root is %r" % root.name, "Name the .ovf file")
    if root.namespace not in NAMESPACES:
        raise BadInput(
            where,
            "the OVF namespace %r is unknown" % root.namespace,
            "Known are %s: export the package again in one of them" % " and ".join(NAMESPACES),
        )


class _Descriptor:
    def __init__(self, root: Element, where: str) -> None:
        self._root = root
        self._read = Reading(root, where)

    def envelope(self) -> Envelope:
        owners = [self._root, *_entities(self._root)]
        machine_elements = [owner for owner in owners if owner.name == _MACHINE]
        if len(owners) == 1:
            raise self._read.bad(self._root, "it describes no machine", "Export the package again")
        for owner in owners:
            self._check_sections(owner)
        files = tuple(self._files())
        options = tuple(self._options())
        return Envelope(
            machines=tuple(machines(machine_elements, options, self._read)),
            is_vapp=any(owner.name == _SYSTEM for owner in owners),
            files=files,
            disks=self._disks(files),
            networks=tuple(self._networks()),
            eulas=tuple(self._eulas(owners)),
            products=tuple(products(owners, self._read)),
            properties=tuple(properties(owners, self._read)),
            deployment_options=options,
            transports=transports(machine_elements),
        )

    def _check_sections(self, owner: Element) -> None:
        """An unknown section without a word on whether it is required is left to vSphere, which tells of it."""
        for section in owner.children:
            if section.namespace == VMWARE or (section.namespace in NAMESPACES and section.name in _SECTIONS):
                continue
            if is_true(section.attributes.get("%s required" % owner.namespace)):
                raise self._read.bad(
                    section,
                    "the section %s (of %s) is required, and unknown here"
                    % (section.name, section.namespace or "no namespace"),
                    "Export the package without it, or deploy it with its vendor's own tool",
                )

    def _files(self) -> Iterator[File]:
        seen: set[str] = set()
        for references in self._root.own("References"):
            for file in references.own("File"):
                yield self._file(file, seen)

    def _file(self, file: Element, seen: set[str]) -> File:
        name = self._read.unique(file, "id", seen, "file")
        compression = file.attribute("compression") or "identity"
        if compression not in _COMPRESSIONS:
            raise self._read.bad(
                file,
                "the compression %r of the file %r is unknown" % (compression, name),
                "Known are %s: export the package again with one of them" % " and ".join(_COMPRESSIONS),
            )
        href = self._read.needed(file, "href")
        check_href(href, self._read.place(file))
        return File(
            id=name,
            href=href,
            size_bytes=self._read.number(file, "size"),
            compression=compression,
            chunk_size_bytes=self._read.number(file, "chunkSize", least=1),
        )

    def _disks(self, files: Iterable[File]) -> tuple[Disk, ...]:
        file_ids = {file.id for file in files}
        seen: set[str] = set()
        elements = [disk for section in self._root.own("DiskSection") for disk in section.own("Disk")]
        disks = tuple(self._disk(disk, seen, file_ids) for disk in elements)
        for element, disk in zip(elements, disks):
            if disk.parent_id is not None and (disk.parent_id == disk.id or disk.parent_id not in seen):
                raise self._read.bad(
                    element,
                    "the disk %r builds on a disk %r, which isn't there" % (disk.id, disk.parent_id),
                    "Export the package again, or correct the disk's parentRef",
                )
        return disks

    def _disk(self, disk: Element, seen: set[str], file_ids: set[str]) -> Disk:
        name = self._read.unique(disk, "diskId", seen, "disk")
        file_id = disk.attribute("fileRef")
        if file_id is not None and file_id not in file_ids:
            raise self._read.bad(
                disk,
                "the disk %r is in the file %r, which the References don't name" % (name, file_id),
                "Export the package again, or correct the disk's fileRef",
            )
        capacity = self._read.needed(disk, "capacity")
        of_property = _CAPACITY_OF_PROPERTY.fullmatch(capacity)
        return Disk(
            id=name,
            file_id=file_id,
            capacity_bytes=None if of_property else self._capacity(disk, name),
            capacity_property=of_property.group(1) if of_property else None,
            format=disk.attribute("format") or "",
            parent_id=disk.attribute("parentRef"),
            populated_bytes=self._read.number(disk, "populatedSize"),
        )

    def _capacity(self, disk: Element, name: str) -> int:
        units = disk.attribute("capacityAllocationUnits") or "byte"
        size = unit_bytes(units)
        if size is None:
            raise self._read.bad(
                disk,
                "the unit %r of the disk %r's capacity is unknown" % (units, name),
                "Write one such as byte * 2^30",
            )
        capacity = (self._read.number(disk, "capacity") or 0) * size
        if capacity > LARGEST_BYTES:
            raise self._read.bad(
                disk,
                "the disk %r would have %s %s, more than any disk can hold" % (name, disk.attribute("capacity"), units),
                "Correct its capacity or capacityAllocationUnits",
            )
        return capacity

    def _networks(self) -> Iterator[Network]:
        seen: set[str] = set()
        for section in self._root.own("NetworkSection"):
            for network in section.own("Network"):
                name = self._read.unique(network, "name", seen, "network")
                yield Network(name, self._read.text(network.first("Description")))

    def _options(self) -> Iterator[DeploymentOption]:
        seen: set[str] = set()
        for section in self._root.own("DeploymentOptionSection"):
            for option in section.own("Configuration"):
                yield DeploymentOption(
                    id=self._read.unique(option, "id", seen, "deployment option"),
                    label=self._read.text(option.first("Label")),
                    description=self._read.text(option.first("Description")),
                    default=is_true(option.attribute("default")),
                )

    def _eulas(self, owners: Iterable[Element]) -> Iterator[Eula]:
        for owner in owners:
            for section in owner.own("EulaSection"):
                yield Eula(owner.attribute("id") or "", self._read.text(section.first("License")))


def _entities(owner: Element) -> Iterator[Element]:
    """The machines and systems in an envelope or a system, each followed by what is in it."""
    for child in owner.children:
        if child.namespace == owner.namespace and child.name in (_MACHINE, _SYSTEM):
            yield child
            yield from _entities(child)
