# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an OVF descriptor says, as values. The terms are those of the OVF specification (DMTF DSP0243)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_VSPHERE = re.compile(r"vmx-[0-9]{1,3}")


class File(NamedTuple):
    """A file that the package refers to. ``size_bytes`` is that of what is in the package, so of a compressed file the
    compressed size; None where the descriptor doesn't tell. With ``chunk_size_bytes`` it is there in pieces.
    """

    id: str
    href: str
    size_bytes: int | None = None
    compression: str = "identity"
    chunk_size_bytes: int | None = None


class Disk(NamedTuple):
    """A virtual disk; without a ``file_id`` it is an empty one. ``capacity_bytes`` is None where the capacity is that
    of a property, which ``capacity_property`` names.
    """

    id: str
    file_id: str | None
    capacity_bytes: int | None
    capacity_property: str | None = None
    format: str = ""
    parent_id: str | None = None
    populated_bytes: int | None = None


class Network(NamedTuple):
    name: str
    description: str = ""


class Eula(NamedTuple):
    """A licence that whoever imports it has to accept; ``section`` is the id of the machine or system that it is of."""

    section: str
    text: str


class Product(NamedTuple):
    """``class_id`` and ``instance`` tell products of one machine apart, and are parts of their properties' keys."""

    class_id: str = ""
    instance: str = ""
    name: str = ""
    vendor: str = ""
    version: str = ""
    full_version: str = ""


class Property(NamedTuple):
    """``key`` is ``class.key.instance``, as vSphere names it, without the parts that are empty. ``default`` is its
    value where no deployment option has another; ``values`` are those, by the option's id.
    """

    key: str
    type: str = "string"
    qualifiers: str = ""
    default: str | None = None
    values: Mapping[str, str] = {}
    user_configurable: bool = False
    password: bool = False
    label: str = ""
    description: str = ""
    category: str = ""

    @property
    def hidden(self) -> bool:
        """Whether it isn't meant for whoever deploys, though it can be set."""
        return not self.user_configurable


class DeploymentOption(NamedTuple):
    id: str
    label: str = ""
    description: str = ""
    default: bool = False


def default_option(options: Sequence[DeploymentOption]) -> str | None:
    """The id of the one that is declared so, else of the first; None without options."""
    first = options[0].id if options else None
    return next((option.id for option in options if option.default), first)


class Machine(NamedTuple):
    """A virtual machine of the package. ``hardware_versions`` are vSphere's, such as ``vmx-13``, or others' types.
    ``networks`` are those of its adapters, one each. The hardware is that of the default deployment option.
    """

    id: str
    name: str = ""
    operating_system: str = ""
    hardware_versions: tuple[str, ...] = ()
    cpus: int | None = None
    memory_mib: int | None = None
    networks: tuple[str, ...] = ()


class Envelope(NamedTuple):
    """A whole descriptor. ``is_vapp``: it describes a system of machines, not one machine."""

    machines: tuple[Machine, ...]
    is_vapp: bool = False
    files: tuple[File, ...] = ()
    disks: tuple[Disk, ...] = ()
    networks: tuple[Network, ...] = ()
    eulas: tuple[Eula, ...] = ()
    products: tuple[Product, ...] = ()
    properties: tuple[Property, ...] = ()
    deployment_options: tuple[DeploymentOption, ...] = ()
    transports: tuple[str, ...] = ()

    def file(self, href: str) -> File:
        """The file that is referred to so, which has to be there."""
        return next(file for file in self.files if file.href == href)

    @property
    def default_option(self) -> str | None:
        """The id of the deployment option that holds where none is chosen; None without options."""
        return default_option(self.deployment_options)


class Digest(NamedTuple):
    """A manifest's line about a file: ``algorithm`` is sha1, sha256 or sha512, ``value`` lower-case hexadecimal."""

    algorithm: str
    value: str


class Problem(NamedTuple):
    """Something that keeps a package from being imported: in which file, key or option, what, and what to do."""

    where: str
    problem: str
    instead: str


def is_vsphere(version: str) -> bool:
    """Whether a type of virtual system is one of vSphere's hardware versions."""
    return _VSPHERE.fullmatch(version) is not None
