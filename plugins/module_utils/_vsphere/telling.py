# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a machine and an import are told: in diffs and in results."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.converge import View
from .._core.errors import LifecycleError
from .._ovf.package import Package
from .machine import Machine
from .place import Place
from .spec import Spec


def view_of(name: str, machine: Machine | None, remains: bool = False) -> View:
    if machine is None:
        return {"vm": {"name": name, "exists": False}, **({"unfinished": True} if remains else {})}
    stamp = machine.stamp
    return {
        "vm": {
            "name": name,
            "exists": True,
            "complete": stamp is None or stamp.is_complete,
            "digest": stamp.digest if stamp is not None else None,
            "power_state": machine.power_state,
            "template": machine.template,
        },
        **({"unfinished": True} if remains else {}),
    }


def told_unmarked(name: str, failed: LifecycleError) -> str:
    """The warning where a machine is whole, and the mark that says so could not be written."""
    needs = "Writing it needs the privilege VirtualMachine.Config.AdvancedConfig. "
    return (
        "%s is imported and whole, but the mark that says so could not be written: %s %sThe next run writes it if the "
        "server still knows that the import succeeded, or if the machine has been powered on by then; otherwise that "
        "run refuses to touch the machine."
        % (name, failed, needs if failed.facts.get("fault") == "NoPermission" else "")
    )


def told_machine(machine: Machine, path: str) -> Mapping[str, object]:
    return {
        "moref": machine.moid,
        "name": machine.name,
        "path": path,
        "power_state": machine.power_state,
        "template": machine.template,
        "ip_addresses": list(machine.addresses),
        "digest": machine.stamp.digest if machine.stamp is not None else None,
    }


def told_spec(spec: Spec, package: Package, place: Place) -> Mapping[str, object]:
    envelope = package.envelope
    return {
        "files": [{"name": item.path, "size": item.size_bytes} for item in spec.files],
        "disks": [{"id": disk.id, "capacity": disk.capacity_bytes} for disk in envelope.disks],
        "networks": {name: node.name for name, node in place.networks.items()},
        "folder": place.folder.name,
        "pool": place.pool.name,
        "host": place.host.name if place.host is not None else None,
        "datastore": place.datastore.name,
        "eulas": [{"section": eula.section, "text": eula.text} for eula in envelope.eulas],
    }
