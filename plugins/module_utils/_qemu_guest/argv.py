# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of a guest. Pure: everything that depends on the host is decided before.

Names of files are given to QEMU as JSON or as words of their own wherever it takes them so; else their commas are
doubled, which is QEMU's way to mean a comma. No name is ever read as a protocol.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from .model import AGENT_PORT
from .places import Places
from .spec import Disk, Network, Spec

# block/qapi: cache.direct, cache.no-flush and the device's write-cache for each mode of qemu(1)'s table.
CACHES = {
    "writeback": (False, False, True),
    "none": (True, False, True),
    "writethrough": (False, False, False),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}
DEVICES = {"virtio": "virtio-blk", "scsi": "scsi-hd", "ide": "ide-hd", "nvme": "nvme", "cdrom": "ide-cd"}
CARDS = {"virtio": "virtio-net", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139"}


def argv(spec: Spec, emulator: str, places: Places, accel: str) -> tuple[str, ...]:
    """The words with which to start the guest. ``emulator`` is the program's path, ``accel`` is ``kvm`` or ``tcg``."""
    return (
        emulator,
        *("-name", "guest=" + escaped(spec.name), "-uuid", spec.uuid),
        *("-no-user-config", "-nodefaults"),  # exactly the declared devices, whatever the host's own settings
        *("-machine", spec.machine, "-accel", accel, "-cpu", _cpu(spec, accel)),
        *("-m", "%dB" % spec.memory_bytes, "-smp", str(spec.cpus)),
        *_firmware(spec),
        *_kernel(spec),
        *_disks(spec),
        *_seed(spec),
        *_networks(spec),
        *_channels(spec, places),
        *("-display", spec.display, *(("-vga", "none") if spec.display == "none" else ("-vga", "std"))),
        # With -D and some log item, QEMU's later words go there too; "strace" never logs anything in a system emulator.
        *("-D", places.qemu_log, "-d", "strace"),
        *("-daemonize", "-pidfile", places.pidfile),
        *spec.extra_args,
    )


def trial_argv(spec: Spec, emulator: str, accel: str) -> tuple[str, ...]:
    """The words with which QEMU reads the declaration, opens the disks only to look, and leaves again.

    Of what a running guest may hold (memory, locks on its disks, networks, sockets, a display's port) it takes nothing.
    """
    return (
        *_trial_machine(spec, emulator, accel),
        *(word for index, disk in enumerate(spec.disks) for word in ("-blockdev", _only_looked_at(index, disk))),
        *("-display", spec.display, "-vga", "none"),
        *("-dump-vmstate", os.devnull),  # makes it leave before it builds the machine and opens the display
    )


def kernel_trial_argv(spec: Spec, emulator: str, accel: str, monitor: int) -> tuple[str, ...]:
    """The words with which QEMU builds the machine with its memory, loads the kernel, and doesn't run it.

    ``monitor``: a connected socket, over which it is told to leave.
    """
    return (
        *_trial_machine(spec, emulator, accel),
        *("-m", "%dB" % spec.memory_bytes),
        *_kernel(spec),
        *("-display", "none", "-vga", "none"),
        *("-chardev", "socket,id=monitor,fd=%d" % monitor, "-mon", "chardev=monitor,mode=readline"),
    )


def _trial_machine(spec: Spec, emulator: str, accel: str) -> Iterator[str]:
    """The machine's own options may lead to what extra_args define, so with those only its type is tried."""
    yield from (emulator, "-no-user-config", "-nodefaults", "-S")
    yield from ("-machine", spec.machine.partition(",")[0] if spec.extra_args else spec.machine)
    yield from ("-accel", accel, "-cpu", _cpu(spec, accel), "-smp", str(spec.cpus))
    yield from tuple(_firmware(spec))[:2]  # the code; the variables are the running guest's


def escaped(text: str) -> str:
    """A value inside QEMU's key=value,key=value options."""
    return text.replace(",", ",,")


def _cpu(spec: Spec, accel: str) -> str:
    return spec.cpu or ("host" if accel == "kvm" else "max")


def _firmware(spec: Spec) -> Iterator[str]:
    if spec.firmware and not spec.firmware_vars:
        yield from ("-bios", spec.firmware)
    elif spec.firmware:
        yield from (
            "-drive",
            "if=pflash,unit=0,format=raw,readonly=on,file.driver=file,file.filename=" + escaped(spec.firmware),
        )
        yield from (
            "-drive",
            "if=pflash,unit=1,format=raw,file.driver=file,file.filename=" + escaped(spec.firmware_vars),
        )


def _kernel(spec: Spec) -> Iterator[str]:
    for option, value in (("-kernel", spec.kernel), ("-initrd", spec.initrd), ("-append", spec.append)):
        if value:
            yield from (option, value)


def _disks(spec: Spec) -> Iterator[str]:
    if any(disk.interface == "scsi" for disk in spec.disks):
        yield from ("-device", _on_bus("virtio-scsi", spec) + ",id=scsi")
    on_ide = 0
    for index, disk in enumerate(spec.disks):
        node = "disk%d" % index
        device = [
            _on_bus(DEVICES[disk.interface], spec),
            "drive=" + node,
            "bootindex=%d" % (index + 1),
            *_disk_properties(node, disk),
        ]
        if disk.on_ide:
            device += _ide_place(spec.chipset, on_ide)
            on_ide += 1
        yield from ("-blockdev", _blockdev(node, disk))
        yield from ("-device", ",".join(device))


def _blockdev(node: str, disk: Disk) -> str:
    direct, no_flush, _write_cache = CACHES[disk.cache]
    shared = {"read-only": disk.readonly, "discard": disk.discard, "cache": {"direct": direct, "no-flush": no_flush}}
    file = dict(shared, driver="host_device" if disk.is_device else "file", filename=disk.path)
    return json.dumps(dict(shared, driver=disk.format, file=file, **{"node-name": node}))


def _only_looked_at(index: int, disk: Disk) -> str:
    """Without any lock, also of what the image refers to."""
    file = {"driver": "host_device" if disk.is_device else "file", "filename": disk.path, "read-only": True}
    node = {"driver": disk.format, "node-name": "disk%d" % index, "read-only": True, "force-share": True, "file": file}
    return json.dumps(node)


def _on_bus(device: str, spec: Spec) -> str:
    """QEMU's short names of virtio devices mean those on PCI, which a microvm has only if told."""
    return device + "-device" if spec.chipset == "microvm" and device.startswith("virtio-") else device


def _ide_place(chipset: str, number: int) -> Iterator[str]:
    """QEMU by itself puts a third one where there is no place for it, on q35 already a second one."""
    if chipset == "q35":
        yield "bus=ide.%d" % number
    if chipset == "pc":
        yield from ("bus=ide.%d" % (number // 2), "unit=%d" % (number % 2))


def _disk_properties(node: str, disk: Disk) -> Iterator[str]:
    serial = disk.serial or (node if disk.interface == "nvme" else "")  # an nvme disk must have one
    if serial:
        yield "serial=" + serial
    if disk.interface == "scsi":
        yield "bus=scsi.0"
    if not disk.readonly:
        yield "write-cache=" + ("on" if CACHES[disk.cache][2] else "off")


def _seed(spec: Spec) -> Iterator[str]:
    if spec.seed:
        yield from ("-blockdev", _blockdev("seed", Disk(spec.seed, "raw", readonly=True)))
        yield from ("-device", _on_bus("virtio-blk", spec) + ",drive=seed")


def _networks(spec: Spec) -> Iterator[str]:
    for index, network in enumerate(spec.networks):
        if network.mode != "none":
            yield from ("-netdev", _netdev("net%d" % index, network))
            yield from ("-device", "%s,netdev=net%d,mac=%s" % (_on_bus(CARDS[network.model], spec), index, network.mac))


def _netdev(node: str, network: Network) -> str:
    if network.mode == "tap":
        return "tap,id=%s,ifname=%s,script=no,downscript=no" % (node, escaped(network.interface))
    if network.mode == "bridge":
        return "bridge,id=%s,br=%s" % (node, escaped(network.interface))
    forwards = ["hostfwd=%s:%s:%d-:%d" % forward for forward in network.forwards]
    return ",".join(["user", "id=" + node, *forwards])


def _channels(spec: Spec, places: Places) -> Iterator[str]:
    """The serial console, the monitor and the agent's port."""
    yield from ("-chardev", "file,id=console,path=" + escaped(places.console_log), "-serial", "chardev:console")
    yield from ("-chardev", "socket,id=qmp,server=on,wait=off,path=" + escaped(places.qmp_socket))
    yield from ("-mon", "chardev=qmp,mode=control")
    if spec.agent:
        yield from ("-chardev", "socket,id=agent,server=on,wait=off,path=" + escaped(places.agent_socket))
        yield from ("-device", _on_bus("virtio-serial", spec))
        yield from ("-device", "virtserialport,chardev=agent,name=" + AGENT_PORT)
