# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of the README, run in its order, each of them twice."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.testbed import linux_guest
from tests.testbed.module_main import ROOT
from tests.testbed.playbooks import Play, run_playbook

pytestmark = pytest.mark.every_core


def _blocks() -> list[Any]:
    text = (ROOT / "README.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


PLAYBOOKS = [block for block in _blocks() if isinstance(block, list) and "hosts" in block[0]]
INVENTORIES = [block for block in _blocks() if "machines" in block]
PROMPTED = {"disk_passphrase": "correct horse battery staple"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the machines and images of this module are; whatever a failed test leaves running there is ended."""
    # sockets have short paths, so not pytest's own folder
    folder = tmp_path_factory.mktemp("r")
    yield folder
    for pidfile in folder.glob("run/*/qemu.pid"):
        os.kill(int(pidfile.read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An image on a web server of our own, in place of the one of the README."""
    folder = tmp_path_factory.mktemp("published")
    image = folder / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 7 1M 2M", str(image)], check=True, stdout=subprocess.DEVNULL)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "image_url": f"http://127.0.0.1:{server.server_address[1]}/image.qcow2",
            "image_checksum": f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}",
        }
        server.shutdown()


@pytest.fixture(scope="module")
def guest() -> dict[str, Any]:
    """What makes a guest run here: emulation, and a kernel, since nothing boots from the image published here."""
    built = linux_guest.build()
    return {"kernel": str(built.kernel), "initrd": str(built.initrd), "append": "console=ttyS0 quiet", "accel": "tcg"}


def test_the_readme_has_its_playbooks_and_an_inventory():
    assert len(PLAYBOOKS) >= 10
    assert len(INVENTORIES) == 1


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda playbook: playbook[0]["name"])
def test_a_playbook_works_and_changes_nothing_when_repeated(playbook, place, published, guest, tmp_path):
    for task in playbook[0]["tasks"]:
        start = task.get("vmops.lifecycle.qemu_guest_start")
        if start:
            start.update(guest, memory="256M")
            start["networks"][0]["forwards"][0]["host_port"] = _free_port()
    file = tmp_path / "playbook.yml"
    file.write_text(json.dumps(playbook))
    inventory = {"hypervisors": {"hosts": {"localhost": {"ansible_connection": "local"}}}}
    # As on a host that has neither: what the playbooks write to, they make.
    variables = {"folder": str(place / "vms"), "run_dir": str(place / "run"), **published, **PROMPTED}

    _play(file, inventory, variables, tmp_path)
    assert _changed(_play(file, inventory, variables, tmp_path)) == 0


def test_the_inventory_is_provisioned_and_torn_down_each_twice(place, published, guest, tmp_path):
    inventory = INVENTORIES[0]
    inventory["machines"]["hosts"]["web1"]["qemu_vm_networks"][0]["forwards"][0]["host_port"] = _free_port()
    inventory["machines"]["hosts"]["db1"]["qemu_vm_memory"] = "256M"
    inventory["machines"]["vars"]["qemu_vm_memory"] = "192M"
    inventory["machines"]["vars"]["qemu_vm_image"].update(
        source=published["image_url"], checksum=published["image_checksum"]
    )
    variables = {f"qemu_vm_{name}": value for name, value in guest.items()}
    variables |= {"qemu_vm_home": str(place / "home"), "qemu_vm_run_dir": str(place / "run")}

    for playbook in ("provision", "teardown"):
        file = ROOT / "playbooks" / f"{playbook}.yml"
        assert _changed(_play(file, inventory, variables, tmp_path)) > 0
        assert _changed(_play(file, inventory, variables, tmp_path)) == 0
    assert not [path for path in (place / "home").rglob("*") if path.is_file()]


def _play(file: Path, inventory: Any, variables: Any, folder: Path) -> Play:
    hosts = folder / "hosts.yml"
    hosts.write_text(json.dumps(inventory))  # JSON is YAML
    play = run_playbook(file, "--inventory", str(hosts), "--extra-vars", json.dumps(variables))
    assert play.rc == 0, play.text
    return play


def _changed(play: Play) -> int:
    return sum(host["changed"] for host in play.stats.values())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
