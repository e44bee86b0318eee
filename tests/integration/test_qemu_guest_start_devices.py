# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qemu_guest_start puts into a machine, as QEMU's monitor lists it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.testbed.start_bench import Bench, ask

ETHERNET = 0x0200  # the PCI class of its controllers
EACH = ("virtio", "scsi", "nvme", "cdrom", "ide")


def disks(bench: Bench, interfaces: Sequence[str], **changes: Any) -> list[dict[str, Any]]:
    """The boot disk, and one of each of these."""
    declared = [{"path": str(bench.disk), "format": "raw", "interface": "ide"}]
    for number, interface in enumerate(interfaces):
        path = bench.folder / f"{number}.raw"
        path.write_bytes(bytes(1 << 20))
        declared.append({"path": str(path), "format": "raw", "interface": interface, **changes})
    return declared


def attached(bench: Bench) -> Mapping[str, bool]:
    """The files in the guest's devices, and whether each is read-only."""
    blocks = ask(bench.place("qmp.sock"), "query-block")
    return {block["inserted"]["file"]: block["inserted"]["ro"] for block in blocks if "inserted" in block}


@pytest.mark.parametrize(
    ("machine", "interfaces"),
    [
        ("q35", [*EACH, *EACH, "cdrom"]),
        ("pc-q35-7.2,usb=off", ["cdrom", "cdrom"]),
        ("pc", [*EACH, "cdrom"]),
        ("pc-i440fx-7.2", ["cdrom", "cdrom"]),
    ],
)
def test_several_disks_of_every_interface(bench: Bench, machine: str, interfaces: list[str]) -> None:
    declared = disks(bench, interfaces)
    result = bench.start(machine=machine, disks=declared)
    assert not result.failed, result.msg
    assert attached(bench) == {disk["path"]: disk["interface"] == "cdrom" for disk in declared}


def test_disks_that_may_only_be_read(bench: Bench) -> None:
    declared = disks(bench, ["virtio", "scsi", "nvme", "cdrom"], readonly=True)
    result = bench.start(disks=declared)
    assert not result.failed, result.msg
    assert attached(bench) == {disk["path"]: disk.get("readonly", False) for disk in declared}


@pytest.mark.parametrize(
    ("machine", "interfaces", "changes", "told"),
    [
        ("q35", ["cdrom"] * 6, {}, "disks: 7 of them are ide or cdrom, and the machine q35 has 6 places"),
        ("pc", ["ide"] * 4, {}, "disks: 5 of them are ide or cdrom, and the machine pc has 4 places"),
        ("q35", ["ide"], {"readonly": True}, "disks[1].readonly: QEMU's IDE disks can't be read-only"),
    ],
)
def test_what_no_machine_takes_is_told_beforehand(
    bench: Bench, machine: str, interfaces: list[str], changes: dict[str, Any], told: str
) -> None:
    result = bench.start(machine=machine, disks=disks(bench, interfaces, **changes))
    assert result.failed
    assert told in result.msg
    assert not bench.place("guest.json").exists()


def test_cards_of_every_model(bench: Bench) -> None:
    models = ("virtio", "e1000", "e1000e", "rtl8139")
    result = bench.start(machine="q35", networks=[{"model": model} for model in models])
    assert not result.failed, result.msg
    slots = ask(bench.place("qmp.sock"), "query-pci")[0]["devices"]
    assert sum(device["class_info"]["class"] == ETHERNET for device in slots) == len(models)


@pytest.mark.parametrize("machine", ["microvm", "microvm,pcie=on"])
def test_a_microvm_has_its_virtio_devices_with_pci_and_without(bench: Bench, machine: str) -> None:
    """QEMU takes it; what boots on one under emulation is another matter, so nothing is waited for."""
    declared = disks(bench, ["virtio", "scsi"])[1:]
    result = bench.start(machine=machine, disks=declared, networks=[{}], ready="none", ready_text=None)
    assert not result.failed, result.msg
    assert attached(bench) == {disk["path"]: False for disk in declared}
