# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role qemu_vm and the two playbooks: composition, order, what becomes of failures. Molecule has the plain ways."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.boot_guest import Kind, image
from tests.testbed.module_main import ROOT
from tests.testbed.playbooks import Play, ansible_environment, run_playbook
from tests.testbed.start_bench import Bench, arguments, ask, running

pytestmark = pytest.mark.every_core


class Fleet:
    """An inventory of machines whose guests are boot sectors, and the two playbooks run on it."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder)
        self.folder = folder
        self.home = folder / "home"
        self.runs = folder / "r"
        self.source = folder / "source.img"
        self.source.write_bytes(image(Kind.OBEYS))
        self.machines: dict[str, dict[str, Any]] = {}

    def declare(self, name: str, **variables: Any) -> None:
        self.machines[name] = variables

    def play(self, playbook: str, *words: str, **variables: Any) -> Play:
        shared = {
            "vm_platform": "qemu",
            "qemu_vm_home": str(self.home),
            "qemu_vm_run_dir": str(self.runs),
            "qemu_vm_image": {
                "source": str(self.source),
                "source_format": "raw",
                "size": "2M",
                "interface": "ide",
            },
            "qemu_vm_memory": "32M",
            "qemu_vm_machine": "pc",
            "qemu_vm_accel": "tcg",
            "qemu_vm_networks": [],
            "qemu_vm_ready": "console",
            "qemu_vm_ready_text": "BR",
            "qemu_vm_start_timeout": 300,
            "qemu_vm_shutdown_timeout": 30,
            **variables,
        }
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"all": {"vars": shared, "hosts": self.machines}}))
        return run_playbook(ROOT / "playbooks" / f"{playbook}.yml", "-i", str(inventory), *words)

    def disk(self, name: str) -> Path:
        return self.home / name / "system.qcow2"


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.bench.end()


def changed(play: Play) -> Mapping[str, int]:
    assert play.rc == 0, play.text
    return {host: numbers["changed"] for host, numbers in play.stats.items() if host != "localhost"}


def info(path: Path) -> Mapping[str, Any]:
    command = ["qemu-img", "info", "--force-share", "--output=json", str(path)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def test_many_machines_come_and_go(fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.declare(name)
    predicted = fleet.play("provision", "--check")
    assert predicted.rc == 0, predicted.text
    assert not fleet.home.exists()

    assert all(changed(fleet.play("provision")).values())
    assert len(running(fleet.folder)) == 2
    for name in fleet.machines:
        assert (info(fleet.disk(name))["format"], info(fleet.disk(name))["virtual-size"]) == ("qcow2", 2 * 1024**2)
    assert changed(fleet.play("provision")) == {"a": 0, "b": 0}

    assert fleet.play("teardown", "--check").rc == 0
    assert len(running(fleet.folder)) == 2
    assert all(changed(fleet.play("teardown")).values())
    assert running(fleet.folder) == []
    assert [*fleet.home.rglob("*"), *fleet.runs.rglob("*")] == []
    assert changed(fleet.play("teardown")) == {"a": 0, "b": 0}


def test_what_the_machine_wrote_survives_the_second_run(fleet: Fleet) -> None:
    fleet.declare("a")
    fleet.play("provision")
    pid = running(fleet.folder)[0]
    words = " ".join(arguments(pid))
    assert str(fleet.disk("a")) in words
    assert "seed.iso" in words
    stamp = fleet.disk("a").stat().st_ino
    assert changed(fleet.play("provision")) == {"a": 0}
    assert fleet.disk("a").stat().st_ino == stamp
    assert running(fleet.folder) == [pid]

    assert changed(fleet.play("provision", qemu_vm_cpus=2, qemu_vm_restart="if_needed")) == {"a": 1}
    (restarted,) = running(fleet.folder)
    assert restarted != pid
    words = arguments(restarted)
    assert words[words.index("-smp") + 1] == "2"
    assert fleet.disk("a").stat().st_ino == stamp


def holds(given: Any, declared: Any) -> bool:
    """Whether a module's argument is what was declared, the sub-options that were not left out."""
    if isinstance(declared, Mapping):
        return all(holds(given.get(name), value) for name, value in declared.items())
    if isinstance(declared, list):
        return len(given) == len(declared) and all(map(holds, given, declared))
    return bool(given == declared)


def test_each_variable_reaches_its_module(fleet: Fleet) -> None:
    """In check mode, as what the modules make of their options is tested with these."""
    base = fleet.folder / "base.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "1M"], check=True)
    checksum = "sha256:" + hashlib.sha256(fleet.source.read_bytes()).hexdigest()
    machine = {
        "emulator": "qemu-system-x86_64",
        "memory": "48M",
        "cpus": 3,
        "machine": "q35",
        "cpu": "qemu64",
        "accel": "tcg",
        "uuid": "6f0c9f3e-2b1a-4c5d-8e7f-0123456789ab",
        "firmware": "/fw/code",
        "firmware_vars": "/fw/vars",
        "kernel": "/boot/kernel",
        "initrd": "/boot/initrd",
        "append": "console=ttyS0",
        "agent": False,
        "display": "vnc=127.0.0.1:7",
        "extra_args": ["-snapshot"],
        "networks": [
            {"mode": "tap", "interface": "lo", "model": "e1000", "mac": "52:54:00:00:00:01"},
            {"mode": "bridge", "interface": "lo"},
            {"forwards": [{"protocol": "udp", "host_address": "127.0.0.2", "host_port": 5353, "guest_port": 53}]},
        ],
        "ready": "port",
        "ready_host": "192.0.2.1",
        "ready_port": 99,
        "ready_text": "text",
        "restart": "if_needed",
        "paused": "force",
        "max_rung": "terminate",
    }
    seed = {
        "user_data": {"packages": ["a"]},
        "meta_data": {"local-hostname": "b"},
        "network_config": {"version": 2},
        "vendor_data": "#cloud-config\n",
    }
    made = [
        {"format": "raw", "size": "2M", "source": str(fleet.source), "source_format": "raw", "checksum": checksum},
        {
            "format": "qcow2",
            "backing_file": str(base),
            "backing_format": "qcow2",
            "options": {"cluster_size": "131072"},
        },
    ]
    attached = [
        {"interface": "scsi", "cache": "none", "discard": "ignore", "serial": "S1"},
        {"interface": "virtio", "readonly": True, "cache": "unsafe"},
    ]
    disks = [{"name": name, **one, **other} for name, one, other in zip(("one", "two"), made, attached)]
    fleet.declare("a", **{f"qemu_vm_{name}": value for name, value in {**machine, **seed}.items()}, qemu_vm_disks=disks)
    (fleet.home / "a").mkdir(parents=True)
    (fleet.home / "a").chmod(0o700)

    play = fleet.play("provision", "--check", "-vvv", qemu_vm_image={}, qemu_vm_seed_no_log=False)
    assert play.rc == 0, play.text
    paths = [{"path": str(fleet.home / "a" / name)} for name in ("one.raw", "two.qcow2")]
    given = play.tasks["Start the machine and wait until it is ready"]["invocation"]["module_args"]
    declared = {**machine, "name": "a", "run_dir": str(fleet.runs), "timeout": 300}
    declared["disks"] = [{**path, **one} for path, one in zip(paths, attached)]
    declared["seed"] = str(fleet.home / "a" / "seed.iso")
    assert [name for name, value in declared.items() if not holds(given[name], value)] == []
    given = play.tasks["Write the seed"]["invocation"]["module_args"]
    assert [name for name, value in seed.items() if not holds(given[name], value)] == []
    items = [item["invocation"]["module_args"] for item in play.tasks["Make the disks"]["results"]]
    assert holds(items, [{**path, **one} for path, one in zip(paths, made)]), items


@pytest.mark.parametrize("variables", [{}, {"qemu_vm_restart": "if_needed", "qemu_vm_cpus": 2}], ids=str)
def test_a_disk_taken_away_from_a_running_machine_is_not_made_anew(fleet: Fleet, variables: Mapping[str, Any]) -> None:
    """The machine would go on writing to the removed one, and its data would go with the next shutdown."""
    fleet.declare("a")
    fleet.play("provision")
    pid = running(fleet.folder)[0]
    fleet.disk("a").unlink()
    play = fleet.play("provision", **variables)
    assert play.stats["a"]["failures"] == 1
    assert f"/proc/{pid}/fd/" in play.text
    assert not fleet.disk("a").exists()
    assert running(fleet.folder) == [pid]


def test_a_paused_machine_is_resumed_where_that_is_allowed(fleet: Fleet) -> None:
    fleet.declare("a", qemu_vm_paused="resume")
    fleet.play("provision")
    monitor = fleet.runs / "a" / "qmp.sock"
    ask(monitor, "stop")
    assert changed(fleet.play("provision")) == {"a": 1}
    assert ask(monitor, "query-status")["status"] == "running"


def test_disks_are_kept_if_asked(fleet: Fleet) -> None:
    fleet.declare("a", qemu_vm_keep_disks=True, qemu_vm_disks=[{"name": "data", "format": "raw", "size": "1M"}])
    fleet.play("provision")
    assert changed(fleet.play("teardown"))["a"] > 0
    assert running(fleet.folder) == []
    assert sorted(path.name for path in (fleet.home / "a").iterdir()) == ["data.raw", "system.qcow2"]
    assert changed(fleet.play("teardown")) == {"a": 0}
    larger = {"source": str(fleet.source), "source_format": "raw", "size": "4M", "interface": "ide"}
    assert changed(fleet.play("provision", qemu_vm_image=larger))["a"] > 0
    assert info(fleet.disk("a"))["virtual-size"] == 4 * 1024**2, "which is how a disk grows"


def test_a_disk_from_elsewhere_stays_unless_it_is_given_away(fleet: Fleet) -> None:
    shared, given = fleet.folder / "shared.iso", fleet.folder / "given.qcow2"
    shared.write_bytes(bytes(1 << 20))
    medium = {"name": "medium", "path": str(shared), "format": "raw", "readonly": True, "interface": "cdrom"}
    away = {"name": "away", "path": str(given), "size": "1M", "keep": False}
    kept = {"name": "kept", "size": "1M", "keep": True}
    fleet.declare("a", qemu_vm_disks=[medium, away, kept])
    assert changed(fleet.play("provision"))["a"] > 0
    assert given.exists()
    assert changed(fleet.play("teardown"))["a"] > 0
    assert shared.read_bytes() == bytes(1 << 20)
    assert not given.exists()
    assert [path.name for path in (fleet.home / "a").iterdir()] == ["kept.qcow2"]


def test_booleans_as_surveys_and_command_lines_give_them(fleet: Fleet) -> None:
    fleet.declare("a")
    assert changed(fleet.play("provision", "-e", "qemu_vm_seed=false"))["a"] > 0
    assert not (fleet.home / "a" / "seed.iso").exists()
    assert "seed.iso" not in " ".join(arguments(running(fleet.folder)[0]))
    assert changed(fleet.play("teardown", "-e", "qemu_vm_keep_disks=no"))["a"] > 0
    assert [*fleet.home.rglob("*"), *fleet.runs.rglob("*")] == []


def test_a_machine_that_ignores_everything_is_taken_away_all_the_same(fleet: Fleet) -> None:
    fleet.source.write_bytes(image(Kind.IGNORES))
    fleet.declare("a", qemu_vm_ready_text="B")
    fleet.play("provision")
    pid = running(fleet.folder)[0]
    os.kill(pid, signal.SIGSTOP)  # its monitor is dead as well
    assert changed(fleet.play("teardown"))["a"] > 0
    assert running(fleet.folder) == []


def test_stale_files_of_a_killed_machine(fleet: Fleet) -> None:
    fleet.declare("a")
    fleet.play("provision")
    fleet.bench.end()
    assert changed(fleet.play("teardown"))["a"] > 0
    assert [*fleet.home.rglob("*"), *fleet.runs.rglob("*")] == []


def test_each_step_is_tried_and_all_failures_are_reported(fleet: Fleet) -> None:
    """The shutdown of one may not go far enough, so it lives: its disk must stay, and the rest is tried. In place of
    the other's seed there is a directory: its disks go all the same.
    """
    fleet.source.write_bytes(image(Kind.IGNORES))
    fleet.declare("a", qemu_vm_ready_text="B", qemu_vm_max_rung="acpi", qemu_vm_shutdown_timeout=8)
    fleet.declare("b")
    fleet.play("provision", qemu_vm_ready_text="B")
    seed = fleet.home / "b" / "seed.iso"
    seed.unlink()
    seed.mkdir()
    play = fleet.play("teardown", qemu_vm_ready_text="B")
    assert play.rc != 0
    assert (play.stats["a"]["failures"], play.stats["b"]["failures"]) == (1, 1)
    reports = {host: told(play, host).splitlines()[-1] for host in "ab"}
    assert "max_rung" in reports["a"]
    assert "system.qcow2" in reports["a"]
    assert str(seed) in reports["b"]
    assert all("was not taken away completely" in report for report in reports.values())
    assert len(running(fleet.folder)) == 1
    assert fleet.disk("a").exists()
    assert not (fleet.home / "a" / "seed.iso").exists()
    assert (fleet.runs / "a" / "qemu.pid").exists()  # so that the next run finds it
    assert [path.name for path in (fleet.home / "b").iterdir()] == ["seed.iso"]
    assert not (fleet.runs / "b").exists()
    seed.rmdir()
    assert changed(fleet.play("teardown", "-e", "qemu_vm_max_rung=kill"))["a"] > 0
    assert running(fleet.folder) == []
    assert [*fleet.home.rglob("*"), *fleet.runs.rglob("*")] == []


def test_one_machine_that_fails_does_not_keep_the_others_down(fleet: Fleet) -> None:
    fleet.declare("a", qemu_vm_extra_args=["-device", "no-such-device"])
    fleet.declare("b")
    play = fleet.play("provision")
    assert play.rc != 0
    assert play.stats["a"]["failures"] == 1
    assert "no-such-device" in play.text
    assert len(running(fleet.folder)) == 1


def told(play: Play, host: str) -> str:
    """What the play says of a host that failed."""
    return "\n".join(
        line for line in play.text.splitlines() if line.startswith(("fatal: [" + host + "]", f"fatal: [{host} "))
    )


def test_variables_are_checked_before_anything_is_done(fleet: Fleet) -> None:
    """A machine for each wrong one, all in one play."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"qemu_vm_cpus": "many"}, "qemu_vm_cpus"),
        ({"qemu_vm_disks": [{"size": "1M"}]}, "name"),
        ({"qemu_vm_networks": [{"forwards": [{"host_port": 1}]}]}, "guest_port"),
        ({"qemu_vm_image": {"sauce": "x"}}, "sauce"),
        ({"qemu_vm_ready": "soon"}, "qemu_vm_ready"),
        ({"qemu_vm_keep_disk": True}, "qemu_vm_keep_disk is no variable of the role"),
        # told by the modules, before the disks are made
        ({"qemu_vm_memory": "lots"}, "memory: 'lots' is no size"),
        ({"qemu_vm_networks": [{"mac": "01:00:00:00:00:00"}]}, "networks[0].mac"),
        ({"qemu_vm_ready": "agent", "qemu_vm_agent": False}, "agent channel"),
        ({"qemu_vm_run_dir": "/tmp/" + 100 * "x"}, "107"),
    ]
    for number, (variables, _named) in enumerate(cases):
        fleet.declare(f"m{number}", **variables)
    play = fleet.play("provision")
    for number, (variables, named) in enumerate(cases):
        assert named in told(play, f"m{number}"), (variables, play.text)
    assert not fleet.home.exists()


def test_a_state_that_there_is_not_is_told(fleet: Fleet) -> None:
    fleet.declare("a", qemu_vm_state="here")
    play = run_role(fleet)
    assert play.rc != 0
    assert "qemu_vm_state" in play.text


def test_names_that_lead_to_others_files_are_refused_both_ways(fleet: Fleet) -> None:
    """Another machine's disk, and what lies where a wrong name would lead, must survive a teardown."""
    cases: list[dict[str, Any]] = [
        {"qemu_vm_name": ""},
        {"qemu_vm_name": ".."},
        {"qemu_vm_name": "../other"},
        {"qemu_vm_home": "home"},
        {"qemu_vm_disks": [{"name": "../other/system", "size": "1M"}]},
        {"qemu_vm_disks": [{"name": "system", "size": "1M"}]},
        {"qemu_vm_disks": [{"name": "a", "path": "/d", "size": "1M"}, {"name": "b", "path": "/d"}]},
    ]
    theirs = [fleet.home / "other" / "system.qcow2", fleet.home / "seed.iso", fleet.folder / "seed.iso"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theirs")
    for number, variables in enumerate(cases):
        fleet.declare(f"m{number}", **variables)
    for playbook in ("provision", "teardown"):
        play = fleet.play(playbook)
        for number, variables in enumerate(cases):
            assert play.stats[f"m{number}"]["failures"] == 1, (variables, play.text)
            assert "Nothing was done" in told(play, f"m{number}"), (variables, play.text)
    assert [path.read_bytes() for path in theirs] == [b"theirs"] * 3
    assert sorted(path.name for path in fleet.home.iterdir()) == ["other", "seed.iso"]


def run_role(fleet: Fleet) -> Play:
    """The role by itself, since the playbooks state the state."""
    playbook = fleet.folder / "role.yml"
    task = {"ansible.builtin.include_role": {"name": "vmops.lifecycle.qemu_vm"}, "vars": fleet.machines["a"]}
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    return run_playbook(playbook)


def test_the_host_that_runs_the_machines_may_be_in_the_inventory(fleet: Fleet) -> None:
    hypervisor = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    fleet.declare("hv", **hypervisor)
    fleet.declare("a", vm_host="hv")
    fleet.declare("localhost", **hypervisor)
    fleet.declare("b")
    play = fleet.play("provision")
    assert (changed(play)["a"] > 0, changed(play)["b"] > 0) == (True, True)
    assert play.stats.get("localhost", {}).get("changed", 0) == 0
    assert changed(play).get("hv", 0) == 0
    assert len(running(fleet.folder)) == 2
    for playbook in ("provision", "teardown"):
        limited = fleet.play(playbook, "--limit", "hv:localhost")  # none of the machines that they run is in the play
        assert (limited.rc, [name for name in limited.tasks if "Make" in name or "Take" in name]) == (0, [])
    assert sorted(path.name for path in fleet.home.iterdir()) == ["a", "b"]
    assert len(running(fleet.folder)) == 2
    fleet.declare("other", **hypervisor, vm_platform="abacus")
    assert changed(fleet.play("provision", "-e", "vm_machines=a")) == {"a": 0}
    assert changed(fleet.play("teardown", "-e", "vm_machines=hv:a:b:localhost"))["a"] > 0
    assert running(fleet.folder) == []


def test_two_machines_of_one_name_are_told_before_anything_is_done(fleet: Fleet) -> None:
    fleet.declare("a", qemu_vm_name="c")
    fleet.declare("b", qemu_vm_name="c")
    fleet.declare("c", vm_host="elsewhere")
    for playbook in ("provision", "teardown"):
        play = fleet.play(playbook, "--limit", "a:b")
        assert play.rc != 0
        assert "a isn't the only one to be machine c on localhost" in play.text
        assert "b isn't the only one to be machine c on localhost" in play.text
    assert not fleet.home.exists()


def test_an_unknown_platform_is_told(fleet: Fleet) -> None:
    fleet.declare("a", vm_platform="abacus")
    for playbook in ("provision", "teardown"):
        play = fleet.play(playbook)
        assert play.rc != 0
        assert "set vm_platform to qemu" in play.text


def test_secrets_of_the_seed_are_not_shown(fleet: Fleet) -> None:
    fleet.declare("a", qemu_vm_user_data={"password": "geheim-123"})
    play = fleet.play("provision", "-vvv", "--diff")
    assert play.rc == 0
    seeded = json.dumps([result for name, result in play.tasks.items() if name == "Write the seed"])
    assert "censored" in seeded
    assert "geheim-123" not in play.text + json.dumps(play.tasks)


@pytest.mark.parametrize("way", ["the collection's name", "a project's playbook"])
def test_the_playbooks_are_found_by_name(fleet: Fleet, way: str) -> None:
    fleet.declare("a", vm_platform="abacus")
    fleet.play("provision", "--syntax-check")  # writes the inventory
    for name in ("provision", "teardown"):
        by_file = str(ROOT / "docs" / "awx" / f"{name}.yml")
        playbook = by_file if way == "a project's playbook" else f"vmops.lifecycle.{name}"
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                playbook,
                "-i",
                str(fleet.folder / "inventory.json"),
            ],
            env=ansible_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "set vm_platform to qemu" in done.stdout, done.stderr
