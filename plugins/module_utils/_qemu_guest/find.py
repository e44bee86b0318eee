# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a QEMU's own command line says of it, and the search for a guest of which only the name or the UUID is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .._core.capabilities import Capability, has
from .._core.errors import BadInput, Refused
from .model import AGENT_PORT, Guest
from .process import arguments, pidfile_owner

_MONITOR_OPTIONS = ("-qmp", "-qmp-pretty")


class Claims(NamedTuple):
    """What a QEMU was started with.

    A process writes its command line itself, so this never outweighs what the kernel says.
    """

    name: str | None
    uuid: str | None
    pidfile: str | None
    qmp_socket: str | None
    agent_socket: str | None = None


def is_qemu(argv: Sequence[str]) -> bool:
    """Whether a command line is that of a QEMU system emulator, by the program's name."""
    program = os.path.basename(argv[0]) if argv else ""
    return program.startswith("qemu-system-") or program in ("qemu-kvm", "kvm")


def claims(argv: Sequence[str]) -> Claims:
    """Read a QEMU's command line. Relative paths are left out: what they were relative to is not known."""
    name = uuid = pidfile = qmp_socket = None
    monitor = agent = ""
    chardevs: dict[str, str] = {}
    for option, value in zip(argv, argv[1:]):
        option = "-" + option.lstrip("-")
        if option == "-name":
            fields = suboptions(value, "guest")
            name = fields.get("guest")
        elif option == "-uuid":
            uuid = value.lower()
        elif option == "-pidfile":
            pidfile = _absolute(value)
        elif option in _MONITOR_OPTIONS and value.startswith("unix:"):
            qmp_socket = _absolute(suboptions(value[5:], "path").get("path"))
        elif option == "-chardev" and value.startswith("socket,"):
            fields = suboptions(value, "backend")
            chardevs[fields.get("id", "")] = fields.get("path", "")
        elif option == "-mon":
            fields = suboptions(value, "chardev")
            monitor = fields.get("chardev", "") if fields.get("mode") == "control" else monitor
        elif option == "-device" and AGENT_PORT in value:
            agent = _device(value).get("chardev", "")
    qmp_socket = qmp_socket or _absolute(chardevs.get(monitor))
    return Claims(name, uuid, pidfile, qmp_socket, _absolute(chardevs.get(agent)))


def _device(text: str) -> Mapping[str, str]:
    """A device by QEMU's own words or, as libvirt has it, in JSON."""
    if not text.startswith("{"):
        return suboptions(text, "driver")
    try:
        fields = json.loads(text)
    except ValueError:
        return {}
    return {key: str(value) for key, value in fields.items()} if isinstance(fields, dict) else {}


def suboptions(text: str, first: str) -> Mapping[str, str]:
    """QEMU's ``value,key=value,…``, in which a doubled comma stands for one.

    The unnamed first value is called ``first``.
    """
    fields: dict[str, str] = {}
    for number, piece in enumerate(text.replace(",,", "\0").split(",")):
        key, equals, value = piece.replace("\0", ",").partition("=")
        if equals:
            fields[key] = value
        elif number == 0:
            fields[first] = key
    return fields


def complete(guest: Guest) -> Guest | None:
    """Find a guest of which only the name or the UUID is given, among the QEMU processes of this host; None if there
    is no such.

    Raises Refused where several match, or where this user can't see every process.
    """
    if not has(Capability.PROC):
        raise BadInput(
            guest.label, "a name or UUID alone can't be found on a system without /proc", "Give pidfile and qmp_socket"
        )
    matching = claimants(guest)
    if len({said for _pid, said in matching}) == 1 and len(matching) > 1:
        # A QEMU that becomes a daemon, and its first process, which is about to end: the one that stays has the lock.
        matching = [item for item in matching if item[1].pidfile and _may_own(item[0], item[1].pidfile)] or matching
    if len(matching) > 1:
        raise Refused(
            "act on %s" % guest.label,
            "several processes claim to be it (%s)" % ", ".join(str(pid) for pid, _claims in matching),
            "Give pidfile or qmp_socket of the one that is meant",
        )
    if matching:
        pid, said = matching[0]
        pidfile = said.pidfile if said.pidfile and _may_own(pid, said.pidfile) else None
        return guest._replace(pid=pid, pidfile=pidfile, qmp_socket=said.qmp_socket, agent_socket=said.agent_socket)
    if not arguments(1):
        raise Refused(
            "call %s absent" % guest.label,
            "other users' processes are hidden from this one, so none matching proves nothing",
            "Give pidfile or qmp_socket, or run the task as root",
        )
    return None


def _may_own(pid: int, pidfile: str) -> bool:
    """Whether a pidfile of which only a command line tells may be this process's: a living QEMU has it locked. What it
    hasn't may be any file of the host, and would be removed with the guest.
    """
    try:
        return pidfile_owner(pidfile) == pid
    except PermissionError:
        return True  # most likely another user's guest: that this user may not look at it will be told
    except OSError:
        return False


def claimants(guest: Guest) -> list[tuple[int, Claims]]:
    """The QEMU processes, as far as this user may see them, that claim to bear a guest's name and UUID."""
    if not has(Capability.PROC) or (guest.name is None and guest.uuid is None):
        return []
    matching = []
    for entry in os.listdir("/proc"):
        argv = arguments(int(entry)) if entry.isdigit() else []
        if not is_qemu(argv):
            continue
        said = claims(argv)
        if claims_to_be(guest, said):
            matching.append((int(entry), said))
    return matching


def namesake(guest: Guest) -> str:
    """A QEMU that bears the name and UUID given, where nothing else that was given leads to a process; empty if none
    is seen.

    A UUID is one guest's alone. A name is not: another directory may hold another guest of the same name.
    """
    what = "UUID" if guest.uuid is not None else "name"
    return "; ".join(
        "nothing lives at the paths given, but process %d is a QEMU of this %s (pidfile %s, monitor %s); if it is the "
        "guest meant, give those, or its pid" % (pid, what, said.pidfile, said.qmp_socket)
        for pid, said in claimants(guest)
    )


def claims_to_be(guest: Guest, said: Claims) -> bool:
    if guest.name is not None and said.name != guest.name:
        return False
    return guest.uuid is None or said.uuid == guest.uuid.lower()


def _absolute(path: str | None) -> str | None:
    return path if path and os.path.isabs(path) else None
