# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a machine goes: names and paths of the task's options, found in the server's inventory in one look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .._core.errors import BadInput
from .._ovf.model import Problem
from .properties import Found, retrieve
from .session import Session


class Wanted(NamedTuple):
    """The options about the place, as given."""

    datacenter: str | None = None
    cluster: str | None = None
    resource_pool: str | None = None
    host: str | None = None
    folder: str | None = None
    datastore: str | None = None
    datastore_cluster: str | None = None
    networks: Mapping[str, str] = {}


class Node(NamedTuple):
    """A thing of the inventory; ``kind`` is its type's name, such as HostSystem."""

    moid: str
    kind: str
    name: str
    parent: str | None
    values: Mapping[str, Any]


class Place(NamedTuple):
    """Where it goes, all of it found. ``networks`` has the target of each of the package's networks."""

    folder: Node
    pool: Node
    host: Node | None
    datastore: Node
    networks: Mapping[str, Node]


class Located(NamedTuple):
    """What came of the search: the place, or all that is wrong with the options about it; one of both is empty.
    ``compute`` is the cluster, or what a host that stands alone is in, and ``host`` the one that is named, as far as
    they were found.
    """

    place: Place | None
    compute: Node | None
    host: Node | None
    problems: Sequence[Problem]


_WITHIN_DATACENTER = ("folder", "cluster", "resource_pool", "host", "datastore", "datastore_cluster")
_HOST_STATE = ("runtime.connectionState", "runtime.inMaintenanceMode")
_HIDDEN = "…"  # in a path, what the user may not see
_COMPUTE = ("ComputeResource", "ClusterComputeResource")
_POOLS = ("ResourcePool", "VirtualApp")
_NETWORKS = ("Network", "DistributedVirtualPortgroup", "OpaqueNetwork")


class Inventory:
    """All but the machines, as it was at one look."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = {node.moid: node for node in nodes}

    def of(self, *kinds: str) -> list[Node]:
        return [node for node in self._nodes.values() if node.kind in kinds]

    def get(self, reference: Any) -> Node | None:
        """What a property refers to; None where the user may not see it, or not even the property."""
        return self._nodes.get(reference._moId) if reference is not None else None

    def parent(self, node: Node) -> Node | None:
        """None of the root, and where the user may not see it."""
        return self._nodes.get(node.parent or "")

    def ancestors(self, node: Node) -> Iterator[Node]:
        """Itself, its parent, and so on."""
        found: Node | None = node
        while found is not None:
            yield found
            found = self.parent(found)

    def path(self, node: Node) -> str:
        """Such as /DC0/vm/prod. The root has no part in it; what is hidden from the user is an ellipsis."""
        way = list(self.ancestors(node))
        top = "" if way[-1].parent is None else _HIDDEN
        return "/".join([top, *reversed([found.name for found in way if found.parent is not None])])

    def within(self, node: Node, top: Node) -> bool:
        return any(found.moid == top.moid for found in self.ancestors(node))

    def choose(self, option: str, what: str, given: str | None, among: list[Node]) -> Node:
        """The one that is meant by a name or a path, or the only one there is; of several with one path, by its id.
        Raises BadInput.
        """
        if given is None:
            if len(among) == 1:
                return among[0]
            raise BadInput(option, "there are %d %s, and none is named" % (len(among), what), _name_one(self, among))
        found = [node for node in among if self.is_meant(node, given)]
        whole = [node for node in found if self._is_whole_path(node, given)]
        if len(whole or found) == 1:
            return (whole or found)[0]
        if found:
            raise BadInput(option, "%s means %d of the %s" % (given, len(found), what), _name_one(self, found))
        for node in among:
            if node.moid == given:
                if self._shares_path(node, among):
                    return node
                problem = "%s is an id, and a name or a path is wanted" % given
                raise BadInput(option, problem, "Say %s" % self.path(node))
        raise BadInput(option, "there is no %s among the %s" % (given, what), _name_one(self, among))

    def is_meant(self, node: Node, given: str) -> bool:
        """Whether a name or a path is that of a thing."""
        if given == node.name or self._is_whole_path(node, given):
            return True
        return self.path(node).endswith("/" + given.strip("/"))

    def _is_whole_path(self, node: Node, given: str) -> bool:
        return given.rstrip("/") == self.path(node)

    def _shares_path(self, node: Node, among: list[Node]) -> bool:
        """Whether only its id tells it from another one, such as networks of NSX on two distributed switches."""
        path = self.path(node)
        return any(other.moid != node.moid and self.path(other) == path for other in among)


def _name_one(inventory: Inventory, among: list[Node]) -> str:
    paths = [(inventory.path(node), node.moid) for node in among]
    times = Counter(path for path, _moid in paths)
    told = ", ".join(sorted(path if times[path] == 1 else "%s (%s)" % (moid, path) for path, moid in paths)[:20])
    return "Name one of them: %s" % told if told else "None can be seen by this user; look at the user's rights"


def look(session: Session) -> Inventory:
    """Raises RemoteFailed."""
    from pyVmomi import vim, vmodl

    kind = vmodl.query.PropertyCollector

    def step(name: str, of: type, path: str, *then: str) -> Any:
        onward = [kind.SelectionSpec(name=selection) for selection in then]
        return kind.TraversalSpec(name=name, type=of, path=path, skip=False, selectSet=onward)

    everywhere = ("folders", "hosts", "stores", "networks", "machines", "pools", "members", "subpools")
    steps = [
        step("folders", vim.Folder, "childEntity", *everywhere),
        step("hosts", vim.Datacenter, "hostFolder", "folders"),
        step("stores", vim.Datacenter, "datastoreFolder", "folders"),
        step("networks", vim.Datacenter, "networkFolder", "folders"),
        step("machines", vim.Datacenter, "vmFolder", "folders"),
        step("pools", vim.ComputeResource, "resourcePool", "subpools"),
        step("members", vim.ComputeResource, "host"),
        step("subpools", vim.ResourcePool, "resourcePool", "subpools"),
    ]
    named = ["name", "parent"]
    wanted: dict[type, list[str]] = {
        vim.Folder: named,
        vim.Datacenter: [*named, "vmFolder"],
        vim.ComputeResource: [*named, "resourcePool", "host", "datastore", "network"],
        vim.ResourcePool: named,
        vim.HostSystem: [*named, "datastore", "network", *_HOST_STATE],
        vim.Datastore: [*named, "summary.freeSpace", "summary.type", "summary.accessible", "summary.maintenanceMode"],
        vim.Network: named,
    }
    root = kind.ObjectSpec(obj=session.content.rootFolder, skip=False, selectSet=steps)
    return Inventory([_node(found) for found in retrieve(session, "reading the inventory", [root], wanted)])


def _node(found: Found) -> Node:
    from urllib.parse import unquote

    parent = found.values.get("parent")
    kind = type(found.object).__name__.rpartition(".")[2]
    # vSphere writes %2f for a slash in a name
    name = unquote(found.values.get("name") or found.object._moId)
    return Node(found.object._moId, kind, name, parent._moId if parent is not None else None, found.values)


def find_datacenter(inventory: Inventory, wanted: Wanted) -> Node:
    """The one that is named, or in which something is that is named by its whole path. Raises BadInput."""
    among = inventory.of("Datacenter")
    if wanted.datacenter is None:
        places = (getattr(wanted, option) or "" for option in _WITHIN_DATACENTER)
        among = _with_paths(inventory, among, [path for path in places if path.startswith("/")]) or among
    return inventory.choose("datacenter", "datacenters", wanted.datacenter, among)


def _with_paths(inventory: Inventory, datacenters: list[Node], paths: list[str]) -> list[Node]:
    """The datacenters that these paths lead through."""
    tops = [(node, inventory.path(node).lstrip(_HIDDEN) + "/") for node in datacenters]
    return [node for node, top in tops if any(path.startswith(top) for path in paths)]


def find_folder(inventory: Inventory, wanted: Wanted) -> Node:
    """The folder of machines, that of the datacenter itself by default. Raises BadInput."""
    datacenter = find_datacenter(inventory, wanted)
    top = inventory.get(datacenter.values.get("vmFolder"))
    if top is None:
        raise _hidden("folder", "the folder of machines of %s" % datacenter.name)
    if wanted.folder is None:
        return top
    among = [node for node in inventory.of("Folder") if inventory.within(node, top)]
    return inventory.choose("folder", "folders", wanted.folder, among)


def _hidden(option: str, what: str) -> BadInput:
    return BadInput(option, "%s can't be seen by this user" % what, "Give the user the right to see and to use it")


def find(inventory: Inventory, wanted: Wanted, package_networks: Sequence[str]) -> Located:
    """Of the package's networks, one that isn't mapped goes to the server's of the same name."""
    return _Search(inventory, wanted).located(package_networks)


class _Search:
    """Looks for one thing after the other, and notes what is wrong. What depends on something that isn't found is
    looked for in the whole datacenter, so that a name that can't be right is told all the same.
    """

    def __init__(self, inventory: Inventory, wanted: Wanted) -> None:
        self._inventory = inventory
        self._wanted = wanted
        self._datacenter: Node | None = None
        self.problems: list[Problem] = []

    def located(self, package_networks: Sequence[str]) -> Located:
        inventory, wanted = self._inventory, self._wanted
        self._datacenter = self._noted(lambda: find_datacenter(inventory, wanted))
        if self._datacenter is None:
            return Located(None, None, None, self.problems)
        folder = self._noted(lambda: find_folder(inventory, wanted))
        host = self._noted(self._host) if wanted.host is not None else None
        compute = self._noted(lambda: self._compute(host))
        pool = self._noted(lambda: self._pool(compute))
        if compute is None and pool is not None:
            compute = self._noted(lambda: self._owner(pool))
        owner = host or compute
        datastore = self._noted(lambda: self._datastore(owner))
        networks = self._networks(owner, package_networks)
        place = None
        if not self.problems and folder is not None and pool is not None and datastore is not None:
            place = Place(folder, pool, host, datastore, networks)
        return Located(place, compute, host, self.problems)

    def _noted(self, look_for: Callable[[], Node | None]) -> Node | None:
        try:
            return look_for()
        except BadInput as wrong:
            self.problems.append(Problem(wrong.option, wrong.problem, wrong.expected))
            return None

    def _here(self, *kinds: str) -> list[Node]:
        inventory, datacenter = self._inventory, self._datacenter
        return [node for node in inventory.of(*kinds) if datacenter is not None and inventory.within(node, datacenter)]

    def _host(self) -> Node:
        found = self._inventory.choose("host", "hosts", self._wanted.host, self._here("HostSystem"))
        connection, maintenance = map(found.values.get, _HOST_STATE)
        if maintenance or connection not in (None, "connected"):
            state = "in maintenance mode" if maintenance else connection
            raise BadInput("host", "%s is %s" % (self._inventory.path(found), state), "Name another, or bring it back")
        return found

    def _compute(self, host: Node | None) -> Node | None:
        """The cluster, or what a host that stands alone is in; None where only the pool tells it."""
        inventory, wanted = self._inventory, self._wanted
        cluster = None
        if wanted.cluster is not None:
            cluster = inventory.choose("cluster", "clusters", wanted.cluster, self._here(*_COMPUTE))
        if host is not None:
            return self._compute_of(host, cluster)
        if cluster is not None or wanted.resource_pool is not None or wanted.host is not None:
            return cluster
        return inventory.choose("cluster", "clusters and hosts", None, self._here(*_COMPUTE))

    def _compute_of(self, host: Node, cluster: Node | None) -> Node:
        found = self._inventory.parent(host)
        if found is None:
            raise _hidden("host", "what %s belongs to" % host.name)
        if cluster is not None and cluster != found:
            raise self._elsewhere("host", host, cluster)
        return found

    def _elsewhere(self, option: str, node: Node, top: Node) -> BadInput:
        path = self._inventory.path
        return BadInput(
            option, "%s is not of %s" % (path(node), path(top)), "Name one that is, or name only one of both"
        )

    def _pool(self, compute: Node | None) -> Node | None:
        if self._wanted.resource_pool is None:
            return self._root_pool(compute) if compute is not None else None
        pool = self._named_pool(self._wanted.resource_pool, compute)
        if pool.kind == "VirtualApp":  # its machines are in no folder, so a second run would not find them
            raise BadInput("resource_pool", "%s is a vApp" % pool.name, "Name a resource pool")
        return pool

    def _named_pool(self, given: str, compute: Node | None) -> Node:
        inventory = self._inventory
        everywhere = self._here(*_POOLS)
        among = [node for node in everywhere if compute is None or inventory.within(node, compute)]
        try:
            return inventory.choose("resource_pool", "resource pools", given, among)
        except BadInput:
            if compute is None or any(inventory.is_meant(node, given) for node in among):
                raise
            raise self._elsewhere(
                "resource_pool", inventory.choose("resource_pool", "resource pools", given, everywhere), compute
            ) from None

    def _root_pool(self, compute: Node) -> Node:
        found = self._inventory.get(compute.values.get("resourcePool"))
        if found is None:
            option = "cluster" if self._wanted.host is None else "host"
            raise _hidden(option, "the resource pool of %s" % compute.name)
        return found

    def _owner(self, pool: Node) -> Node:
        found = next((node for node in self._inventory.ancestors(pool) if node.kind in _COMPUTE), None)
        if found is None:
            raise _hidden("resource_pool", "the cluster or host of %s" % pool.name)
        return found

    def _datastore(self, owner: Node | None) -> Node:
        inventory, wanted = self._inventory, self._wanted
        what, among = self._seen_by(owner, "datastore", self._here("Datastore"))
        usable = [node for node in among if not _why_unusable(node)]
        if wanted.datastore_cluster is None:
            named = wanted.datastore is not None or not usable
            found = inventory.choose("datastore", what, wanted.datastore, among if named else usable)
            unusable = _why_unusable(found)
            if unusable:
                why = "%s is %s" % (inventory.path(found), unusable)
                raise BadInput("datastore", why, "Name another, or bring it back")
            return found
        pods = self._here("StoragePod")
        pod = inventory.choose("datastore_cluster", "datastore clusters", wanted.datastore_cluster, pods)
        members = [node for node in usable if node.parent == pod.moid]
        if not members:
            raise BadInput(
                "datastore_cluster",
                "%s has none of the %s that can be used" % (pod.name, what),
                "Choose another, or end its datastores' maintenance",
            )
        return max(members, key=lambda node: int(node.values.get("summary.freeSpace") or 0))

    def _networks(self, owner: Node | None, package_networks: Sequence[str]) -> Mapping[str, Node]:
        what, among = self._seen_by(owner, "network", self._here(*_NETWORKS))
        names = {node.name for node in among}
        mapped = {**{name: name for name in package_networks if name in names}, **self._wanted.networks}
        found = {}
        for name, target in mapped.items():
            option = "networks.%s" % name
            node = self._noted(partial(self._inventory.choose, option, what, target, among))
            if node is not None:
                found[name] = node
        self.problems += [
            Problem("networks", "the package's network %s goes nowhere" % name, "Name the server's network for it")
            for name in package_networks
            if name not in mapped
        ]
        return found

    @staticmethod
    def _seen_by(owner: Node | None, kind: str, among: list[Node]) -> tuple[str, list[Node]]:
        """What a host or cluster can use, and how that is called; all, where it isn't known which one it is, or the
        user may not see what it can use: the server knows it.
        """
        if owner is None or kind not in owner.values:
            return "%ss" % kind, among
        seen = {found._moId for found in owner.values[kind] or ()}
        return "%ss of %s" % (kind, owner.name), [node for node in among if node.moid in seen]


def _why_unusable(node: Node) -> str:
    """Why a datastore takes no files; empty where it does."""
    if not node.values.get("summary.accessible", True):
        return "not accessible"
    in_use = node.values.get("summary.maintenanceMode") in (None, "", "normal")
    return "" if in_use else "in maintenance mode"
