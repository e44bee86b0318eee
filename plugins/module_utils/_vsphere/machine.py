# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine on the server: finding it by its place, and what is done to it besides its import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._core.errors import Refused
from .._core.wait import Deadline
from .._ovf.stamp import Stamp
from .properties import read
from .session import Session
from .tasks import finish

_READ = (
    "name",
    "config.extraConfig",
    "config.template",
    "config.createDate",
    "config.instanceUuid",
    "runtime.powerState",
    "runtime.bootTime",
    "snapshot",
    "disabledMethod",
    "guest.ipAddress",
    "guest.net",
    "resourcePool",
)


class Machine(NamedTuple):
    """A machine as it is now. ``used_before``: what it tells of having run, or of having been worked with since it
    was made.
    """

    moid: str
    name: str
    power_state: str
    template: bool
    stamp: Stamp | None
    disabled: tuple[str, ...] = ()
    used_before: bool = False
    created_at: Any = None
    addresses: tuple[str, ...] = ()
    uuid: str | None = None
    pool: str | None = None

    @property
    def powered_on(self) -> bool:
        return self.power_state == "poweredOn"

    @property
    def in_use(self) -> bool:
        """Whether it runs, or is suspended and has its memory to lose."""
        return self.power_state != "poweredOff"

    @property
    def used(self) -> bool:
        """Whether it runs, has run or was made a template: none of it can be while its lease is held."""
        return self.in_use or self.used_before or self.template

    @property
    def is_copy(self) -> bool:
        """Whether its stamp is that of another machine, of which it is a clone."""
        machine = self.stamp.machine if self.stamp is not None else None
        return machine is not None and machine != self.uuid

    @property
    def reachable(self) -> bool:
        """Whether it has an address by which others can reach it: none that counts on its own link only."""
        return any(map(_is_reachable, self.addresses))

    @property
    def locked(self) -> bool:
        """Whether the server forbids to power it on, as it does while its lease is held."""
        return "PowerOnVM_Task" in self.disabled


def find_machine(session: Session, folder: str | None, name: str, wanted: bool = False) -> Machine | None:
    """The machine of this name in a folder; None if there is none. ``wanted``: one is to be there.

    Raises RemoteFailed, and where one is wanted Refused for a name that something else has.
    """
    place = session.find("Folder", folder) if folder else session.content.rootFolder
    found = session.ask("looking for %s" % name, session.content.searchIndex.FindChild, place, name)
    if found is not None and _is_machine(found):
        return look(session, found._moId)
    if found is not None and wanted:
        kind = type(found).__name__.rpartition(".")[2]
        raise Refused("import %s" % name, "a %s of this name is there" % kind, "Choose another name or folder")
    return None


def _is_machine(found: Any) -> bool:
    return type(found).__name__ == "vim.VirtualMachine"


def look(session: Session, moid: str) -> Machine | None:
    """A machine by its id; None if it is gone. Raises RemoteFailed."""
    return next(iter(look_all(session, [moid])), None)


def look_all(session: Session, moids: Sequence[str]) -> list[Machine]:
    """Several, by their ids; those that are gone are left out. Raises RemoteFailed."""
    objects = [session.find("VirtualMachine", moid) for moid in moids]
    found = read(session, "looking at the machine", objects, _READ)
    return [_machine(item.object._moId, item.values) for item in found]


def _machine(moid: str, values: Mapping[str, Any]) -> Machine:
    extra = {item.key: item.value for item in values.get("config.extraConfig") or ()}
    return Machine(
        moid=moid,
        name=values.get("name", ""),
        power_state=str(values.get("runtime.powerState", "")),
        template=bool(values.get("config.template")),
        stamp=Stamp.from_extra_config(extra),
        disabled=tuple(values.get("disabledMethod") or ()),
        used_before=values.get("runtime.bootTime") is not None or values.get("snapshot") is not None,
        created_at=values.get("config.createDate"),
        addresses=tuple(_addresses(values)),
        uuid=values.get("config.instanceUuid"),
        pool=pool._moId if (pool := values.get("resourcePool")) is not None else None,
    )


def _addresses(values: Mapping[str, Any]) -> list[str]:
    first = values.get("guest.ipAddress")
    found = [first] if first else []
    for adapter in values.get("guest.net") or ():
        found += [address for address in adapter.ipAddress or () if address not in found]
    return found


def _is_reachable(text: str) -> bool:
    from ipaddress import ip_address

    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:  # a guest may tell anything
        return False
    return not (address.is_link_local or address.is_loopback or address.is_unspecified)


def mark_complete(session: Session, machine: Machine, deadline: Deadline) -> None:
    """Flip the stamp of a machine whose import has ended well. Raises RemoteFailed, TimedOut."""
    from pyVmomi import vim

    if machine.stamp is None:
        return
    values = machine.stamp.finished(machine.uuid).to_extra_config()
    spec = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=key, value=text) for key, text in values.items()])
    doing = "marking %s as complete" % machine.name
    task = session.call(doing, session.find("VirtualMachine", machine.moid).ReconfigVM_Task, spec)
    finish(session, task, doing, deadline)


def destroy(session: Session, machine: Machine, deadline: Deadline) -> None:
    """Remove a machine with its files. Raises RemoteFailed, TimedOut."""
    doing = "removing %s" % machine.name
    task = session.call(doing, session.find("VirtualMachine", machine.moid).Destroy_Task)
    finish(session, task, doing, deadline)


def set_power(session: Session, machine: Machine, on: bool, deadline: Deadline) -> None:
    """Power a machine on or off, the latter hard. Raises RemoteFailed, TimedOut."""
    found = session.find("VirtualMachine", machine.moid)
    doing = "powering %s %s" % (machine.name, "on" if on else "off")
    task = session.call(doing, found.PowerOnVM_Task if on else found.PowerOffVM_Task)
    finish(session, task, doing, deadline)


def rename(session: Session, machine: Machine, name: str, deadline: Deadline) -> None:
    """Raises RemoteFailed, TimedOut."""
    doing = "renaming %s to %s" % (machine.name, name)
    task = session.call(doing, session.find("VirtualMachine", machine.moid).Rename_Task, name)
    finish(session, task, doing, deadline)


def mark_as_template(session: Session, machine: Machine) -> None:
    """Raises RemoteFailed."""
    doing = "making %s a template" % machine.name
    session.call(doing, session.find("VirtualMachine", machine.moid).MarkAsTemplate)
