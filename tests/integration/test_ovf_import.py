# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import against the stand-in for a vCenter server: create, no change, change, remove, each looked at by govc."""

from __future__ import annotations

import pytest

from tests.testbed.importing import NAME, PATH, finish, importing
from tests.testbed.ovf_packages import DiskSpec, Spec
from tests.testbed.vcenter import NEWEST, OLD


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


def test_check_mode_tells_all_and_changes_nothing(bench):
    result = bench.run(check=True)
    assert result.changed, result.msg
    assert result.json["vm"] is None
    told = result.json["would_import"]
    assert [item["name"] for item in told["files"]] == ["disk1.vmdk"]
    assert told["networks"] == {"VM Network": "VM Network"}
    assert result.json["diff"]["after"]["vm"]["exists"]
    assert "ImportVApp" not in bench.server.counts
    bench.assert_nothing_left()


def test_imported_and_then_there(bench):
    first = bench.run()
    assert first.changed, first.msg
    assert first.json["lease"]["outcome"] == "completed"
    assert first.json["vm"]["path"] == PATH
    assert first.json["diff"]["before"]["vm"] == {"exists": False, "name": NAME}
    bench.assert_imported()
    [upload] = bench.server.uploads
    [file] = first.json["files"]
    assert file["sha256"] == upload["sha256"]
    uploads = len(bench.server.uploads)
    bench.server.forget_calls()
    second = bench.run()
    assert not second.changed, second.msg
    assert second.json["vm"] == first.json["vm"]
    assert sum(bench.server.counts.values()) <= 8
    assert len(bench.server.uploads) == uploads
    assert not bench.run(check=True).changed
    assert bench.server.sessions == []


def test_powered_on_and_removed(bench):
    assert bench.run(state="poweredon").changed
    assert "poweredOn" in bench.server.govc("vm.info", PATH)
    assert not bench.run(state="poweredon").changed
    assert not bench.run().changed
    assert bench.run(state="absent", check=True).changed
    assert bench.machines() == [PATH]
    removed = bench.run(state="absent", source=None)
    assert removed.changed, removed.msg
    bench.assert_nothing_left()
    assert not bench.run(state="absent").changed


def test_an_address_is_waited_for_whoever_powered_it_on(bench):
    assert bench.run(state="poweredon").changed
    wanted = {"state": "poweredon", "wait_for_ip": True}
    assert not bench.run(check=True, **wanted).changed, "and it did not wait"
    late = bench.run(**wanted, timeout=12)
    assert late.json["error"]["kind"] == "timed_out"
    assert "address" in late.msg
    process = bench.start(**wanted)
    bench.server.govc("vm.change", "-vm", PATH, "-e", "SET.guest.ipAddress=192.0.2.17")
    found = finish(process)
    assert not found.changed, found.msg
    assert found.json["vm"]["ip_addresses"] == ["192.0.2.17"]
    assert bench.server.sessions == []


def test_a_template(bench):
    assert bench.run(state="template").json["vm"]["template"]
    assert not bench.run(state="template").changed
    assert bench.run(state="poweredon").failed
    assert bench.run(state="absent").changed
    bench.assert_nothing_left()


def test_another_package_is_refused_or_replaces_the_old(bench):
    assert bench.run().changed
    before = bench.run().json["vm"]
    other = {"annotation": "another"}
    refused = bench.run(**other)
    assert refused.failed
    assert "set replace=true" in refused.msg
    assert bench.machines() == [PATH]
    assert bench.run(state="poweredon").changed
    refused = bench.run(**other, replace=True)
    assert "powered on" in refused.msg
    assert bench.run(**other, replace=True, check=True, force=True).changed
    replaced = bench.run(**other, replace=True, force=True)
    assert replaced.changed, replaced.msg
    assert replaced.json["vm"]["moref"] != before["moref"]
    bench.assert_imported()
    assert not bench.run(**other).changed


def test_the_new_one_is_whole_before_the_old_one_goes(bench):
    assert bench.run().changed
    before = bench.run().json["vm"]["moref"]
    bench.server.upload_rule("status", status=403, times=0)
    failed = bench.run(annotation="another", replace=True)
    assert failed.failed
    bench.assert_imported()
    bench.server.release_uploads()
    assert bench.run().json["vm"]["moref"] == before


def test_a_machine_of_others_is_left_alone(bench):
    bench.server.govc("vm.create", "-on=false", "-net", "VM Network", NAME)
    assert "bears no mark of having been imported" in bench.run().msg
    assert "force=true" in bench.run(state="absent").msg
    assert bench.machines() == [PATH]
    assert bench.run(state="absent", force=True).changed
    bench.assert_nothing_left()


def test_hidden_properties_reach_the_machine(bench):
    result = bench.run(properties={"net.build.1": "4711"})
    assert result.changed, result.msg
    machine = bench.server.govc_json("vm.info", PATH)["virtualMachines"][0]
    properties = {item["id"]: item.get("value") for item in machine["config"]["vAppConfig"]["property"]}
    assert properties["build"] == "4711"


def test_secret_properties_reach_the_machine_alone(bench):
    secret = {"net.hostname.1": "geheim-123"}
    result = bench.run(secret_properties=secret)
    assert result.changed, result.msg
    machine = bench.server.govc_json("vm.info", PATH)["virtualMachines"][0]
    values = {item["id"]: item.get("value") for item in machine["config"]["vAppConfig"]["property"]}
    assert values["hostname"] == "geheim-123"
    assert "geheim-123" not in str(result.json)
    assert not bench.run(secret_properties={"net.hostname.1": "another"}).changed, "nothing to compare it with is kept"
    refused = bench.run(properties=secret, secret_properties=secret)
    assert "net.hostname.1 is in properties as well" in refused.msg
    assert "geheim-123" not in str(refused.json)


def test_all_problems_are_told_at_once(bench):
    wrong = {"properties": {"nope": 1}, "networks": {"Nowhere": "VM Network"}, "deployment_option": "huge"}
    result = bench.run(**wrong)
    assert result.failed
    assert result.json["error"]["kind"] == "bad_input"
    for part in ("nope", "Nowhere", "huge"):
        assert part in result.msg
    assert "CreateImportSpec" not in bench.server.counts
    assert bench.run().changed
    assert "nope" in bench.run(**wrong).msg, "also where the machine is there already"


@pytest.mark.parametrize("archive", [True, False], ids=["ova", "ovf"])
@pytest.mark.parametrize(
    "spec",
    [
        Spec(disks=(DiskSpec(), DiskSpec(), DiskSpec()), iso=True, nvram=True),
        Spec(disks=(DiskSpec(packed=True),), manifest="sha512"),
        Spec(disks=(DiskSpec(chunk_bytes=65536),), manifest="sha1"),
        Spec(disks=(DiskSpec(packed=True, chunk_bytes=20000),)),
        Spec(manifest=None),
    ],
    ids=["disks, ISO and NVRAM", "gzip", "chunks", "gzip in chunks", "no manifest"],
)
def test_packages_of_all_kinds(tmp_path, spec, archive):
    with importing(tmp_path, spec._replace(archive=archive)) as bench:
        result = bench.run()
        assert result.changed, result.msg
        bench.assert_imported()
        assert len(bench.server.uploads) == len(result.json["files"])
        for file in result.json["files"]:
            assert file["sha256"] in [upload["sha256"] for upload in bench.server.uploads]
        assert not bench.run().changed


@pytest.mark.parametrize("version", [OLD, NEWEST])
def test_the_simulators_as_they_come(tmp_path, version):
    with importing(tmp_path, version=version) as bench:
        if version is NEWEST:
            bench.server.set(strict=False)
        assert bench.run(check=True).changed
        first = bench.run(state="poweredon")
        assert first.changed, first.msg
        assert bench.machines() == [PATH]
        assert not bench.run(state="poweredon").changed
        assert bench.run(state="absent").changed
        assert bench.machines() == []
        assert not bench.run(state="absent").changed
