# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources over time: touched, given a checksum afterwards, cut short, and named by a URL that holds secrets."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB, holds, make, qemu_io
from tests.testbed.modules import Result, imported_by, run_module
from tests.testbed.web_server import Temper, WebServer, certificate

NOBODY_LISTENS = "http://127.0.0.1:9"


def run(path: Path, check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, check=check)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(tmp_path / "seed.raw", "raw", 4 * MIB, "write -P 7 0 64k", "write -P 8 3M 64k")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk.qcow2"


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def touch(path: Path) -> None:
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))


# Cut short


def test_an_image_with_the_beginning_of_a_touched_source_is_adopted(disk: Path, source: Path) -> None:
    declared = {"source": str(source), "size": "2M", "allow_shrink": True}
    assert run(disk, **declared).changed
    touch(source)
    for check in (True, False):
        again = run(disk, check=check, **declared)
        assert not again.failed, again.json
    assert run(disk, **declared).json["commands"] == []
    holds(disk, "7 0 64k", "0 64k 1984k")


def test_a_beginning_that_differs_is_refused(disk: Path, source: Path) -> None:
    declared = {"source": str(source), "size": "2M", "allow_shrink": True}
    assert run(disk, **declared).changed
    qemu_io(disk, "write -P 9 1M 64k")
    touch(source)
    again = run(disk, **declared)
    assert again.failed, again.json
    assert "has another content" in again.msg


@pytest.mark.parametrize("declared", [{}, {"size": "2M"}, {"size": "3M", "allow_shrink": True}], ids=str)
def test_an_image_that_is_shorter_than_it_may_be_is_no_copy(disk: Path, source: Path, declared: dict[str, Any]) -> None:
    assert run(disk, source=str(source), size="2M", allow_shrink=True).changed
    touch(source)
    again = run(disk, source=str(source), **declared)
    assert again.failed, again.json
    assert "has another content" in again.msg


# A checksum that comes later


def test_a_checksum_that_comes_later_is_compared_once(disk: Path, source: Path) -> None:
    assert run(disk, source=str(source)).changed
    qemu_io(disk, "write -P 9 0 64k")
    for check in (True, False):
        told = run(disk, check=check, source=str(source), checksum=digest(source))
        assert not told.failed, told.json
        assert not told.changed
    known = run(disk, source=str(source), checksum=digest(source))
    assert (known.changed, known.json["commands"]) == (False, [])
    holds(disk, "9 0 64k")
    wrong = run(disk, source=str(source), checksum="sha256:" + "0" * 64)
    assert wrong.failed, wrong.json


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_checksum_that_comes_later_is_told(disk: Path, source: Path, check: bool) -> None:
    assert run(disk, source=str(source)).changed
    before = disk.read_bytes()
    wrong = run(disk, check=check, source=str(source), checksum="sha256:" + "0" * 64)
    assert wrong.failed, wrong.json
    assert "%s has sha256:" % source in wrong.msg
    assert disk.read_bytes() == before


def test_a_source_that_is_gone_has_no_checksum_to_compare(disk: Path, source: Path) -> None:
    assert run(disk, source=str(source)).changed
    source.unlink()
    gone = run(disk, source=str(source), checksum="sha256:" + "0" * 64)
    assert not gone.failed, gone.json
    assert not gone.changed


# URLs


@pytest.mark.parametrize(
    "query", ["token=SECRET", "v=1&X-Signature=SECRET%2Fa&short=ab", "SECRET", "a=b;sig=SECRET#SECRET"]
)
def test_no_result_shows_what_a_url_holds(disk: Path, query: str) -> None:
    url = NOBODY_LISTENS.replace("//", "//alice:WORD@") + "/alice/image.qcow2?" + query
    result = run(disk, source=url, checksum="sha256:" + "0" * 64, timeout=5)
    assert result.failed, result.json
    text = json.dumps(result.json)
    assert "invocation" in text
    for secret in ("SECRET", "WORD", "alice:", "short=", "X-Signature"):
        assert secret not in text
    assert "/alice/image.qcow2" in result.msg  # which is no secret, though it holds the same word


def test_a_download_of_another_format_is_told_by_its_url(disk: Path, source: Path) -> None:
    with WebServer(source.read_bytes(), Temper.GOOD).running() as server:
        result = run(disk, source=server.url, checksum=digest(source), source_format="vmdk")
    assert result.failed, result.json
    assert "%s isn't vmdk; it looks like raw" % server.url in result.msg
    assert "vmops-download" not in result.msg


def test_a_download_is_taken_as_the_server_has_it(tmp_path: Path, disk: Path, source: Path) -> None:
    """What is packed is named, not unpacked on the way and blamed on its checksum."""
    packed = tmp_path / "seed.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    with WebServer(packed.read_bytes(), Temper.PACKED).running() as server:
        result = run(disk, source=server.url, checksum=digest(packed))
    assert result.failed, result.json
    assert "compressed with gzip" in result.msg


def fetched(server: WebServer, disk: Path, source: Path, trusted: Path, host: str = "127.0.0.1") -> Result:
    """The server is the only one that a host trusts which has no certificates but these."""
    declared = {"path": str(disk), "source": server.url.replace("127.0.0.1", host), "checksum": digest(source)}
    return run_module("qemu_img", declared, env={"SSL_CERT_FILE": str(trusted)})


def test_a_source_comes_by_https_from_a_server_that_is_trusted(tmp_path: Path, disk: Path, source: Path) -> None:
    own = certificate(tmp_path / "own.pem")
    with WebServer(source.read_bytes(), Temper.CUTS_ONCE, own).running() as server:
        result = fetched(server, disk, source, own)
        assert not result.failed, result.json
        assert result.changed
        holds(disk, "7 0 64k", "8 3M 64k")
        assert server.requests == [None, "bytes=%d-" % (2 * MIB)]
        again = fetched(server, disk, source, own)
        assert (again.changed, again.json["commands"]) == (False, [])
        assert len(server.requests) == 2


@pytest.mark.parametrize("untrusted", ["another's certificate", "another's name"])
def test_a_server_that_is_not_trusted_is_asked_for_nothing(
    tmp_path: Path, disk: Path, source: Path, untrusted: str
) -> None:
    own, other = (certificate(tmp_path / name) for name in ("own.pem", "other.pem"))
    before = sorted(os.listdir(tmp_path))
    with WebServer(source.read_bytes(), Temper.GOOD, own).running() as server:
        if untrusted == "another's certificate":
            result = fetched(server, disk, source, other)
        else:
            result = fetched(server, disk, source, own, host="localhost")
        assert server.requests == []
    assert result.failed, result.json
    assert "The server of https://" in result.msg
    assert "/image.raw can't be trusted: " in result.msg
    assert "SSL_CERT_FILE" in result.msg
    assert len(result.json["attempts"]) <= 1  # no other attempt finds another certificate
    assert sorted(os.listdir(tmp_path)) == before


# What can't be read


def test_what_cannot_be_read_is_told_with_what_to_do(tmp_path: Path, disk: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + bytes(3) + b"\3" + bytes(200))
    result = run(disk, source=str(broken))
    assert result.failed
    assert "Get the source anew, or correct source_format." in result.msg
    result = run(disk, backing_file=str(broken))
    assert result.failed
    assert "Restore the backing file, or name another one." in result.msg


# What has nothing to work on


def test_options_of_a_measurement_need_one(disk: Path) -> None:
    make(disk, "qcow2", MIB)
    result = run_module("qemu_img_info", {"path": [str(disk)], "measure_options": {"cluster_size": "128K"}})
    assert result.failed, result.json
    assert "they are for measure" in result.msg


def test_a_switch_of_vmdk_may_be_spelt_as_in_yaml(tmp_path: Path) -> None:
    declared = {"format": "vmdk", "size": "1M", "options": {"compat6": True}}
    assert run(tmp_path / "disk.vmdk", **declared).changed
    again = run(tmp_path / "disk.vmdk", **{**declared, "options": {"compat6": "on"}})
    assert not again.failed, again.json
    assert not again.changed


def test_a_local_source_needs_no_code_for_urls(disk: Path, source: Path) -> None:
    """Ansible's takes longer to load than a small image to make."""
    result, imported = imported_by("qemu_img", {"path": str(disk), "source": str(source)})
    assert result["changed"] is True
    assert "ansible.module_utils.urls" not in imported
