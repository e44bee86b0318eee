# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import and where things go: the machine in the inventory, its files to the hosts that take them."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.testbed.faults import until
from tests.testbed.importing import PATH, finish, importing
from tests.testbed.modules import run_module
from tests.testbed.ovf_packages import DiskSpec, Spec, make_package
from tests.testbed.proxy import carry


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


# --- the inventory


def test_problems_of_place_and_package_are_told_together(tmp_path):
    broken = Spec(disks=(DiskSpec(subformat="monolithicSparse"),), networks=("VM Network", "dmz"), eula="Pay")
    with importing(tmp_path, broken) as bench:
        wrong = {"datastore": "ds9", "resource_pool": "pool9", "folder": "folder9", "host": "host9"}
        result = bench.run(**wrong, networks={"VM Network": "net9"}, properties={"nope": 1})
        assert result.failed
        assert {found["where"] for found in result.json["error"]["problems"]} == {
            *wrong,
            "networks.VM Network",
            "networks",
            "properties.nope",
            "accept_eulas",
            "disk1.vmdk",
        }
        for name in (*wrong.values(), "net9", "dmz", "nope", "Pay", "disk1.vmdk"):
            assert name in result.msg
        assert "CreateImportSpec" not in bench.server.counts
        bench.assert_nothing_left()


def test_what_the_server_finds_is_told_with_the_rest(bench):
    bench.server.set(spec_errors=[{"fault": "OvfUnsupportedElement", "text": "no such sound card"}])
    bench.server.set_free_space("LocalDS_0", 1000)
    result = bench.run()
    assert result.failed
    assert "no such sound card" in result.msg
    assert "has 1000 bytes free" in result.msg


def test_a_host_of_another_cluster_is_refused(bench):
    result = bench.run(host="DC0_H0")
    assert result.failed
    assert [found["where"] for found in result.json["error"]["problems"]] == ["host"]
    assert "/DC0/host/DC0_H0/DC0_H0 is not of /DC0/host/DC0_C0" in result.msg
    assert bench.run(host="DC0_H0", cluster="DC0_H0").changed
    assert "DC0_H0" in bench.server.govc("vm.info", PATH)


def test_a_pool_of_another_cluster_is_refused(bench):
    for given in ({}, {"cluster": None, "host": "DC0_C0_H0"}):
        result = bench.run(resource_pool="/DC0/host/DC0_H0/Resources", **given)
        assert result.failed
        assert [found["where"] for found in result.json["error"]["problems"]] == ["resource_pool"]
        assert "/DC0/host/DC0_H0/Resources is not of /DC0/host/DC0_C0" in result.msg
    assert bench.run(resource_pool="/DC0/host/DC0_H0/Resources", cluster=None).changed
    assert "DC0_H0" in bench.server.govc("vm.info", PATH)


def test_a_datastore_cluster_is_one_of_the_datacenter(tmp_path):
    with importing(tmp_path, datacenters=2, pods=1) as bench:
        for datacenter in ("DC0", "DC1"):
            pod = "/%s/datastore/%s_POD0" % (datacenter, datacenter)
            bench.server.govc("object.mv", "-dc", datacenter, "/%s/datastore/LocalDS_0" % datacenter, pod)
        given = {name: value for name, value in bench.options(datacenter="DC0").items() if name != "datastore"}
        result = run_module("ovf_import", {**given, "datastore_cluster": "DC1_POD0"})
        assert result.failed
        assert [found["where"] for found in result.json["error"]["problems"]] == ["datastore_cluster"]
        assert "there is no DC1_POD0 among the datastore clusters" in result.msg
        result = run_module("ovf_import", {**given, "datastore_cluster": "DC0_POD0"})
        assert result.changed, result.msg
        assert result.json["imported"]["datastore"] == "LocalDS_0"


def test_a_datastore_of_another_datacenter_is_refused(tmp_path):
    with importing(tmp_path, datacenters=2, datastores=2) as bench:
        result = bench.run(datacenter="DC0", datastore="/DC1/datastore/LocalDS_0")
        assert result.failed
        assert "there is no /DC1/datastore/LocalDS_0 among the datastores" in result.msg
        bench.assert_nothing_left()


def test_a_folders_whole_path_tells_the_datacenter(tmp_path):
    with importing(tmp_path, datacenters=2, datastores=2) as bench:
        assert "there are 2 datacenters, and none is named" in bench.run(folder="vm").msg
        assert bench.run(folder="/DC0/vm").changed
        bench.assert_imported()
        assert bench.run(folder="/DC0/vm", state="absent", cluster=None, datastore=None).changed
        bench.assert_nothing_left()


def test_a_template_needs_a_vcenter(tmp_path):
    with importing(tmp_path, esx=True) as bench:
        place = {"cluster": None, "datastore": None}
        result = bench.run(**place, state="template")
        assert result.failed
        assert [found["where"] for found in result.json["error"]["problems"]] == ["state"]
        assert "an ESXi host has no templates" in result.msg
        bench.assert_nothing_left()
        assert bench.run(**place).changed
        assert "an ESXi host has no templates" in bench.run(**place, state="template").msg


@pytest.mark.parametrize("given", [{}, {"cluster": None, "resource_pool": "/DC0/host/DC0_C0/Resources"}])
def test_a_cluster_without_drs_needs_a_host(bench, given):
    bench.server.govc("cluster.change", "-drs-enabled=false", "/DC0/host/DC0_C0")
    result = bench.run(**given, networks={"VM Network": "net9"})
    assert result.failed
    assert {found["where"] for found in result.json["error"]["problems"]} == {"host", "networks.VM Network"}
    assert "/DC0/host/DC0_C0 has no DRS" in result.msg
    assert "Name one of its hosts: DC0_C0_H0, DC0_C0_H1, DC0_C0_H2" in result.msg
    assert "CreateImportSpec" not in bench.server.counts
    for host, told in (("DC0_H0", "is not of /DC0/host/DC0_"), ("host9", "there is no host9 among the hosts")):
        [problem] = bench.run(**given, host=host).json["error"]["problems"]
        assert told in problem["problem"]
    bench.assert_nothing_left()
    assert bench.run(**given, host="DC0_C0_H1").changed
    assert "DC0_C0_H1" in bench.server.govc("vm.info", PATH)
    assert not bench.run(**given).changed


def test_what_a_newer_server_tells_in_words_unknown_here_stands_in_no_way(bench):
    bench.server.govc("cluster.change", "-drs-enabled=true", "-drs-mode=byWhim", "/DC0/host/DC0_C0")
    assert bench.run().changed
    bench.assert_imported()


def test_a_host_in_maintenance_takes_no_machine(bench):
    bench.server.govc("host.maintenance.enter", "/DC0/host/DC0_C0/DC0_C0_H1")
    result = bench.run(host="DC0_C0_H1")
    [problem] = result.json["error"]["problems"]
    assert (problem["where"], problem["problem"]) == ("host", "/DC0/host/DC0_C0/DC0_C0_H1 is in maintenance mode")
    assert bench.run(host="DC0_C0_H2").changed
    assert not bench.run(host="DC0_C0_H1").changed, "it is there already"


def test_hardware_that_no_host_knows_is_told_with_the_rest(tmp_path):
    with importing(tmp_path, Spec(eula="Pay", edit={".ovf": lambda text: text.replace("vmx-13", "vmx-99")})) as bench:
        for given, name in (({}, "DC0_C0"), ({"host": "DC0_C0_H1"}, "DC0_C0/DC0_C0_H1")):
            result = bench.run(**given)
            assert result.failed
            assert {found["where"] for found in result.json["error"]["problems"]} == {"accept_eulas", "descriptor"}
            assert f"of version vmx-99, and /DC0/host/{name} knows none newer than vmx-2" in result.msg
        assert "CreateImportSpec" not in bench.server.counts
        # of several the server takes one that it knows
        several = make_package(
            tmp_path / "several", Spec(edit={".ovf": lambda text: text.replace("vmx-13", "vmx-13 vmx-99")})
        )
        assert bench.run(source=str(several), check=True).changed
        # who may not ask leaves it to the server
        bench.server.fault("QueryConfigOptionDescriptor", "NoPermission")
        assert bench.run(accept_eulas=True, check=True).changed


def test_thick_disks_need_their_capacity(tmp_path):
    def of_mib(text: str) -> str:
        return text.replace('ovf:capacity="8388608"', 'ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^20"')

    with importing(tmp_path, Spec(iso=True, edit={".ovf": of_mib})) as bench:
        bench.server.set_free_space("LocalDS_0", 8 << 20)
        for provisioning in ("thick", "eagerZeroedThick"):
            result = bench.run(disk_provisioning=provisioning)
            assert result.failed
            assert [found["where"] for found in result.json["error"]["problems"]] == ["datastore"]
            told = "has 8388608 bytes free, and the disks take 10485760 at once with disk_provisioning=" + provisioning
            assert told in result.msg
        assert bench.run(disk_provisioning="thin", check=True).changed
        bench.server.set_free_space("LocalDS_0", 8 << 20, "vsan")
        assert bench.run(disk_provisioning="thick", check=True).changed, "its policies decide"
        bench.server.set_free_space("LocalDS_0", 10 << 20)
        assert bench.run(disk_provisioning="thick", check=True).changed


def test_what_is_free_is_looked_at_anew_before_it_is_too_little(bench):
    bench.server.set_free_space("LocalDS_0", 1000, refreshed=1 << 30)
    assert bench.run(check=True).changed
    assert bench.server.counts["RefreshDatastore"] == 1
    assert bench.run(check=True).changed
    assert bench.server.counts["RefreshDatastore"] == 1, "there is room"
    bench.server.set_free_space("LocalDS_0", 1000, refreshed=1001)
    assert "LocalDS_0 has 1001 bytes free" in bench.run().msg
    bench.server.set_free_space("LocalDS_0", 1000, refreshed=1 << 30)
    bench.server.fault("RefreshDatastore", "NoPermission")
    assert "LocalDS_0 has 1000 bytes free" in bench.run().msg
    bench.assert_nothing_left()


# --- properties without a value


UNSET = Spec(edit={".ovf": lambda text: text.replace(' ovf:value="web1"', "")})
WITHOUT_VALUE = "properties.net.hostname.1: 'Host name' has no value, and no default that will do"


def test_what_is_imported_to_run_needs_its_values_and_what_is_there_may_have_them_by_hand(tmp_path):
    with importing(tmp_path, UNSET) as bench:
        refused = bench.run(state="poweredon", networks={"VM Network": "net9"})
        told = {found["where"] for found in refused.json["error"]["problems"]}
        assert told == {"properties.net.hostname.1", "networks.VM Network"}
        assert "warnings" not in refused.json
        assert WITHOUT_VALUE in bench.run(state="poweredon").msg
        bench.assert_nothing_left()
        imported = bench.run()
        assert imported.changed, imported.msg
        assert WITHOUT_VALUE in str(imported.json["warnings"])
        for changed in (True, False):
            result = bench.run(state="poweredon")
            assert (result.failed, result.changed) == (False, changed), result.msg
            assert WITHOUT_VALUE in str(result.json["warnings"])
        another = bench.run(state="poweredon", annotation="another", replace=True, force=True)
        assert WITHOUT_VALUE in another.msg
        bench.assert_imported()


def test_an_esxi_host_powers_on_without_values(tmp_path):
    with importing(tmp_path, UNSET, esx=True) as bench:
        result = bench.run(cluster=None, datastore=None, state="poweredon")
        assert result.changed, result.msg
        assert result.json["vm"]["power_state"] == "poweredOn"
        assert WITHOUT_VALUE in str(result.json["warnings"])


# --- the new one beside the old one


@pytest.mark.parametrize(
    ("state", "kept"), [("poweredon", {"power_state": "poweredOff"}), ("template", {"template": False})]
)
def test_check_mode_predicts_the_new_machine_and_not_the_old(bench, state, kept):
    assert bench.run(state=state).changed
    other = {"annotation": "another", "replace": True, "force": True}
    predicted = bench.run(**other, check=True).json["diff"]["after"]["vm"]
    assert predicted.items() >= kept.items()
    assert bench.run(**other).json["diff"]["after"]["vm"] == predicted


def test_the_old_one_goes_while_the_new_one_is_prepared(bench):
    assert bench.run().changed
    process, rule = bench.held_at("CreateImportSpec", annotation="another", replace=True)
    bench.server.govc("vm.destroy", PATH)
    bench.server.release(rule)
    result = finish(process)
    assert result.changed, result.msg
    bench.assert_imported()


# --- what a package brings along


def test_a_mark_that_a_package_brings_along_is_none(tmp_path):
    mark = "".join(
        '      <vmw:ExtraConfig ovf:required="false" vmw:key="vmops.ovf.%s" vmw:value="%s"/>\n' % pair
        for pair in (("state", "complete"), ("digest", "0" * 64), ("owner", "somebody"), ("other", "thing"))
    )

    def marked(text: str) -> str:
        return text.replace("    </VirtualHardwareSection>", mark + "    </VirtualHardwareSection>")

    with importing(tmp_path, Spec(edit={".ovf": marked})) as bench:
        process, rule = bench.held_at("HttpNfcLeaseComplete")
        assert bench.stamp()["vmops.ovf.state"].startswith("importing:")
        bench.server.release(rule)
        result = finish(process)
        assert result.changed, result.msg
        bench.assert_imported()
        stamp = bench.stamp()
        assert stamp["vmops.ovf.digest"] == result.json["vm"]["digest"] != "0" * 64
        assert "vmops.ovf.other" not in stamp
        assert not bench.run().changed


# --- an address


@pytest.mark.parametrize("local", ["169.254.17.4", "fe80::1", "127.0.0.1"])
def test_an_address_that_nobody_can_reach_is_none_to_wait_for(bench, local):
    assert bench.run(state="poweredon").changed
    bench.server.govc("vm.change", "-vm", PATH, "-e", "SET.guest.ipAddress=" + local)
    bench.server.forget_calls()
    process = bench.start(state="poweredon", wait_for_ip=True)
    # a task that finds nothing to do makes 8 calls in all: this one looks for an address again and again
    until(lambda: bench.server.counts.get("RetrievePropertiesEx", 0) > 8, "it to wait")
    assert process.poll() is None
    bench.server.govc("vm.change", "-vm", PATH, "-e", "SET.guest.ipAddress=2001:db8::17")
    assert finish(process).json["vm"]["ip_addresses"] == ["2001:db8::17"]


# --- where files go


def test_each_host_is_sent_its_files_and_believed_by_its_own_thumbprint(tmp_path):
    with importing(tmp_path, Spec(disks=(DiskSpec(),) * 3, nvram=True)) as bench:
        bench.server.set(host_uploads=True, hosts=2)
        result = bench.run()
        assert result.changed, result.msg
        bench.assert_imported()
        came = [upload["port"] for upload in bench.server.uploads]
        assert sorted(came) == sorted(bench.server.host_ports * 2)
        types = {upload["method"]: upload["headers"]["Content-Type"] for upload in bench.server.uploads}
        assert types == {"POST": ["application/x-vnd.vmware-streamVmdk"], "PUT": ["application/octet-stream"]}


@pytest.mark.parametrize("thumbprint", ["right", "wrong", "empty"])
def test_each_host_is_believed_by_its_own_certificate(tmp_path, thumbprint):
    """Where servers tell the whole certificate, a thumbprint of it tells less."""
    with importing(tmp_path, Spec(disks=(DiskSpec(),) * 2)) as bench:
        bench.server.set(host_uploads=True, hosts=2, certificate="right", thumbprint=thumbprint)
        result = bench.run()
        assert result.changed, result.msg
        assert sorted(upload["port"] for upload in bench.server.uploads) == sorted(bench.server.host_ports)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"thumbprint": "wrong"}, "its certificate's thumbprint is"),
        ({"thumbprint": "empty"}, "its certificate is not trusted"),
        ({"certificate": "wrong"}, "its certificate's thumbprint is"),
    ],
    ids=str,
)
def test_a_host_that_is_not_the_one_meant_is_sent_nothing(bench, given, told):
    bench.server.set(host_uploads=True, **given)
    result = bench.run(retries=0)
    assert result.failed
    assert told in result.msg
    assert "127.0.0.1:%d" % bench.server.host_ports[0] in result.msg
    assert bench.server.uploads == []
    bench.assert_nothing_left()


def test_what_the_server_does_not_tell_of_is_warned_of(bench):
    bench.server.set(hash=False)
    result = bench.run()
    assert result.changed, result.msg
    assert "The server doesn't tell what it received of disk1.vmdk" in str(result.json["warnings"])
    bench.assert_imported()


@contextmanager
def _by_ipv6(port: int) -> Iterator[int]:
    """A port of ::1 behind which a port of 127.0.0.1 is."""

    class Through(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as there:
                back = threading.Thread(target=carry, args=(there, self.request))
                back.start()
                carry(self.request, there)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6

    with Server(("::1", 0), Through) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_server_by_its_ipv6_address(bench, host):
    bench.server.set(device_host="*")
    with _by_ipv6(bench.server.port) as port:
        named = {"hostname": host, "port": port, "thumbprint": bench.server.thumbprint}
        wrong = bench.run(**named, password="wrong")
        assert "[::1]:%d" % port in wrong.msg
        result = bench.run(**named)
        assert result.changed, result.msg
        bench.assert_imported()
