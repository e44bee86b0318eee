# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each option of ovf_import leads to: the place, the server and the way there, the machine's shape; and that check
mode changes nothing.
"""

from __future__ import annotations

import base64
import re
import socket
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.testbed.faults import until
from tests.testbed.folder_server import FolderServer, Manner
from tests.testbed.importing import NAME, PATH, Importing, finish, importing
from tests.testbed.module_main import load
from tests.testbed.modules import Result, run_module
from tests.testbed.ovf_packages import DiskSpec, Spec, make_package
from tests.testbed.proxy import ConnectProxy
from tests.testbed.web_server import certificate

POD = "DC0_POD0"
LICENCE = "Be kind & pay"


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory):
    with importing(tmp_path_factory.mktemp("options"), Spec(), pods=1, pools=1, datastores=3) as found:
        found.server.govc("folder.create", "/DC0/vm/prod")
        for number in (1, 2):
            found.server.govc("object.mv", f"/DC0/datastore/LocalDS_{number}", f"/DC0/datastore/{POD}")
        yield found


@pytest.fixture
def bench(server):
    yield server
    server.server.release()
    server.server.release_uploads()
    server.server.forget_uploads()
    for path in server.machines():
        server.server.govc("vm.destroy", path)
    server.server.forget_calls()


def machine_of(bench: Importing) -> dict[str, Any]:
    """The machine as govc tells it."""
    [path] = bench.machines()
    return dict(bench.server.govc_json("vm.info", "-r", path)["virtualMachines"][0])


# --- the place


@pytest.mark.parametrize(
    ("given", "owner", "path"),
    [
        ({"resource_pool": "DC0_C0_RP1"}, "DC0_C0_RP1", PATH),
        ({"cluster": None, "resource_pool": "/DC0/host/DC0_C0/Resources/DC0_C0_RP1"}, "DC0_C0_RP1", PATH),
        ({"folder": "prod"}, "Resources", f"/DC0/vm/prod/{NAME}"),
        ({"folder": "/DC0/vm/prod"}, "Resources", f"/DC0/vm/prod/{NAME}"),
        ({"datacenter": "DC0"}, "Resources", PATH),
    ],
)
def test_the_machine_is_where_it_was_asked_for(bench, given, owner, path):
    result = bench.run(**given)
    assert result.changed, result.msg
    assert bench.machines() == [result.json["vm"]["path"]] == [path]
    assert result.json["imported"]["pool"] == owner
    assert not bench.run(**given).changed
    assert bench.run(**given, state="absent").changed
    bench.assert_nothing_left()


def test_a_host_is_the_one_that_is_named(bench):
    for host in ("DC0_C0_H1", "DC0_C0_H2"):
        assert bench.run(cluster=None, host=host).changed
        assert host in bench.server.govc("vm.info", "-r", PATH)
        assert bench.run(state="absent").changed


def in_a_cluster_of_datastores(bench: Importing, cluster: str = POD, check: bool = False) -> Result:
    options = bench.options(datastore_cluster=cluster)
    del options["datastore"]  # which Ansible takes for given where it is empty
    return run_module("ovf_import", options, check=check)


def test_of_a_datastore_cluster_it_is_the_one_with_the_most_room(bench):
    for roomy, other in (("LocalDS_1", "LocalDS_2"), ("LocalDS_2", "LocalDS_1")):
        bench.server.set_free_space(roomy, 9 << 30)
        bench.server.set_free_space(other, 8 << 30)
        assert in_a_cluster_of_datastores(bench, check=True).json["would_import"]["datastore"] == roomy
        assert in_a_cluster_of_datastores(bench).changed
        assert f"[{roomy}]" in machine_of(bench)["config"]["files"]["vmPathName"]
        assert not in_a_cluster_of_datastores(bench).changed
        assert bench.run(state="absent").changed
    bench.server.set_free_space("LocalDS_1", 1000)
    bench.server.set_free_space("LocalDS_2", 1001)
    assert "LocalDS_2 has 1001 bytes free" in in_a_cluster_of_datastores(bench).msg
    assert "there is no nope among the datastore clusters" in in_a_cluster_of_datastores(bench, "nope").msg
    bench.assert_nothing_left()


def test_an_esxi_host_without_a_vcenter(tmp_path):
    with importing(tmp_path, Spec(nvram=True), esx=True) as bench:
        path = "/ha-datacenter/vm/web1"
        wanted = {"cluster": None, "datastore": None, "inject_ovf_env": True, "properties": {"net.hostname.1": "esx"}}
        assert bench.run(check=True, **wanted).changed
        assert bench.server.leases == []
        unheard = "Without a vCenter an ESXi host hands a machine no OVF properties"
        assert unheard in str(bench.run(check=True, **{**wanted, "inject_ovf_env": False}).json["warnings"])
        result = bench.run(**wanted, state="poweredon")
        assert result.changed, result.msg
        assert unheard not in str(result.json.get("warnings"))
        assert bench.machines() == [result.json["vm"]["path"]] == [path]
        assert environment_of(bench) == {"net.hostname.1": "esx", "net.password.1": "swordfish", "net.build.1": "7"}
        sent = [(Path(upload["target"]).name, upload["status"]) for upload in bench.server.uploads]
        assert sorted(sent) == [("disk-0.vmdk", 200), ("web.nvram", 200)]
        assert not bench.run(**wanted, state="poweredon").changed
        bench.server.upload_rule("status", status=403)
        failed = bench.run(**wanted, name="web1-other")
        assert "HTTP 403" in failed.msg
        assert failed.json["lease"]["outcome"] == "aborted"
        assert bench.machines() == [path]
        assert (bench.server.live_leases, bench.server.sessions) == ([], [])
        assert bench.run(**wanted, state="absent").changed
        bench.assert_nothing_left()


def environment_of(bench: Importing) -> dict[str, str]:
    """The properties that a guest finds in its configuration."""
    extra = machine_of(bench)["config"]["extraConfig"]
    [text] = [item["value"] for item in extra if item["key"] == "guestinfo.ovfEnv"]
    name = "{http://schemas.dmtf.org/ovf/environment/1}%s"
    found = ElementTree.fromstring(text).iter(name % "Property")
    return {entry.attrib[name % "key"]: entry.attrib[name % "value"] for entry in found}


def test_the_environment_has_the_defaults_of_the_deployment_option(bench, tmp_path):
    def by_option(text: str) -> str:
        return text.replace(
            "<Label>Host name</Label>", '<Label>Host name</Label><Value ovf:value="big" ovf:configuration="large"/>'
        )

    package = make_package(tmp_path, Spec(edit={".ovf": by_option}))
    wanted = {"source": str(package), "inject_ovf_env": True, "secret_properties": {"net.password.1": "geheim-7"}}
    for given, hostname in (({}, "web1"), ({"deployment_option": "large"}, "big")):
        assert bench.run(**wanted, **given).changed
        assert environment_of(bench) == {
            "net.hostname.1": hostname,
            "net.password.1": "geheim-7",
            "net.build.1": "7",
        }
        assert bench.run(state="absent").changed


# --- the server, and the way there


def test_all_goes_by_the_proxy(bench):
    with ConnectProxy().running() as proxy:
        result = bench.run(proxy_host="127.0.0.1", proxy_port=proxy.port)
        assert result.changed, result.msg
        bench.assert_imported()
        assert set(proxy.asked) == {f"{bench.server.host}:{bench.server.port}"}
        assert proxy.sent_bytes > result.json["files"][0]["bytes"], "the upload as well"


def test_a_proxy_that_is_not_there(bench):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = bench.run(proxy_host="127.0.0.1", proxy_port=unused.getsockname()[1])
    assert result.failed
    assert "nobody listens there" in result.msg
    assert "proxy_port" in bench.run(proxy_host="127.0.0.1").msg
    assert bench.server.counts == {}


def test_the_environment_names_the_server_and_the_proxy(bench):
    connection = ("hostname", "port", "username", "password", "ca_path")
    given = {name: value for name, value in bench.options().items() if name not in connection}
    with ConnectProxy().running() as proxy:
        env = {
            "VMWARE_HOST": bench.server.host,
            "VMWARE_PORT": str(bench.server.port),
            "VMWARE_USER": bench.server.username,
            "VMWARE_PASSWORD": bench.server.password,
            "VMWARE_VALIDATE_CERTS": "no",
            "VMWARE_PROXY_HOST": "127.0.0.1",
            "VMWARE_PROXY_PORT": str(proxy.port),
        }
        result = run_module("ovf_import", given, env=env)
        assert result.changed, result.msg
        assert bench.server.password not in str(result.json)
        bench.assert_imported()
        assert proxy.asked
        # an option counts for more than the environment
        assert not run_module("ovf_import", {**given, "username": "nobody"}, env=env).json.get("changed")
        env["VMWARE_VALIDATE_CERTS"] = "yes"
        assert "certificate is not trusted" in run_module("ovf_import", given, env=env).msg
    bench.assert_imported()


# --- the machine's shape


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"deployment_option": "large"}, "<deploymentOption>large<"),
        ({"disk_provisioning": "thin"}, "<diskProvisioning>thin<"),
        ({"ip_allocation_policy": "dhcpPolicy"}, "<ipAllocationPolicy>dhcpPolicy<"),
        ({"ip_protocol": "IPv6"}, "<ipProtocol>IPv6<"),
        ({"properties": {"net.hostname.1": "chosen"}}, "<value>chosen<"),
        ({"networks": {"VM Network": "DC0_DVPG0"}}, 'type="DistributedVirtualPortgroup">'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_choice_reaches_the_server(bench, given, sent):
    rule = bench.server.rule("CreateImportSpec", "fault", fault="SystemError", text="it came", contains=sent)
    assert bench.run(check=True).changed
    assert "it came" in bench.run(check=True, **given).msg
    bench.server.release(rule)
    assert bench.run(check=True, **given).changed


def test_the_notes_are_those_given(bench):
    assert bench.run(annotation="made by hand").changed
    assert machine_of(bench)["config"]["annotation"] == "made by hand"


def test_a_licence_has_to_be_accepted(bench, tmp_path):
    package = make_package(tmp_path, Spec(eula=LICENCE.replace("&", "&amp;")))
    refused = bench.run(source=str(package))
    assert refused.failed
    assert "accept_eulas" in refused.msg
    assert "Be kind" in refused.msg
    bench.assert_nothing_left()
    told = bench.run(source=str(package), accept_eulas=True, check=True).json["would_import"]["eulas"]
    assert [eula["text"] for eula in told] == [LICENCE]
    assert bench.run(source=str(package), accept_eulas=True).changed


# --- the package


def test_another_package_is_another_machine_and_the_same_at_another_place_is_not(bench, tmp_path):
    assert bench.run().changed
    same = tmp_path / "copy.ova"
    same.write_bytes(bench.package.read_bytes())
    assert not bench.run(source=str(same)).changed
    other = make_package(tmp_path / "other", Spec(edit={".ovf": lambda text: text.replace("1.2.3", "1.2.4")}))
    refused = bench.run(source=str(other))
    assert "imported from another package" in refused.msg
    assert bench.run(source=str(other), replace=True).changed
    bench.assert_imported()
    assert bench.run().failed


def test_a_refusal_names_the_choices_that_differ(bench, tmp_path):
    secret = {"secret_properties": {"net.password.1": "geheim-7"}}
    assert bench.run(**secret, properties={"net.hostname.1": "one"}).changed
    other = {"properties": {"net.hostname.1": "two"}, "networks": {"VM Network": "DC0_DVPG0"}}
    refused = bench.run(secret_properties={"net.password.1": "geheim-8"}, **other)
    assert "imported with other choices (networks.VM Network, properties.net.hostname.1)" in refused.msg
    assert refused.json["error"]["differs"] == ["networks.VM Network", "properties.net.hostname.1"]
    package = make_package(tmp_path, Spec(edit={".ovf": lambda text: text.replace("1.2.3", "1.2.4")}))
    refused = bench.run(**secret, properties={"net.hostname.1": "one"}, source=str(package))
    assert refused.json["error"]["differs"] == ["package"]
    # a machine that an older release has marked
    bench.server.govc("vm.change", "-vm", PATH, "-e", "vmops.ovf.inputs=")
    assert "imported from another package or with other choices" in bench.run(**other).msg
    assert not bench.run(**secret, properties={"net.hostname.1": "one"}).changed


def test_a_package_of_a_server_that_asks_who_comes_and_is_not_read_twice(bench, tmp_path):
    pem = certificate(tmp_path / "web.pem")
    told = {"url_username": "reader", "url_password": "geheim-7"}
    manner = Manner(authorization="Basic " + base64.b64encode(b"reader:geheim-7").decode())
    with FolderServer(bench.package.parent, manner, pem).running() as web:
        source = web.url(bench.package.name)
        assert "certificate" in bench.run(source=source, **told).msg
        assert "401" in bench.run(source=source, url_ca_path=str(pem)).msg
        bench.assert_nothing_left()
        result = bench.run(source=source, url_ca_path=str(pem), **told)
        assert result.changed, result.msg
        assert "geheim-7" not in str(result.json)
        bench.assert_imported()
        sent = web.sent_bytes
        assert not bench.run(source=source, url_ca_path=str(pem), **told).changed
        assert web.sent_bytes - sent < result.json["files"][0]["bytes"] / 2, "no more than the descriptor"


# --- how files go


TWO = Spec(disks=(DiskSpec(), DiskSpec()))
BUILDING_ON_EACH_OTHER = TWO._replace(
    edit={".ovf": lambda text: text.replace('ovf:diskId="disk2"', 'ovf:diskId="disk2" ovf:parentRef="disk1"')}
)


def when_the_second_file_comes(
    bench: Importing, package: Path, until_then: dict[str, float], **given: Any
) -> tuple[int, Result]:
    """The status of the first one by then, 0 if it had no answer yet, and how it ended. The first one has none before
    the second one has come, or for some `seconds`.
    """
    rule = bench.server.upload_rule("silent", times=1, **until_then)
    before = len(bench.server.uploads)
    process = bench.start(source=str(package), stall_timeout=600, timeout=600, **given)
    first, second = until(lambda: len(found := bench.server.uploads[before:]) == 2 and found, "a second file to come")
    bench.server.release_uploads(rule)
    assert first["target"] != second["target"]
    return int(first["status"]), finish(process)


@pytest.mark.parametrize(
    ("spec", "given", "status"),
    [
        (TWO, {}, 0),
        (TWO, {"parallel_disks": 1}, 200),
        (BUILDING_ON_EACH_OTHER, {}, 200),
    ],
    ids=["side by side", "one at a time", "each after the one it builds on"],
)
def test_files_go_side_by_side_where_they_may(bench, tmp_path, spec, given, status):
    until_then = {"seconds": 3} if status else {}
    found, result = when_the_second_file_comes(bench, make_package(tmp_path, spec), until_then, **given)
    assert result.changed, result.msg
    assert found == status


# --- the result


def test_each_key_of_the_result_is_documented(bench):
    documented = yaml.safe_load(load("ovf_import").RETURN)
    of_any = {"changed", "diff", "invocation", "warnings"}
    bench.server.set(spec_warnings=[{"fault": "OvfHardwareCheck", "text": "it is slow there"}])
    would = bench.run(check=True)
    done = bench.run()
    assert "it is slow there" in str(done.json["warnings"])
    bench.server.set(spec_warnings=[])
    assert set(would.json) - of_any == {"vm", "would_import", "elapsed_s"}
    assert set(done.json) - of_any == {"vm", "lease", "files", "upload", "imported", "elapsed_s"}
    bench.server.upload_rule("status", status=403, times=1)
    failed = bench.run(name="web1-other")
    of_failed = {"lease", "files", "upload", "would_import", "error", "elapsed_s"}
    assert set(failed.json) - {*of_any, "failed", "msg"} == of_failed
    assert set(documented) == {*set(done.json), *set(failed.json), "secondary_errors"} - {*of_any, "failed", "msg"}
    contains = documented["would_import"]["contains"]
    assert set(would.json["would_import"]) == set(done.json["imported"]) == set(contains)
    place = {"folder": "vm", "pool": "Resources", "host": None, "datastore": "LocalDS_0"}
    assert would.json["would_import"].items() >= place.items()
    assert set(done.json["vm"]) == set(documented["vm"]["contains"])
    assert set(done.json["lease"]) == set(failed.json["lease"]) == set(documented["lease"]["contains"])
    assert failed.json["lease"]["outcome"] == "aborted"
    Path(failed.json["lease"]["log"]).unlink()
    [file] = done.json["files"]
    assert file["name"] == "disk1.vmdk"
    assert file["bytes"] == bench.server.uploads[0]["bytes"]
    assert file["seconds"] > 0
    assert file["mb_per_s"] > 0
    [attempt] = file["attempts"]
    assert attempt["error"] is None
    assert "HTTP 403" in failed.json["files"][0]["attempts"][0]["error"]


# --- check mode


READS = {
    "RetrieveServiceContent",
    "Login",
    "Logout",
    "RetrievePropertiesEx",
    "ContinueRetrievePropertiesEx",
    "FindChild",
    "CreateImportSpec",
    "QueryConfigOptionDescriptor",
    "CreateCollectorForTasks",
    "ReadNextTasks",
    "DestroyCollector",
}


def inventory(bench: Importing, folder: Path) -> dict[str, str]:
    """All objects of the server with all their properties, as govc reads them; but for the logins, and what is free on
    the real disk beneath the datastores.
    """
    bench.server.govc("object.save", "-d", str(folder))
    found = {}
    for path in folder.rglob("*.xml"):
        name = re.sub(r"^\d+-", "", str(path.relative_to(folder)))  # a running number
        if not name.startswith("SessionManager"):
            found[name] = re.sub("<(freeSpace|uncommitted)>[^<]*<", "", path.read_text())
    assert any(name.startswith("Datastore-") for name in found)
    return found


@pytest.mark.parametrize(
    ("there", "given"),
    [
        (None, {}),
        (None, {"state": "poweredon"}),
        (None, {"state": "template"}),
        ({}, {"state": "poweredon"}),
        ({}, {"state": "absent"}),
        ({"state": "poweredon"}, {"annotation": "new", "replace": True, "force": True}),
    ],
)
def test_check_mode_changes_nothing_on_the_server(bench, tmp_path, there, given):
    if there is not None:
        assert bench.run(**there).changed
    before = inventory(bench, tmp_path / "before")
    bench.server.forget_calls()
    result = bench.run(check=True, **given)
    assert result.changed, result.msg
    asked = set(bench.server.counts)
    assert inventory(bench, tmp_path / "after") == before
    assert asked <= READS
    assert bench.server.sessions == []
