# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a machine goes, in inventories of which the user may see only a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.place import (
    Inventory,
    Node,
    Wanted,
    find,
    find_folder,
)


class Reference:
    """What a property refers to, as pyVmomi has it."""

    def __init__(self, moid: str) -> None:
        self._moId = moid


def refers(*moids: str) -> list[Reference]:
    return [Reference(moid) for moid in moids]


WHOLE = (
    Node("root", "Folder", "Datacenters", None, {}),
    Node("dc", "Datacenter", "DC0", "root", {"vmFolder": Reference("vms")}),
    Node("vms", "Folder", "vm", "dc", {}),
    Node("hosts", "Folder", "host", "dc", {}),
    Node("stores", "Folder", "datastore", "dc", {}),
    Node("nets", "Folder", "network", "dc", {}),
    Node(
        "cluster",
        "ClusterComputeResource",
        "C0",
        "hosts",
        {"resourcePool": Reference("pool"), "datastore": refers("ds"), "network": refers("net")},
    ),
    Node("pool", "ResourcePool", "Resources", "cluster", {}),
    Node("app", "VirtualApp", "shop", "pool", {}),
    Node("h1", "HostSystem", "esx1", "cluster", {"datastore": refers("ds"), "network": refers("net")}),
    Node("ds", "Datastore", "ssd", "stores", {"summary.freeSpace": 1}),
    Node("net", "Network", "VM Network", "nets", {}),
)


def inventory(without: tuple[str, ...] = (), hidden: Mapping[str, str] | None = None) -> Inventory:
    """The whole one, without some of its things, and without one property each of others."""

    def seen(node: Node) -> Node:
        values: dict[str, Any] = {
            key: value for key, value in node.values.items() if key != (hidden or {}).get(node.moid)
        }
        return node._replace(values=values)

    return Inventory(seen(node) for node in WHOLE if node.moid not in without)


def test_all_of_it_is_found() -> None:
    place, _compute, _host, problems = find(inventory(), Wanted(), ["VM Network"])
    assert problems == []
    assert place is not None
    assert [place.folder.moid, place.pool.moid, place.host, place.datastore.moid] == ["vms", "pool", None, "ds"]
    assert {name: node.moid for name, node in place.networks.items()} == {"VM Network": "net"}


@pytest.mark.parametrize(
    ("without", "hidden", "wanted", "option", "told"),
    [
        (("vms",), {}, Wanted(), "folder", "the folder of machines of DC0 can't be seen"),
        ((), {"dc": "vmFolder"}, Wanted(), "folder", "the folder of machines of DC0 can't be seen"),
        (("pool",), {}, Wanted(), "cluster", "the resource pool of C0 can't be seen"),
        ((), {"cluster": "resourcePool"}, Wanted(cluster="C0"), "cluster", "the resource pool of C0 can't be seen"),
        ((), {"cluster": "resourcePool"}, Wanted(host="esx1"), "host", "the resource pool of C0 can't be seen"),
        (("cluster",), {}, Wanted(host="esx1"), "host", "there is no esx1 among the hosts"),
        (("dc",), {}, Wanted(), "datacenter", "there are 0 datacenters"),
        (("hosts",), {}, Wanted(), "cluster", "there are 0 clusters"),
    ],
)
def test_what_is_hidden_from_the_user_is_told(
    without: tuple[str, ...], hidden: Mapping[str, str], wanted: Wanted, option: str, told: str
) -> None:
    place, _compute, _host, problems = find(inventory(without, hidden), wanted, [])
    assert place is None
    assert [problem.where for problem in problems] == [option]
    assert told in problems[0].problem


@pytest.mark.parametrize("hidden", ["datastore", "network"])
def test_where_what_a_cluster_can_use_is_hidden_the_server_decides(hidden: str) -> None:
    place, _compute, _host, problems = find(inventory((), {"cluster": hidden}), Wanted(), ["VM Network"])
    assert problems == []
    assert place is not None
    assert (place.datastore.moid, place.networks["VM Network"].moid) == ("ds", "net")
    wrong = Wanted(datastore="d9", networks={"VM Network": "n9"})
    _place, _compute, _host, problems = find(inventory((), {"cluster": hidden}), wrong, ["VM Network"])
    of_c0 = {"datastore": " of C0", "network": " of C0", hidden: ""}
    assert [problem.problem for problem in problems] == [
        "there is no d9 among the datastores" + of_c0["datastore"],
        "there is no n9 among the networks" + of_c0["network"],
    ]


def test_a_vapp_is_no_place_for_a_machine_that_is_to_be_found_again() -> None:
    place, _compute, _host, [problem] = find(inventory(), Wanted(resource_pool="shop"), [])
    assert place is None
    assert (problem.where, problem.problem) == ("resource_pool", "shop is a vApp")


def test_a_pool_whose_cluster_is_hidden() -> None:
    nodes = [node for node in WHOLE if node.moid != "cluster"]
    nodes = [node._replace(parent="hosts") if node.moid == "pool" else node for node in nodes]
    place, _compute, _host, problems = find(Inventory(nodes), Wanted(resource_pool="Resources"), [])
    assert place is None
    assert [problem.where for problem in problems] == ["resource_pool"]
    assert "the cluster or host of Resources can't be seen" in problems[0].problem


def test_a_path_that_begins_where_the_user_may_not_look() -> None:
    seen = inventory(("root", "hosts"))
    assert [seen.path(node) for node in seen.of("ClusterComputeResource", "Datastore")] == [
        "…/C0",
        "…/DC0/datastore/ssd",
    ]
    whole = inventory()
    assert [whole.path(node) for node in whole.of("Datastore", "Datacenter")] == ["/DC0", "/DC0/datastore/ssd"]


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = {"cluster": "c9", "host": "h9", "resource_pool": "p9", "folder": "f9", "datastore": "d9"}
    place, _compute, _host, problems = find(inventory(), Wanted(**wrong, networks={"a": "n9"}), ["a", "b"])
    assert place is None
    assert sorted(problem.where for problem in problems) == sorted([*wrong, "networks.a", "networks"])


TWO = (
    *WHOLE,
    Node("dc1", "Datacenter", "DC1", "far", {"vmFolder": Reference("vms1")}),
    Node("far", "Folder", "far away", "root", {}),
    Node("vms1", "Folder", "vm", "dc1", {}),
    Node("prod1", "Folder", "prod", "vms1", {}),
)


@pytest.mark.parametrize(
    ("wanted", "folder"),
    [
        (Wanted(folder="/DC0/vm"), "vms"),
        (Wanted(folder="/far away/DC1/vm/prod"), "prod1"),
        (Wanted(cluster="/DC0/host/C0"), "vms"),
        (Wanted(host="/DC0/host/C0/esx1"), "vms"),
        (Wanted(datastore="/DC0/datastore/ssd", folder="vm"), "vms"),
    ],
)
def test_a_whole_path_tells_the_datacenter(wanted: Wanted, folder: str) -> None:
    assert find_folder(Inventory(TWO), wanted).moid == folder


def test_a_whole_path_tells_the_datacenter_also_where_its_beginning_is_hidden() -> None:
    seen = Inventory(node for node in TWO if node.moid not in ("root", "far"))
    assert find_folder(seen, Wanted(folder="/DC1/vm/prod")).moid == "prod1"


@pytest.mark.parametrize("folder", ["prod", "/DC2/vm/prod", "/DC"])
def test_other_names_leave_the_datacenter_open(folder: str) -> None:
    with pytest.raises(BadInput, match=r"there are 2 datacenters, and none is named.* /DC0, /far away/DC1"):
        find_folder(Inventory(TWO), Wanted(folder=folder))


def test_an_id_is_no_name() -> None:
    _place, _compute, _host, problems = find(inventory(), Wanted(folder="vms", cluster="cluster", datastore="net"), [])
    assert [problem.where for problem in problems] == ["folder", "cluster", "datastore"]
    assert [problem.instead for problem in problems] == [
        "Say /DC0/vm",
        "Say /DC0/host/C0",
        "Name one of them: /DC0/datastore/ssd",
    ]
    assert problems[0].problem == "vms is an id, and a name or a path is wanted"


@pytest.mark.parametrize("kind", ["DistributedVirtualPortgroup", "OpaqueNetwork"])
def test_of_networks_with_one_path_the_id_tells_which(kind: str) -> None:
    moids = ("net", "seg1", "seg2")
    nodes = [
        *(
            node._replace(values={**node.values, "network": refers(*moids)}) if node.moid == "cluster" else node
            for node in WHOLE
        ),
        Node("seg1", "DistributedVirtualPortgroup", "seg", "nets", {}),
        Node("seg2", kind, "seg", "nets", {}),
    ]
    two = "Name one of them: seg1 (/DC0/network/seg), seg2 (/DC0/network/seg)"
    for given in ("seg", "/DC0/network/seg"):
        _place, _compute, _host, [problem] = find(Inventory(nodes), Wanted(networks={"a": given}), ["a"])
        assert (problem.problem, problem.instead) == ("%s means 2 of the networks of C0" % given, two)
    _place, _compute, _host, [problem] = find(Inventory(nodes), Wanted(), ["seg"])
    assert problem.instead == two
    for moid in ("seg1", "seg2"):
        place, _compute, _host, problems = find(Inventory(nodes), Wanted(networks={"a": moid}), ["a"])
        assert problems == []
        assert place is not None
        assert place.networks["a"].moid == moid
    _place, _compute, _host, [problem] = find(Inventory(nodes), Wanted(networks={"a": "net"}), ["a"])
    assert problem.instead == "Say /DC0/network/VM Network"
    _place, _compute, _host, [problem] = find(Inventory(nodes), Wanted(networks={"a": "n9"}), ["a"])
    assert problem.instead == two.replace(": ", ": /DC0/network/VM Network, ")


def test_a_whole_path_counts_for_more_than_the_end_of_another() -> None:
    nodes = [
        *WHOLE,
        Node("eu", "Folder", "EU", "root", {}),
        Node("dc1", "Datacenter", "DC0", "eu", {"vmFolder": Reference("vms1")}),
        Node("vms1", "Folder", "vm", "dc1", {}),
        Node("inner", "Folder", "DC0", "vms", {}),
        Node("deep", "Folder", "vm", "inner", {}),
    ]
    for given, folder in (("/DC0", "vms"), ("/DC0/", "vms"), ("/EU/DC0", "vms1")):
        assert find_folder(Inventory(nodes), Wanted(datacenter=given)).moid == folder
    assert find_folder(Inventory(nodes), Wanted(datacenter="/DC0", folder="/DC0/vm")).moid == "vms"
    with pytest.raises(BadInput, match=r"DC0 means 2 of the datacenters.* /DC0, /EU/DC0"):
        find_folder(Inventory(nodes), Wanted(datacenter="DC0"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"runtime.inMaintenanceMode": True, "runtime.connectionState": "connected"},
            "/DC0/host/C0/esx1 is in maintenance mode",
        ),
        (
            {"runtime.inMaintenanceMode": False, "runtime.connectionState": "notResponding"},
            "/DC0/host/C0/esx1 is notResponding",
        ),
        ({"runtime.inMaintenanceMode": False, "runtime.connectionState": "connected"}, None),
        ({}, None),
    ],
)
def test_a_host_that_takes_no_machines(values: Mapping[str, Any], told: str | None) -> None:
    nodes = [node._replace(values={**node.values, **values}) if node.moid == "h1" else node for node in WHOLE]
    place, _compute, host, problems = find(Inventory(nodes), Wanted(cluster="C0", host="esx1"), [])
    assert [(problem.where, problem.problem) for problem in problems] == ([("host", told)] if told else [])
    assert (place is None) == (host is None) == bool(told)


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(datastore="ssd")], ids=["any", "named"])
@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"summary.maintenanceMode": "inMaintenance"}, "is in maintenance mode"),
        ({"summary.accessible": False}, "is not accessible"),
        ({"summary.accessible": True, "summary.maintenanceMode": "normal"}, None),
    ],
)
def test_a_datastore_that_can_not_be_used(wanted: Wanted, values: Mapping[str, Any], told: str | None) -> None:
    nodes = [node._replace(values={**node.values, **values}) if node.moid == "ds" else node for node in WHOLE]
    place, _compute, _host, problems = find(Inventory(nodes), wanted, ["VM Network"])
    assert [problem.where for problem in problems] == (["datastore"] if told else [])
    assert all(str(told) in problem.problem for problem in problems)
    assert (place is None) == bool(told)
