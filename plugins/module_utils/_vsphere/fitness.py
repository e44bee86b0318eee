# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the place that was found can take the machine: what else speaks against an import before it begins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .._ovf.model import Envelope, Problem, is_vsphere
from .._ovf.package import Package
from .place import Inventory, Located, Node, Place
from .plan import State
from .properties import read
from .session import Session, if_told
from .spec import Spec, managed

_VERSION = re.compile(r"vmx-(\d+)")
# What takes a disk's whole capacity at once.
_WHOLE = ("thick", "eagerZeroedThick", "monolithicFlat", "twoGbMaxExtentFlat", "flat")
# Datastores that decide by themselves, or by a policy, how much of a disk is taken at once (DatastoreSummary.type).
_DECIDES_ITSELF = ("nfs", "nfs41", "vsan", "vsand", "vvol")

_FREE = "summary.freeSpace"

UNHEARD = (
    "Without a vCenter an ESXi host hands a machine no OVF properties when it is powered on, and the package has some: "
    "its guest will not see them. Set inject_ovf_env=true to have them in the machine's own configuration."
)


def is_vcenter(session: Session) -> bool:
    """Whether the server is a vCenter, not a host that is asked itself."""
    return bool(session.content.about.apiType == "VirtualCenter")


def template_problems(session: Session, state: State) -> list[Problem]:
    """Whether there are templates at all. Asks nobody."""
    if state is not State.TEMPLATE or is_vcenter(session):
        return []
    return [Problem("state", "an ESXi host has no templates", "Say present or poweredon, or name its vCenter")]


def compute_problems(session: Session, inventory: Inventory, at: Located, envelope: Envelope) -> Iterator[Problem]:
    """Whether somebody chooses a host, and whether the hosts know the machine's hardware. What the server doesn't tell
    is none: it refuses by itself. Raises RemoteFailed.
    """
    if at.compute is None:
        return
    path = "configurationEx"  # its parts can't be asked for: a vCenter calls such a path invalid
    compute = managed(session, at.compute)
    doing = "reading what %s can run" % at.compute.name
    found = if_told(lambda: read(session, doing, [compute], [path, "environmentBrowser"]))
    values = found[0].values if found else {}
    unnamed = at.host is None and all(problem.where != "host" for problem in at.problems)
    if unnamed and _chooses_no_host(values.get(path)):
        yield Problem(
            "host", "%s has no DRS, which would choose a host" % inventory.path(at.compute), _hosts_of(inventory, at)
        )
    yield from _hardware_problems(session, inventory, at, envelope, values.get("environmentBrowser"))


def _chooses_no_host(configuration: Any) -> bool:
    """Only a cluster has such a configuration: what a lone host is in has no choice to make."""
    drs = getattr(configuration, "drsConfig", None)
    return drs is not None and drs.enabled is False


def _hosts_of(inventory: Inventory, at: Located) -> str:
    hosts = [
        node.name for node in inventory.of("HostSystem") if at.compute is not None and node.parent == at.compute.moid
    ]
    return "Name one of its hosts: %s" % ", ".join(sorted(hosts)[:20])


def _hardware_problems(
    session: Session, inventory: Inventory, at: Located, envelope: Envelope, browser: Any
) -> list[Problem]:
    """Of the versions that a package names the server takes one that it knows; older ones it knows for long."""
    versions = [version for machine in envelope.machines for version in machine.hardware_versions]
    wanted = _numbers(filter(is_vsphere, versions))
    if not wanted or browser is None:
        return []
    known = _numbers(_known_versions(session, browser, at.host))
    if not known or min(wanted) <= max(known):
        return []
    where = at.host or at.compute
    name = inventory.path(where) if where is not None else ""
    problem = "its hardware is of version vmx-%d, and %s knows none newer than vmx-%d" % (min(wanted), name, max(known))
    return [Problem("descriptor", problem, "Name newer hosts, or export the machine with older hardware")]


def _known_versions(session: Session, browser: Any, host: Node | None) -> Sequence[str]:
    options = if_told(lambda: session.ask("asking for hardware versions", browser.QueryConfigOptionDescriptor)) or ()
    return [
        option.key
        for option in options
        if host is None or not option.host or any(known._moId == host.moid for known in option.host)
    ]


def _numbers(versions: Iterator[str] | Sequence[str]) -> list[int]:
    return [int(found.group(1)) for found in map(_VERSION.match, versions) if found is not None]


def space_problems(
    session: Session, package: Package, place: Place, spec: Spec, provisioning: str | None
) -> list[Problem]:
    """Whether it fits. What is free a server only finds out now and then: before it is too little, it is asked to look.
    Raises RemoteFailed.
    """
    found = _space_problems(package, place, spec, provisioning)
    if not found:
        return []
    store = managed(session, place.datastore)
    if_told(lambda: session.ask("looking at what is free", store.RefreshDatastore))
    for now in read(session, "reading what is free", [store], [_FREE]):
        values = {**place.datastore.values, **now.values}
        place = place._replace(datastore=place.datastore._replace(values=values))
    return _space_problems(package, place, spec, provisioning)


def _space_problems(package: Package, place: Place, spec: Spec, provisioning: str | None) -> list[Problem]:
    """A thick disk takes its capacity at once where the datastore does as it is told; otherwise only what is sent is
    certain, and how much more is needed the server knows by itself.
    """
    free = place.datastore.values.get(_FREE)
    if free is None:
        return []
    free_told = "%s has %d bytes free" % (place.datastore.name, free)
    files = package.envelope.files
    kind = str(place.datastore.values.get("summary.type")).lower()
    if provisioning in _WHOLE and kind not in _DECIDES_ITSELF:
        disks = {disk.file_id for disk in package.envelope.disks}
        needed = spec.capacity_bytes + sum(package.size_of(file) for file in files if file.id not in disks)
        problem = "%s, and the disks take %d at once with disk_provisioning=%s" % (free_told, needed, provisioning)
        instead = "Free space there, choose another, or set disk_provisioning=thin"
    else:
        needed = sum(map(package.size_of, files))
        problem = "%s, and the files alone are %d" % (free_told, needed)
        instead = "Free space there, or choose another"
    return [Problem("datastore", problem, instead)] if needed > int(free) else []
