# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The import specification: what the server makes of a descriptor and of the choices, and what is added to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .._ovf.choices import Choices
from .._ovf.model import Problem
from .faults import told_localized
from .place import Node, Place
from .session import Session

_ENVIRONMENT = "guestinfo.ovfEnv"
# What this collection writes into machines. A package that was exported from one of them may bring it along.
_OWN = "vmops."


class FileItem(NamedTuple):
    """A file that the server wants. ``device`` is the key by which the lease names where it goes."""

    device: str
    path: str
    create: bool
    size_bytes: int | None


class Spec(NamedTuple):
    """An import specification. ``body`` is pyVmomi's; ``problems`` keep it from being imported; ``capacity_bytes`` is
    that of all disks.
    """

    body: Any
    files: tuple[FileItem, ...]
    warnings: tuple[str, ...]
    problems: tuple[Problem, ...]
    capacity_bytes: int


class Asked(NamedTuple):
    """What the specification is made of."""

    name: str
    choices: Choices
    properties: Mapping[str, str]
    hidden: frozenset[str]
    annotation: str | None


def create(session: Session, descriptor: str, place: Place, asked: Asked) -> Spec:
    """Ask the server; it changes nothing there. Raises RemoteFailed."""
    from pyVmomi import vim

    choices = asked.choices
    params = vim.OvfManager.CreateImportSpecParams(
        locale="US",
        entityName=asked.name,
        deploymentOption=choices.deployment_option or "",
        hostSystem=managed(session, place.host) if place.host is not None else None,
        networkMapping=[
            vim.OvfManager.NetworkMapping(name=name, network=managed(session, node))
            for name, node in place.networks.items()
        ],
        propertyMapping=[
            vim.KeyValue(key=key, value=value) for key, value in asked.properties.items() if key not in asked.hidden
        ],
        ipAllocationPolicy=choices.ip_allocation_policy,
        ipProtocol=choices.ip_protocol,
        diskProvisioning=choices.disk_provisioning,
    )
    answer = session.ask(
        "creating the import specification",
        session.content.ovfManager.CreateImportSpec,
        descriptor,
        managed(session, place.pool),
        managed(session, place.datastore),
        params,
    )
    problems = tuple(
        Problem("the package", told_localized(error), "Correct the option or the package that it is about")
        for error in answer.error or ()
    )
    body = answer.importSpec
    if body is not None:
        _set_hidden(body, asked)
        _keep_extra_config(body, lambda key: not key.startswith(_OWN))
        if asked.annotation is not None:
            body.configSpec.annotation = asked.annotation
    files = tuple(FileItem(item.deviceId, item.path, bool(item.create), item.size) for item in answer.fileItem or ())
    warnings = tuple(told_localized(warning) for warning in answer.warning or ())
    return Spec(body, files, warnings, problems, _capacity_bytes(body))


def _capacity_bytes(body: Any) -> int:
    from pyVmomi import vim

    devices = [change.device for change in body.configSpec.deviceChange or ()] if body is not None else []
    return sum(device.capacityInKB * 1024 for device in devices if isinstance(device, vim.vm.device.VirtualDisk))


def managed(session: Session, node: Node) -> Any:
    return session.find(node.kind, node.moid)


def _set_hidden(body: Any, asked: Asked) -> None:
    """Properties that aren't meant for whoever deploys: the server takes them only if they are declared to be."""
    config = body.configSpec.vAppConfig
    for entry in (config.property or ()) if config is not None else ():
        info = entry.info
        key = ".".join(part for part in (info.classId, info.id, info.instanceId) if part)
        if key in asked.hidden:
            info.userConfigurable = True
            info.value = asked.properties[key]


def add_extra_config(body: Any, values: Mapping[str, str]) -> None:
    """Add to what the machine keeps of its own, in place of what the package has under the same keys."""
    from pyVmomi import vim

    _keep_extra_config(body, lambda key: key not in values)
    added = [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]
    body.configSpec.extraConfig = [*body.configSpec.extraConfig, *added]


def _keep_extra_config(body: Any, keeps: Callable[[str], bool]) -> None:
    body.configSpec.extraConfig = [entry for entry in body.configSpec.extraConfig or () if keeps(entry.key)]


def environment(properties: Mapping[str, str], name: str) -> Mapping[str, str]:
    """The OVF environment as a guest reads it from its own configuration, where no vCenter makes one at power-on."""
    from xml.etree import ElementTree

    namespace = "http://schemas.dmtf.org/ovf/environment/1"
    ElementTree.register_namespace("oe", namespace)
    root = ElementTree.Element("{%s}Environment" % namespace, {"{%s}id" % namespace: name})
    section = ElementTree.SubElement(root, "{%s}PropertySection" % namespace)
    for key, value in properties.items():
        attributes = {"{%s}key" % namespace: key, "{%s}value" % namespace: value}
        ElementTree.SubElement(section, "{%s}Property" % namespace, attributes)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    return {_ENVIRONMENT: text}
