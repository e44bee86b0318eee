# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_info: packages of all kinds against what other programs say of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import yaml

from tests.testbed.images import MIB, info
from tests.testbed.looking import look, problems
from tests.testbed.module_main import ROOT, load
from tests.testbed.modules import run_module
from tests.testbed.ovf_packages import STREAM, DiskSpec, Spec, make_package

PACKED = DiskSpec(packed=True)
CHUNKS = DiskSpec(chunk_bytes=50_000)
BOTH = DiskSpec(packed=True, chunk_bytes=500)


KINDS = {
    "plain": Spec(),
    "folder": Spec(archive=False, eula="Be kind.", nvram=True),
    "several disks, iso, nvram": Spec(disks=(DiskSpec(), DiskSpec(24 * MIB)), iso=True, nvram=True),
    "packed and in chunks": Spec(disks=(PACKED, CHUNKS, BOTH)),
    "the same in a folder": Spec(archive=False, disks=(PACKED, CHUNKS, BOTH), manifest="sha1"),
    "gnu": Spec(tar_format="gnu", manifest="sha512", manifest_last=True),
    "pax, padded": Spec(tar_format="pax", padding_bytes=100_000),
    "sparse": Spec(iso=True, sparse=True),
    "sparse by pax": Spec(iso=True, sparse=True, tar_format="pax"),
    "no manifest": Spec(manifest=None),
}


@pytest.mark.parametrize("kind", KINDS, ids=list(KINDS))
def test_good_packages(tmp_path, kind):
    spec = KINDS[kind]
    path = make_package(tmp_path, spec)
    files = tmp_path / "files" if spec.archive else tmp_path
    found = look(path, checksum=True, verify="required" if spec.manifest else "if_present")
    assert found["problems"] == []
    assert (found["location"], found["kind"]) == (str(path), "ova" if spec.archive else "ovf")
    expected = {name.name: name.stat().st_size for name in files.iterdir() if name.is_file()}
    assert {member["name"]: member["size"] for member in found["members"]} == expected
    descriptor = (files / "web.ovf").read_bytes()
    assert found["descriptor"] == {
        "name": "web.ovf",
        "size": len(descriptor),
        "sha256": hashlib.sha256(descriptor).hexdigest(),
    }
    assert [disk["capacity"] for disk in found["disks"]] == [disk.size for disk in spec.disks]
    if spec.manifest:
        assert found["manifest"]["verdict"] == "matches"
        for name, digest in found["manifest"]["digests"].items():
            algorithm, value = digest.split(":")
            assert (algorithm, hashlib.new(algorithm, (files / name).read_bytes()).hexdigest()) == (
                spec.manifest,
                value,
            )
    else:
        assert found["manifest"] is None


def test_what_is_told_of_a_package(tmp_path):
    path = make_package(tmp_path, Spec(eula="Be kind.", iso=True, networks=("Front", "Back")))
    found = look(path)
    assert found["products"][0]["full_version"] == "1.2.3"
    assert found["eulas"] == [{"section": "web", "text": "Be kind."}]
    assert [network["name"] for network in found["networks"]] == ["Front", "Back"]
    (disk,) = found["disks"]
    assert (disk["file"], disk["format"]) == ("disk1.vmdk", STREAM)
    assert disk["capacity"] == info(tmp_path / "files" / "disk1.vmdk", "vmdk")["virtual-size"]
    assert {each["key"]: each["default"] for each in found["properties"]} == {
        "net.hostname.1": "web1",
        "net.password.1": "********",
        "net.build.1": "7",
    }
    assert [option["id"] for option in found["deployment_options"] if option["default"]] == ["small"]
    (machine,) = found["machines"]
    assert (machine["cpus"], machine["memory_mib"], machine["hardware_versions"]) == (2, 512, ["vmx-13"])
    assert machine["networks"] == ["Front", "Back"]
    assert [file["href"] for file in found["files"]] == ["disk1.vmdk", "config.iso"]
    assert found["manifest"]["verdict"] == "unchecked"
    assert "swordfish" not in json.dumps(found)


def test_looking_leaves_everything_as_it_was(tmp_path):
    path = make_package(tmp_path, Spec(archive=False))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()}
    look(path, checksum=True)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()} == before


def test_a_relative_path_and_any_name(tmp_path):
    path = make_package(tmp_path, Spec())
    path.rename(tmp_path / "package.bin")
    assert run_module("ovf_info", {"source": "package.bin"}, cwd=tmp_path).json["ovf"]["kind"] == "ova"


@pytest.mark.parametrize("archive", [False, True])
def test_a_signed_package(tmp_path, archive):
    path = make_package(tmp_path, Spec(archive=archive, signed=True))
    trusting = {"SSL_CERT_FILE": str(tmp_path / "signer.pem")}
    result = run_module("ovf_info", {"source": str(path), "verify": "signed", "checksum": True}, env=trusting)
    assert result.json["ovf"]["problems"] == []
    assert result.json["ovf"]["manifest"]["verdict"] == "matches"
    found = result.json["ovf"]["certificate"]
    assert (found["name"], found["verdict"], found["trusted"]) == ("web.cert", "matches", True)
    assert found["signed_by"] == "CN=Packages,O=Example"
    assert "isn't trusted by this host" in problems(look(path, verify="signed"))["web.cert"]
    assert look(path)["problems"] == []


@pytest.mark.every_core
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"source": " "}, "source: it is empty"),
        ({"source": "a\ab"}, "source: 'a\\x07b' has control characters"),
        ({"source": "http://a:secret@["}, "source: the URL doesn't name a server"),
        ({"stall_timeout": 0}, "stall_timeout: 0 seconds are no time"),
        ({"timeout": 0}, "timeout: 0 seconds are no time"),
        ({"url_password": "x"}, "url_password: it is of no user"),
        ({"url_ca_path": "/nowhere"}, "url_ca_path: /nowhere can't be used: No such file or directory"),
        ({"url_ca_path": "/dev/null"}, "url_ca_path: /dev/null can't be used: "),
    ],
)
def test_options_that_are_wrong(arguments, told):
    result = run_module("ovf_info", {"source": "x.ova", **arguments})
    assert result.failed
    assert result.msg.startswith(told)


@pytest.mark.every_core
def test_documented(tmp_path):
    module = load("ovf_info")
    documented = yaml.safe_load(module.RETURN)
    path = make_package(tmp_path, Spec(archive=False, eula="Be kind.", signed=True, left_out=("disk1.vmdk",)))
    result = run_module("ovf_info", {"source": str(path)}).json
    assert set(result) - {"changed", "invocation"} == set(documented) - {"error"}
    compare(result["ovf"], documented["ovf"]["contains"])
    failed = run_module("ovf_info", {"source": str(tmp_path)}).json
    assert set(failed) - {"changed", "invocation", "failed", "msg"} == {"error", "elapsed_s"}
    options = yaml.safe_load((ROOT / "plugins/doc_fragments/ovf_source.py").read_text().split('"""')[3])["options"]
    assert set(options) == set(result["invocation"]["module_args"]) - {"checksum", "timeout"}


def compare(found: dict[str, Any], documented: dict[str, Any]) -> None:
    """Each field is documented, and the documentation has no other."""
    assert set(found) == set(documented)
    for name, field in documented.items():
        if "contains" not in field:
            continue
        assert found[name]
        for one in found[name] if field["type"] == "list" else [found[name]]:
            compare(one, field["contains"])
