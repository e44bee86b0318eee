# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which digests are taken of what is sent: those of the manifest, and those that the server has as well."""

from __future__ import annotations

import re

import pytest

from tests.testbed.importing import importing
from tests.testbed.ovf_packages import DiskSpec, Spec

ALGORITHMS = ("sha1", "sha256", "sha512")


def taken(result):
    [file] = result.json["files"]
    return {algorithm for algorithm in ALGORITHMS if algorithm in file}


@pytest.mark.parametrize(
    ("manifest", "chosen", "unasked"),
    [
        ("sha1", {"sha1", "sha256"}, {"sha1", "sha256"}),
        ("sha256", {"sha256"}, {"sha1", "sha256"}),
        ("sha512", {"sha256", "sha512"}, {"sha1", "sha256", "sha512"}),
        (None, {"sha256"}, {"sha1", "sha256"}),
    ],
)
def test_sha_256_and_no_more_digests_than_needed(tmp_path, manifest, chosen, unasked):
    with importing(tmp_path, Spec(manifest=manifest)) as bench:
        result = bench.run()
        assert result.changed, result.msg
        assert taken(result) == chosen
        [upload] = bench.server.uploads
        assert result.json["files"][0]["sha256"] == upload["sha256"]
        # a server that can't be asked for others than its own
        bench.server.fault("HttpNfcLeaseSetManifestChecksumType", "MethodNotFound")
        result = bench.run(name="web1-again")
        assert result.changed, result.msg
        assert taken(result) == unasked
        assert "warnings" not in result.json


@pytest.mark.parametrize("asked", [True, False], ids=["SHA-256", "SHA-1"])
def test_what_the_server_received_must_be_what_was_sent(tmp_path, asked):
    with importing(tmp_path) as bench:
        bench.server.set(manifest_lies=True)
        if not asked:
            bench.server.fault("HttpNfcLeaseSetManifestChecksumType", "MethodNotFound")
        result = bench.run()
        assert result.json["error"]["kind"] == "check_failed"
        assert "as the server received it" in result.msg
        bench.assert_nothing_left()


@pytest.mark.parametrize("lies", [False, True])
@pytest.mark.parametrize("tells", ["sha1", "sha256"])
@pytest.mark.parametrize("manifest", ["sha1", "sha512"])
def test_of_what_the_server_tells_that_is_compared_which_is_known(tmp_path, manifest, tells, lies):
    with importing(tmp_path, Spec(manifest=manifest)) as bench:
        bench.server.set(manifest_tells=tells, manifest_lies=lies)
        result = bench.run()
        comparable = tells == "sha256" or manifest == "sha1"
        assert result.failed is (lies and comparable), result.msg
        warned = "disk1.vmdk was not compared with what the server received, which tells only its sha1."
        assert (warned in str(result.json.get("warnings"))) is not comparable


def test_what_can_be_no_digest_is_none(tmp_path):
    with importing(tmp_path) as bench:
        bench.server.set(manifest_tells="odd")
        result = bench.run()
        assert result.changed, result.msg
        assert "The server doesn't tell what it received of disk1.vmdk" in str(result.json["warnings"])


def test_nothing_is_compared_where_nothing_is_to_be(tmp_path):
    with importing(tmp_path) as bench:
        bench.server.set(manifest_lies=True)
        result = bench.run(verify="ignore")
        assert result.changed, result.msg
        assert taken(result) == set()
        assert "HttpNfcLeaseGetManifest" not in bench.server.counts
        bench.assert_imported()


def wrong_digest(manifest):
    return re.sub(r"\(disk1\.vmdk\)= \w+", "(disk1.vmdk)= " + 64 * "0", manifest)


@pytest.mark.parametrize("archive", [True, False], ids=["ova", "ovf"])
@pytest.mark.parametrize("spoil", [str, wrong_digest], ids=["right", "wrong"])
@pytest.mark.parametrize("href", ["disk%31.vmdk", "./disk1.vmdk"], ids=["encoded", "dotted"])
def test_a_name_that_the_descriptor_has_in_another_way_is_compared(tmp_path, archive, spoil, href):
    edit = {".ovf": lambda text: text.replace("disk1.vmdk", href), ".mf": spoil}
    with importing(tmp_path, Spec(archive=archive, edit=edit)) as bench:
        result = bench.run(verify="required")
        if spoil is str:
            assert result.changed, result.msg
            bench.assert_imported()
        else:
            assert result.json["error"]["kind"] == "check_failed"
            bench.assert_nothing_left()


def test_a_chunk_that_became_empty_is_compared(tmp_path):
    untold = {".ovf": lambda text: re.sub(r' ovf:size="\d+"', "", text)}
    with importing(tmp_path, Spec(archive=False, disks=(DiskSpec(chunk_bytes=65536),), edit=untold)) as bench:
        last = max(bench.package.parent.glob("disk1.vmdk.*"))
        last.write_bytes(b"")
        result = bench.run(verify="required")
        assert result.failed
        assert last.name in result.msg
        bench.assert_nothing_left()


def test_a_server_that_tells_nothing_gets_a_warning(tmp_path):
    with importing(tmp_path) as bench:
        bench.server.fault("HttpNfcLeaseGetManifest", "MethodNotFound")
        result = bench.run()
        assert result.changed, result.msg
        [warning] = result.json["warnings"]
        assert "disk1.vmdk" in str(warning)
