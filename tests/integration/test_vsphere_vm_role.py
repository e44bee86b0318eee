# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vsphere_vm and the two playbooks, against the stand-in for a vCenter server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.testbed.appliance import ADDRESS, APPLIANCE
from tests.testbed.boot_guest import Kind, image
from tests.testbed.importing import Importing, importing
from tests.testbed.module_main import ROOT
from tests.testbed.playbooks import Play, run_playbook
from tests.testbed.start_bench import Bench, running

pytestmark = pytest.mark.every_core

ABSENT, PRESENT = "teardown", "provision"
TASK = "Import the machine, or find it imported"


class Fleet:
    """An inventory of machines of one package, and the two playbooks run on it."""

    def __init__(self, folder: Path, bench: Importing) -> None:
        self.folder = folder
        self.server = bench.server
        self.package = bench.package
        self.machines: dict[str, dict[str, Any]] = {}

    def declare(self, name: str, **variables: Any) -> None:
        self.machines[name] = variables

    def shared(self) -> dict[str, Any]:
        connection = {f"vsphere_vm_{name}": value for name, value in self.server.options.items()}
        return {
            "vm_platform": "vsphere",
            **connection,
            "vsphere_vm_ca_path": str(self.server.cafile),
            "vsphere_vm_source": str(self.package),
            "vsphere_vm_cluster": "DC0_C0",
            "vsphere_vm_datastore": "LocalDS_0",
            "vsphere_vm_accept_eulas": True,
            "vsphere_vm_properties": {"ip0": ADDRESS},
            "vsphere_vm_timeout": 120,
        }

    def play(self, playbook: str, *words: str, env: Mapping[str, str] | None = None, **variables: Any) -> Play:
        inventory = self.folder / "inventory.json"
        shared = {name: value for name, value in {**self.shared(), **variables}.items() if value is not None}
        inventory.write_text(json.dumps({"all": {"vars": shared, "hosts": self.machines}}))
        return run_playbook(ROOT / "playbooks" / f"{playbook}.yml", "-i", str(inventory), *words, env=env)

    def there(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.server.machines()]

    def assert_at_rest(self) -> None:
        assert (self.server.live_leases, self.server.sessions) == ([], [])


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path) -> Iterator[Fleet]:
    with importing(tmp_path, APPLIANCE) as bench:
        yield Fleet(tmp_path, bench)


def changed(play: Play) -> Mapping[str, int]:
    assert play.rc == 0, play.text
    return {host: numbers["changed"] for host, numbers in play.stats.items() if host != "localhost"}


def told(play: Play, host: str) -> str:
    """What the play says of a host that failed."""
    return "\n".join(
        line for line in play.text.splitlines() if line.startswith(("fatal: [" + host + "]", f"fatal: [{host} "))
    )


def test_many_machines_come_and_go(fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.declare(name)
    assert changed(fleet.play(PRESENT, "--check", "--diff")) == {"a": 1, "b": 1}
    assert fleet.there() == []

    made = fleet.play(PRESENT, "--diff")
    assert changed(made) == {"a": 1, "b": 1}
    assert "poweredOn" in made.text, "the diff"
    assert fleet.there() == ["a", "b"]
    assert "poweredOn" in fleet.server.govc("vm.info", "/DC0/vm/a")
    assert made.tasks[TASK]["vm"]["ip_addresses"] == [ADDRESS]
    uploads = len(fleet.server.uploads)
    again = fleet.play(PRESENT)
    assert changed(again) == {"a": 0, "b": 0}
    assert again.tasks[TASK]["vm"]["ip_addresses"] == [ADDRESS]
    assert len(fleet.server.uploads) == uploads
    fleet.assert_at_rest()

    assert changed(fleet.play(ABSENT, "--check")) == {"a": 1, "b": 1}
    assert fleet.there() == ["a", "b"]
    assert changed(fleet.play(ABSENT)) == {"a": 1, "b": 1}
    assert fleet.there() == []
    assert changed(fleet.play(ABSENT)) == {"a": 0, "b": 0}
    fleet.assert_at_rest()


def test_one_inventory_for_both_platforms(fleet: Fleet) -> None:
    """The machine on QEMU is a boot sector. Both run the whole of the playbooks, and neither disturbs the other."""
    bench = Bench(fleet.folder)
    source = fleet.folder / "source.img"
    source.write_bytes(image(Kind.OBEYS))
    fleet.declare("v")
    fleet.declare(
        "q",
        vm_platform="qemu",
        qemu_vm_home=str(fleet.folder / "home"),
        qemu_vm_run_dir=str(fleet.folder / "r"),
        qemu_vm_image={"source": str(source), "source_format": "raw", "size": "2M", "interface": "ide"},
        qemu_vm_memory="32M",
        qemu_vm_machine="pc",
        qemu_vm_accel="tcg",
        qemu_vm_networks=[],
        qemu_vm_ready="console",
        qemu_vm_ready_text="BR",
        qemu_vm_shutdown_timeout=20,
    )
    try:
        assert all(changed(fleet.play(PRESENT)).values())
        assert (fleet.there(), len(running(fleet.folder))) == (["v"], 1)
        assert all(changed(fleet.play(ABSENT)).values())
        assert (fleet.there(), running(fleet.folder)) == ([], [])
    finally:
        bench.end()


CONNECTION = {
    "hostname": "vcenter.example.com",
    "port": 8443,
    "username": "deployer",
    "password": "geheim-1",
    "validate_certs": False,
    "ca_path": "/ca.pem",
    "thumbprint": "AA:BB",
    "proxy_host": "proxy.example.com",
    "proxy_port": 3128,
}
OF_BOTH = {
    "datacenter": "DC7",
    "cluster": "C7",
    "resource_pool": "pool7",
    "host": "esx7",
    "folder": "prod",
    "datastore": "ds7",
    "timeout": 77,
}
PRESENT_ONLY = {
    "source": "https://packages.example.com/web.ova",
    "url_username": "reader",
    "url_password": "geheim-2",
    "url_headers": {"X-Token": "geheim-3"},
    "url_validate_certs": False,
    "url_ca_path": "/url-ca.pem",
    "url_use_proxy": False,
    "verify": "required",
    "networks": {"VM Network": "dmz"},
    "properties": {"net.hostname.1": "web7"},
    "secret_properties": {"net.password.1": "geheim-4"},
    "deployment_option": "large",
    "disk_provisioning": "thin",
    "ip_allocation_policy": "dhcpPolicy",
    "ip_protocol": "IPv6",
    "accept_eulas": True,
    "inject_ovf_env": True,
    "annotation": "notes",
    "replace": True,
    "upload": "auto",
    "parallel_disks": 2,
    "retries": 7,
    "stall_timeout": 9,
}
SECRET = ("password", "url_password", "url_headers", "secret_properties")


def given_to(fleet: Fleet, playbook: str, name: str, **variables: Any) -> Mapping[str, Any]:
    """What the module was given by a play with these variables alone, which leads nowhere."""
    fleet.machines = {"a": {"vm_platform": "vsphere", **variables}}
    unset = dict.fromkeys(fleet.shared())
    play = fleet.play(playbook, "-vvv", **unset)
    assert play.stats["a"]["failures"] == 1, play.text
    assert "geheim" not in play.text + json.dumps(play.tasks)
    return dict(play.tasks[name]["invocation"]["module_args"])


def as_variables(options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"vsphere_vm_{name}": value for name, value in options.items()}


def test_each_variable_reaches_its_module(fleet: Fleet) -> None:
    declared = {**CONNECTION, **OF_BOTH, **PRESENT_ONLY}
    # what excludes one of those above
    template = {"present_as": "template", "wait_for_ip": True, "datastore": "", "datastore_cluster": "pod7"}
    others = [
        (
            {**template, "force_replace": True, "name": "b"},
            {"state": "template", "wait_for_ip": False, "datastore": None, "force": True},
        ),
        ({"force_remove": True}, {"state": "poweredon", "wait_for_ip": True, "force": False, "name": "a"}),
    ]
    for variables, expected in others:
        given = given_to(fleet, PRESENT, TASK, **as_variables({**declared, **variables}))
        wanted = {**declared, **{name: value for name, value in variables.items() if name in given}, **expected}
        assert [name for name, value in wanted.items() if name not in SECRET and given[name] != value] == []

    task = "Power the machine off and remove it with its disks"
    for variables, expected in [({"force_replace": True}, {"force": False}), ({"force_remove": True}, {"force": True})]:
        given = given_to(fleet, ABSENT, task, **as_variables({**declared, **variables}))
        wanted = {**CONNECTION, **OF_BOTH, **expected, "state": "absent", "name": "a"}
        assert [name for name, value in wanted.items() if name not in SECRET and given[name] != value] == []


def test_the_module_has_no_option_without_a_variable() -> None:
    specs = yaml.safe_load((ROOT / "roles" / "vsphere_vm" / "meta" / "argument_specs.yml").read_text())
    variables = {name.removeprefix("vsphere_vm_") for name in specs["argument_specs"]["main"]["options"]}
    folder = ROOT / "plugins"
    sources = ["modules/ovf_import.py", "doc_fragments/vsphere_connection.py", "doc_fragments/ovf_source.py"]
    texts = [(folder / source).read_text().split('r"""')[1].split('"""')[0] for source in sources]
    options = {name for text in texts for name in yaml.safe_load(text)["options"]}
    assert options - variables == {"force"}, "which two variables say"
    tried = {*CONNECTION, *OF_BOTH, *PRESENT_ONLY, "datastore_cluster", "wait_for_ip", "name", "state"}
    assert options - tried == {"force"}, "each is tried above"


def test_a_whole_path_tells_the_datacenter(tmp_path: Path) -> None:
    with importing(tmp_path, APPLIANCE, datacenters=2, datastores=2) as bench:
        fleet = Fleet(tmp_path, bench)
        fleet.declare("a", vsphere_vm_cluster="/DC1/host/DC1_C0", vsphere_vm_wait_for_ip=False)
        assert changed(fleet.play(PRESENT)) == {"a": 1}
        assert fleet.server.machines() == ["/DC1/vm/a"]
        assert changed(fleet.play(ABSENT)) == {"a": 1}
        assert fleet.there() == []


def test_the_environment_gives_the_connection(fleet: Fleet) -> None:
    """As AWX does by its credential of the type VMware vCenter."""
    fleet.declare("a")
    server = fleet.server
    env = {
        "VMWARE_HOST": server.host,
        "VMWARE_PORT": str(server.port),
        "VMWARE_USER": server.username,
        "VMWARE_PASSWORD": server.password,
        "VMWARE_VALIDATE_CERTS": "false",
    }
    names = ("hostname", "port", "username", "password", "ca_path")
    unset = dict.fromkeys([f"vsphere_vm_{name}" for name in names])
    assert changed(fleet.play(PRESENT, env=env, **unset)) == {"a": 1}
    assert changed(fleet.play(ABSENT, env=env, **unset)) == {"a": 1}


def test_answers_as_surveys_and_command_lines_give_them(fleet: Fleet) -> None:
    """All text, and empty where nothing was answered."""
    fleet.declare("a")
    words = [
        "vsphere_vm_accept_eulas=true",
        "vsphere_vm_wait_for_ip=no",  # it has no address
        "vsphere_vm_folder=",
        "vsphere_vm_resource_pool=",
        "vsphere_vm_deployment_option=",
        "vsphere_vm_timeout=100",
    ]
    extra = [word for each in words for word in ("-e", each)]
    extra += ["-e", json.dumps({"vsphere_vm_properties": '{"net.hostname.1": "asked"}'})]
    assert changed(fleet.play(PRESENT, *extra)) == {"a": 1}
    machine = fleet.server.govc_json("vm.info", "/DC0/vm/a")["virtualMachines"][0]
    assert machine["runtime"]["powerState"] == "poweredOn"
    values = {item["id"]: item.get("value") for item in machine["config"]["vAppConfig"]["property"]}
    assert values["hostname"] == "asked"
    assert changed(fleet.play(PRESENT, *extra)) == {"a": 0}


def test_variables_are_checked_before_anything_is_done(fleet: Fleet) -> None:
    """A machine for each wrong one, all in one play."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"vsphere_vm_timeout": "long"}, "vsphere_vm_timeout"),
        ({"vsphere_vm_networks": ["dmz"]}, "vsphere_vm_networks"),
        ({"vsphere_vm_present_as": "running"}, "vsphere_vm_present_as"),
        ({"vsphere_vm_force_removal": True}, "vsphere_vm_force_removal is no variable of the role"),
        ({"vsphere_vm_source": ""}, "no package is named"),
        ({"vsphere_vm_accept_eulas": False}, "accept_eulas"),
        ({"vsphere_vm_properties": {"nope": 1}}, "nope"),
        ({"vsphere_vm_password": ""}, "VMWARE_PASSWORD"),
    ]
    for number, (variables, _named) in enumerate(cases):
        fleet.declare(f"m{number}", **variables)
    play = fleet.play(PRESENT)
    for number, (variables, named) in enumerate(cases):
        assert named in told(play, f"m{number}"), (variables, play.text)
    assert (fleet.there(), fleet.server.leases) == ([], [])


def test_one_machine_that_fails_does_not_keep_the_others_down(fleet: Fleet) -> None:
    fleet.declare("a", vsphere_vm_datastore="nowhere")
    fleet.declare("b")
    play = fleet.play(PRESENT)
    assert play.stats["a"]["failures"] == 1
    assert "nowhere" in told(play, "a")
    assert fleet.there() == ["b"]
    fleet.assert_at_rest()


def test_a_machine_of_others_is_taken_away_only_by_force(fleet: Fleet) -> None:
    fleet.server.govc("vm.create", "-on=false", "-net", "VM Network", "a")
    fleet.declare("a")
    play = fleet.play(ABSENT)
    assert play.stats["a"]["failures"] == 1
    assert fleet.there() == ["a"]
    assert changed(fleet.play(ABSENT, "-e", "vsphere_vm_force_remove=true")) == {"a": 1}
    assert fleet.there() == []


def test_two_machines_of_one_name_are_told_before_anything_is_done(fleet: Fleet) -> None:
    fleet.declare("a", vsphere_vm_name="c")
    fleet.declare("b", vsphere_vm_name="c")
    fleet.declare("c", vsphere_vm_folder="/DC0/vm", vsphere_vm_present_as="present")
    for playbook in (PRESENT, ABSENT):
        play = fleet.play(playbook)
        for host in "ab":
            expected = f"{host} isn't the only one to be machine c on 127.0.0.1: give each a vsphere_vm_name"
            assert expected in told(play, host)
        assert play.stats["c"]["failures"] == 0
    assert fleet.there() == []


def test_the_host_that_talks_to_the_server_may_be_in_the_inventory(fleet: Fleet) -> None:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    fleet.declare("jump", **local)
    fleet.declare("a", vm_host="jump")
    play = fleet.play(PRESENT)
    assert changed(play)["a"] == 1
    assert "[a -> jump]" in play.text
    assert changed(fleet.play(ABSENT, "--limit", "jump")) == {"jump": 0}
    assert fleet.there() == ["a"]


def test_the_tutorials_inventory_is_provisioned_and_torn_down_each_twice(fleet: Fleet, tmp_path: Path) -> None:
    """As it stands there, but for what names the server, the package and where it goes."""
    text = (ROOT / "docs" / "tutorials" / "ova-into-vsphere.md").read_text()
    blocks = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml\n")[1:]]
    [inventory] = [block for block in blocks if "machines" in block]
    [follow_up] = [block for block in blocks if isinstance(block, list)]
    named = {name: value for name, value in fleet.shared().items() if name not in ("vm_platform", "vsphere_vm_timeout")}
    named |= {"vsphere_vm_networks": {}, "vsphere_vm_folder": "/DC0/vm"}
    named |= {"vsphere_vm_secret_properties": {}, "vcenter_password": "", "appliance_password": ""}
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps(inventory))
    extra = ["-i", str(hosts), "-e", json.dumps(named)]
    for playbook in (PRESENT, ABSENT):
        counts = []
        for _round in range(2):
            play = run_playbook(ROOT / "playbooks" / f"{playbook}.yml", *extra)
            counts.append(changed(play))
        assert all(counts[0].values())
        assert not any(counts[1].values())
        if playbook == PRESENT:
            file = tmp_path / "follow-up.json"
            file.write_text(json.dumps(follow_up))
            play = run_playbook(file, *extra)
            assert play.rc == 0, play.text
            assert ADDRESS in play.text
    assert fleet.there() == []
