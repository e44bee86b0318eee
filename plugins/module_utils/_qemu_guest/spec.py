# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A declared guest as values, checked for everything that can be known to be wrong before anything is touched."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from .._core.errors import BadInput
from .record import Definition

PORTS = range(1, 65536)
MACHINE_ID = "/etc/machine-id"
ANY_ADDRESS = "0.0.0.0"
LOOPBACK = "127.0.0.1"
# Of QEMU's own options those that would undo what is declared elsewhere, and the option that declares it.
_DECLARED = {
    "-m": "memory",
    "-smp": "cpus",
    "-cpu": "cpu",
    "-accel": "accel",
    "-enable-kvm": "accel",
    "-no-kvm": "accel",
    "-bios": "firmware",
    "-kernel": "kernel",
    "-initrd": "initrd",
    "-append": "append",
    "-display": "display",
    "-nographic": "display",
    "-name": "name",
    "-uuid": "uuid",
}
# Properties of -machine that say the same as the options of these names. Others are merged into the declared ones.
_DECLARED_PROPERTIES = ("accel", "firmware", "kernel", "initrd", "append")
# Disks and CD-ROMs that a machine type's own controller takes.
_IDE_PLACES = {"q35": 6, "pc": 4}
# QEMU is managed through these; a second one would cut us off from the guest.
_OURS = ("-daemonize", "-pidfile", "-D")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_VNC_ADDRESS = re.compile(r"(none|unix:[^,].*|(\[[^]]*\]|[^:,\[]*):\d+)(,|\Z)")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


class Forward(NamedTuple):
    """A port of the host that leads to one of the guest (user network)."""

    protocol: str
    host_address: str
    host_port: int
    guest_port: int


class Network(NamedTuple):
    """One network card. ``interface`` is the tap device or the bridge of the host."""

    mode: str
    model: str
    mac: str
    interface: str = ""
    forwards: tuple[Forward, ...] = ()


class Disk(NamedTuple):
    """One disk. ``is_device`` is found out on the host: a block device needs another driver."""

    path: str
    format: str
    interface: str = "virtio"
    readonly: bool = False
    cache: str = "writeback"
    discard: str = "unmap"
    serial: str = ""
    is_device: bool = False

    @property
    def on_ide(self) -> bool:
        """Whether the machine's own controller takes it."""
        return self.interface in ("ide", "cdrom")


class Spec(NamedTuple):
    """The machine to start."""

    name: str
    uuid: str
    emulator: str
    memory_bytes: int
    cpus: int
    machine: str
    cpu: str
    accel: str
    disks: tuple[Disk, ...]
    seed: str
    networks: tuple[Network, ...]
    firmware: str
    firmware_vars: str
    kernel: str
    initrd: str
    append: str
    agent: bool
    display: str
    extra_args: tuple[str, ...]

    @property
    def chipset(self) -> str:
        """``q35`` or ``pc`` for those machine types of whatever version, ``microvm`` for one without PCI, else the
        machine type.
        """
        name, _comma, options = self.machine.partition(",")
        if name == "microvm" and "pcie=on" in options.split(","):
            return "microvm with PCI"
        if re.match(r"(pc-)?q35(-\d|\Z)", name):
            return "q35"
        return "pc" if re.match(r"pc(-i440fx)?(-\d|\Z)", name) else name

    def forwarded(self, port: int) -> bool:
        """Whether the host's TCP ``port`` leads into the guest through QEMU's user network."""
        return any(forward.protocol == "tcp" and forward.host_port == port for forward in self.forwards())

    @property
    def has_only_own_addresses(self) -> bool:
        """Whether it has networks and none is QEMU's own, so that no address of the host leads into it."""
        modes = {network.mode for network in self.networks} - {"none"}
        return bool(modes) and "user" not in modes

    def forwards(self) -> Iterator[Forward]:
        """Those of all cards."""
        return (forward for network in self.networks for forward in network.forwards)


class ReadyKind(str, Enum):
    """What shows that a guest is up."""

    NONE = "none"
    AGENT = "agent"
    PORT = "port"
    CONSOLE = "console"


class Readiness(NamedTuple):
    """What to wait for."""

    kind: ReadyKind
    host: str = ""
    port: int = 0
    text: str = ""


def parse_spec(name: str, declared: Definition) -> Spec:
    """The machine that a definition (see record.py) declares. Raises BadInput."""
    spec = Spec(
        name=name,
        uuid=_uuid(name, declared.get("uuid")),
        emulator=declared["emulator"],
        memory_bytes=declared["memory"],
        cpus=_at_least_one("cpus", declared["cpus"]),
        machine=_plain("machine", declared["machine"]),
        cpu=_plain("cpu", declared.get("cpu", "")),
        accel=declared["accel"],
        disks=tuple(_disk("disks[%d]" % index, disk) for index, disk in enumerate(declared.get("disks", ()))),
        seed=_path("seed", declared.get("seed")),
        networks=tuple(_network(name, index, network) for index, network in enumerate(declared["networks"])),
        firmware=_path("firmware", declared.get("firmware")),
        firmware_vars=_path("firmware_vars", declared.get("firmware_vars")),
        kernel=_path("kernel", declared.get("kernel")),
        initrd=_path("initrd", declared.get("initrd")),
        append=_plain("append", declared.get("append", "")),
        agent=declared["agent"],
        display=_display(declared["display"]),
        extra_args=_extra_args(declared.get("extra_args", ())),
    )
    _check_together(spec)
    return spec


def parse_readiness(options: Mapping[str, Any], spec: Spec) -> Readiness:
    """What the ``ready`` options ask to wait for. Raises BadInput."""
    kind = ReadyKind(options["ready"])
    if kind is ReadyKind.AGENT and not spec.agent:
        raise BadInput(
            "ready",
            "agent is waited for, and the guest has no agent channel",
            "Set agent to true, or wait for something else",
        )
    if kind is ReadyKind.CONSOLE:
        text = options.get("ready_text") or ""
        if not text:
            raise BadInput(
                "ready_text", "it is empty", "Name a text that the guest prints on its serial console once it is up"
            )
        return Readiness(kind, text=text)
    if kind is ReadyKind.PORT:
        return _ready_port(options.get("ready_host"), options.get("ready_port"), spec)
    return Readiness(kind)


def _ready_port(host: str | None, port: int | None, spec: Spec) -> Readiness:
    """The declared address; what isn't declared of it is taken from the first forward that it can mean."""
    forwards = [
        forward for forward in spec.forwards() if forward.protocol == "tcp" and port in (None, forward.host_port)
    ]
    if port is None:
        port = forwards[0].host_port if forwards else 0
    if port not in PORTS:
        raise BadInput(
            "ready_port", "%s is no TCP port" % port, "Name a port from 1 to 65535, or forward one to the guest"
        )
    if not host:
        if not forwards and spec.has_only_own_addresses:
            raise BadInput(
                "ready_host",
                "on a tap or a bridge the guest has an address of its own, which isn't known here",
                "Name that address, or wait for something else",
            )
        listens = forwards[0].host_address if forwards else ANY_ADDRESS
        host = LOOPBACK if listens == ANY_ADDRESS else listens
    return Readiness(ReadyKind.PORT, host=host, port=port)


def _uuid(name: str, given: str | None) -> str:
    """The given one, or one made of host and name, the same at every start (layout: RFC 9562, version 8)."""
    if given is None:
        made = _made("guest %s" % name)
        return "%s-%s-8%s-8%s-%s" % (made[:8], made[8:12], made[13:16], made[17:20], made[20:32])
    if not _UUID.match(given):
        raise BadInput(
            "uuid", "%r is no UUID" % given, "Write one such as 6f0c9f3e-2b1a-4c5d-8e7f-0123456789ab, or leave it out"
        )
    return given


def _made(what: str) -> str:
    """What is one thing's alone, also among hosts that have guests of the same names and share a network."""
    return hashlib.sha256(("vmops.lifecycle %s on %s" % (what, _host())).encode("utf-8", "surrogateescape")).hexdigest()


def _host() -> str:
    """What tells this host from others: its machine-id, to be used hashed only (machine-id(5)), else its name."""
    try:
        with open(MACHINE_ID, encoding="ascii", errors="replace") as file:
            told = file.read(64).strip()
    except OSError:
        told = ""
    return told if told not in ("", "uninitialized") else socket.gethostname()


def _mac(name: str, index: int, option: str, given: str | None) -> str:
    """The given one, or one made of host, name and position in QEMU's own range (52:54:00)."""
    if given is None:
        made = _made("network %d of %s" % (index, name))
        return "52:54:00:%s:%s:%s" % (made[:2], made[2:4], made[4:6])
    if not _MAC.match(given) or int(given[1], 16) & 1:
        raise BadInput(
            option,
            "%r can't be a network card's address" % given,
            "Write six bytes such as 52:54:00:12:34:56, the first of them even",
        )
    return given


def _disk(option: str, given: Mapping[str, Any]) -> Disk:
    serial = given.get("serial", "")
    if len(serial) > 20 or not re.match(r"[A-Za-z0-9._-]*\Z", serial):  # 20 bytes: VIRTIO_BLK_ID_BYTES
        raise BadInput(
            option + ".serial",
            "%r can't be a serial number" % serial,
            "Use at most 20 letters, digits, dots and dashes",
        )
    if given["readonly"] and given["interface"] == "ide":
        raise BadInput(
            option + ".readonly",
            "QEMU's IDE disks can't be read-only",
            "Take the interface virtio, scsi, nvme or cdrom",
        )
    return Disk(
        path=_path(option + ".path", given["path"]),
        format=given["format"],
        interface=given["interface"],
        readonly=given["readonly"] or given["interface"] == "cdrom",
        cache=given["cache"],
        discard=given["discard"],
        serial=serial,
    )


def _network(name: str, index: int, given: Mapping[str, Any]) -> Network:
    option = "networks[%d]" % index
    mode = given["mode"]
    forwards = tuple(
        _forward("%s.forwards[%d]" % (option, place), forward)
        for place, forward in enumerate(given.get("forwards", ()))
    )
    if forwards and mode != "user":
        raise BadInput(
            option + ".forwards",
            "ports are forwarded in user mode only",
            "Leave forwards out: with %s the guest has an address of its own" % mode,
        )
    interface = given.get("interface", "")
    if mode in ("tap", "bridge") and not re.match(r"[^\s/,]{1,15}\Z", interface):  # IFNAMSIZ
        raise BadInput(
            option + ".interface", "%r is no interface of the host" % interface, "Name the host's %s device" % mode
        )
    if mode == "user" and interface:
        raise BadInput(
            option + ".interface",
            "%s isn't used in user mode" % interface,
            "Leave it out, or set mode to tap or bridge",
        )
    mac = _mac(name, index, option + ".mac", given.get("mac"))
    return Network(mode, given["model"], mac, interface, forwards)


def _forward(option: str, given: Mapping[str, Any]) -> Forward:
    for port in ("host_port", "guest_port"):
        if given[port] not in PORTS:
            raise BadInput("%s.%s" % (option, port), "%s is no port" % given[port], "Ports go from 1 to 65535")
    address = given["host_address"]
    if not _is_ipv4(address):
        raise BadInput(
            option + ".host_address",
            "%r is no IPv4 address" % address,
            "Use 127.0.0.1, or 0.0.0.0 for all of the host's addresses",
        )
    return Forward(given["protocol"], address, given["host_port"], given["guest_port"])


def _is_ipv4(text: str) -> bool:
    """Whether it is written in full: QEMU takes less, an empty address for any."""
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def _check_together(spec: Spec) -> None:
    if not spec.kernel and (spec.initrd or spec.append):
        raise BadInput(
            "kernel", "initrd and append need a kernel", "Name the kernel, or leave all three out to boot from a disk"
        )
    if spec.firmware_vars and not spec.firmware:
        raise BadInput(
            "firmware_vars",
            "it belongs to a firmware",
            "Name the firmware's code as well, such as /usr/share/OVMF/OVMF_CODE.fd",
        )
    _check_ide(spec)
    _check_paths(spec)
    _check_ports(spec)


def _check_paths(spec: Spec) -> None:
    """QEMU locks what a guest writes to, also against the guest itself."""
    used = [("disks[%d].path" % index, disk.path, disk.readonly) for index, disk in enumerate(spec.disks)]
    used += [("seed", spec.seed, True), ("firmware_vars", spec.firmware_vars, False)]
    first: dict[str, tuple[str, bool]] = {}
    for option, path, readonly in used:
        other, only_read = first.setdefault(os.path.normpath(path), (option, readonly))
        if path and other != option and not (readonly and only_read):
            raise BadInput(
                option, "%s is %s already" % (path, other), "Name another file, or make both readonly to share it"
            )


def _check_ports(spec: Spec) -> None:
    taken: list[Forward] = []
    for network in spec.networks:
        for forward in network.forwards:
            if any(_clash(forward, other) for other in taken):
                raise BadInput(
                    "networks",
                    "%s port %d of the host is forwarded twice" % (forward.protocol, forward.host_port),
                    "Give each forward a port of its own",
                )
            taken.append(forward)


def _clash(one: Forward, other: Forward) -> bool:
    addresses = {one.host_address, other.host_address}
    same_port = (one.protocol, one.host_port) == (other.protocol, other.host_port)
    return same_port and (len(addresses) == 1 or ANY_ADDRESS in addresses)


def _check_ide(spec: Spec) -> None:
    count = sum(disk.on_ide for disk in spec.disks)
    places = _IDE_PLACES.get(spec.chipset, count)
    if count > places:
        raise BadInput(
            "disks",
            "%d of them are ide or cdrom, and the machine %s has %d places for these" % (count, spec.machine, places),
            "Give the others another interface, such as virtio",
        )


def _at_least_one(option: str, number: int) -> int:
    if number < 1:
        raise BadInput(option, "%d are too few" % number, "Give at least 1")
    return number


def _plain(option: str, text: str) -> str:
    if "\0" in text or "\n" in text:
        raise BadInput(option, "it holds a line break or a zero byte", "Write it in one line")
    return text


def _path(option: str, path: str | None) -> str:
    if path is None:
        return ""
    if not os.path.isabs(_plain(option, path)):
        raise BadInput(
            option,
            "%r is no absolute path" % path,
            "Write it from the root on, such as /var/lib/vmops/%s" % path.lstrip("./"),
        )
    return path


def _display(text: str) -> str:
    """QEMU itself looks at a VNC address only when it opens it."""
    _plain("display", text)
    kind, _equals, address = text.partition("=")
    if kind == "vnc" and not _VNC_ADDRESS.match(address):
        raise BadInput(
            "display", "%r is no VNC address" % address, "Write host:number, such as 127.0.0.1:1, or unix:path"
        )
    return text


def _extra_args(words: Sequence[str]) -> tuple[str, ...]:
    for option, value in zip(words, words[1:]):
        if _option(option) in ("-machine", "-M"):
            _check_machine_properties(option, value)
    return tuple(_extra(word) for word in words)


def _check_machine_properties(option: str, value: str) -> None:
    for place, part in enumerate(value.split(",")):
        name, assigned, _rest = part.partition("=")
        if name == "type" or (place == 0 and not assigned):
            name = "machine"
        elif name not in _DECLARED_PROPERTIES:
            continue
        raise BadInput("extra_args", "%s %s says what %s declares" % (option, value, name), "Write it there")


def _option(word: str) -> str:
    """QEMU takes two dashes for one."""
    return "-" + word[2:] if word.startswith("--") else word


def _extra(word: str) -> str:
    option = _option(word)
    if option in _DECLARED:
        raise BadInput("extra_args", "%s says what %s declares" % (word, _DECLARED[option]), "Write it there")
    if option in _OURS:
        raise BadInput("extra_args", "%s is set by this module" % word, "Leave it out")
    return _plain("extra_args", word)
