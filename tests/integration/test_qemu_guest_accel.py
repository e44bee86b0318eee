# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe that decides between KVM and TCG, with real QEMU."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import accel

EMULATOR = shutil.which("qemu-system-x86_64") or ""


def test_a_probe_guest_that_boots_is_seen_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under TCG, which works everywhere: so a no under KVM is KVM's. How fast it has to be is KVM's affair as well."""
    monkeypatch.setattr(accel, "PROBE_S", 60.0)
    assert accel.boots(EMULATOR, "tcg", Deadline(60))


def test_an_accelerator_that_is_not_there(tmp_path: Path) -> None:
    assert not accel.boots(EMULATOR, "xen", Deadline(30))


def test_a_guest_that_never_gets_anywhere_is_a_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a KVM that is only half there: here a boot sector that only halts."""
    monkeypatch.setattr(accel, "_SECTOR", bytes.fromhex("faf4ebfd").ljust(510, b"\0") + b"\x55\xaa")
    monkeypatch.setattr(accel, "PROBE_S", 1.0)
    deadline = Deadline(90)
    assert not accel.boots(EMULATOR, "tcg", deadline)
    assert deadline.elapsed_s() < 60


def test_the_tasks_own_time_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "_SECTOR", bytes.fromhex("faf4ebfd").ljust(510, b"\0") + b"\x55\xaa")
    with pytest.raises(TimedOut):
        accel.boots(EMULATOR, "tcg", Deadline(1))


@pytest.mark.parametrize("declared", ["kvm", "tcg"])
def test_what_is_declared_is_not_probed(tmp_path: Path, declared: str) -> None:
    assert accel.choose(declared, EMULATOR, str(tmp_path), Deadline(0)) == accel.Accelerator(declared)


def test_other_architectures_are_emulated(tmp_path: Path) -> None:
    assert accel.choose("auto", "/usr/bin/qemu-system-aarch64", str(tmp_path), Deadline(0)).name == "tcg"


def test_without_a_device_there_is_nothing_to_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEVICE", str(tmp_path / "kvm"))
    assert accel.choose("auto", EMULATOR, str(tmp_path), Deadline(0)) == accel.Accelerator("tcg")


class FakeQemuWithKvm:
    """Stands for a QEMU and a /dev/kvm of which a test says whether guests boot.

    It leaves as the probe's guest makes QEMU leave.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base = str(folder)
        self.kept = folder / ".accel.json"
        self.calls = folder / "calls"
        self.path = folder / "qemu-system-x86_64"
        device = folder / "kvm"
        device.touch()
        monkeypatch.setattr(accel, "DEVICE", str(device))

    def choose(self, boots: bool) -> accel.Accelerator:
        if not self.path.exists():
            self.write()
        self.path.with_name("answer").write_text("85" if boots else "1")
        return self.ask()

    def write(self, slow: bool = False) -> None:
        script = '#!/bin/sh\ncd "$(dirname "$0")"\necho x >> calls\n%sexit "$(cat answer)"\n'
        self.path.write_text(script % ("sleep 0.5\n" if slow else ""))
        self.path.chmod(0o755)

    def ask(self) -> accel.Accelerator:
        return accel.choose("auto", str(self.path), self.base, Deadline(60))

    def probes(self) -> int:
        return len(self.calls.read_text().splitlines())


def test_kvm_under_which_nothing_boots_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = FakeQemuWithKvm(tmp_path, monkeypatch).choose(boots=False)
    assert chosen.name == "tcg"
    assert "did not boot" in chosen.advice


def test_the_answer_is_kept_until_the_host_or_its_qemu_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeQemuWithKvm(tmp_path, monkeypatch)
    assert fake.choose(boots=True).name == "kvm"
    assert fake.choose(boots=False).name == "kvm"
    assert fake.probes() == 1

    fake.kept.write_text("{")
    assert fake.choose(boots=False).name == "tcg"
    assert json.loads(fake.kept.read_text())["works"] is False
    assert fake.probes() == 2

    fake.path.unlink()  # another QEMU
    assert fake.choose(boots=True).name == "kvm"
    assert fake.probes() == 3

    monkeypatch.setattr(accel, "_boot_id", lambda: "after a restart of the host")
    assert fake.choose(boots=False).name == "tcg"
    assert fake.probes() == 4


def test_a_no_is_kept_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been for want of time; whoever starts at the same time needs no probe of their own."""
    fake = FakeQemuWithKvm(tmp_path, monkeypatch)
    assert fake.choose(boots=False).name == "tcg"
    assert fake.choose(boots=True).name == "tcg"
    assert fake.probes() == 1
    monkeypatch.setattr(accel, "NO_HOLDS_S", 0.0)
    assert fake.choose(boots=True).name == "kvm"
    assert fake.choose(boots=False).name == "kvm"
    assert fake.probes() == 2


def test_many_who_ask_at_once_get_one_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first machines after a boot of the host do. Each is a process of its own, as tasks are."""
    fake = FakeQemuWithKvm(tmp_path, monkeypatch)
    fake.write(slow=True)
    fake.path.with_name("answer").write_text("85")
    asked = []
    for _task in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if fake.ask().name == "kvm" else 2
            finally:
                os._exit(code)
        asked.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in asked] == [0] * 8
    assert fake.probes() == 1
    assert not list(tmp_path.glob(".*vmops*"))


@pytest.mark.parametrize("kind", ["fifo", "link", "another user's"])
def test_an_answer_that_is_not_ours_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A FIFO would keep the task waiting for a writer, past its time limit."""
    fake = FakeQemuWithKvm(tmp_path, monkeypatch)
    assert fake.choose(boots=True).name == "kvm"
    if kind == "fifo":
        fake.kept.unlink()
        os.mkfifo(fake.kept)
    elif kind == "link":
        fake.kept.rename(tmp_path / "elsewhere")
        fake.kept.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid() == 0:
        os.chown(fake.kept, 12345, -1)
    else:
        pytest.skip("only root can give a file away")
    assert fake.choose(boots=False).name == "tcg"
    assert fake.probes() == 2
    assert fake.kept.is_file()
    assert not fake.kept.is_symlink()
    assert fake.choose(boots=True).name == "tcg"
