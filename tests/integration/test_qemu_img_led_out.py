# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whoever makes an image chooses the names in it. None of them makes this host connect anywhere, or wait."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import leftovers
from tests.testbed.images import qemu_img, same_content
from tests.testbed.modules import Result, run_module

MIB = 1 << 20


class Listener:
    """Counts who connects."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _address = self._socket.accept()
            with connection:
                if connection.recv(3) == b"end":
                    return
            self.visits += 1

    def end(self) -> int:
        """Whoever was there before is counted by then."""
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.send(b"end")
        self._thread.join()
        self._socket.close()
        return self.visits


@pytest.fixture(name="listener")
def _listener() -> Iterator[Listener]:
    """Nobody may have come in the end."""
    listener = Listener()
    yield listener
    assert listener.end() == 0


def protocol(listener: Listener, folder: Path) -> str:
    return "nbd:127.0.0.1:%d" % listener.port


def pseudo_protocol(listener: Listener, folder: Path) -> str:
    server = '{"type": "inet", "host": "127.0.0.1", "port": "%d"}' % listener.port
    return 'json:{"driver": "raw", "file": {"driver": "nbd", "server": %s}}' % server


def fifo(listener: Listener, folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    return "fifo"


NAMES = pytest.mark.parametrize("name", [protocol, pseudo_protocol, fifo], ids=["nbd", "json", "fifo"])


def over(path: Path, backing: str) -> Path:
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", path, "1M")
    return path


@pytest.fixture(name="chain", params=["itself", "what is below it"])
def _chain(request: pytest.FixtureRequest, tmp_path: Path, listener: Listener, name: Any) -> Path:
    """An image that leads out, by its own header or by that of its backing file."""
    path = over(tmp_path / "disk.qcow2", name(listener, tmp_path))
    if request.param == "itself":
        return path
    path.rename(tmp_path / "below.qcow2")
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "below.qcow2", "-F", "qcow2", path, "1M")
    return path


def run(path: Path, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), "timeout": 60, **options})


CHANGES: dict[str, dict[str, Any]] = {
    "resize": {"size": "2M"},
    "snapshot": {"snapshots": [{"name": "one"}]},
    "bitmap": {"bitmaps": [{"name": "one"}]},
    "amend": {"options": {"lazy_refcounts": True}},
    "stand alone": {"backing_file": ""},
}


@NAMES
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_an_image_that_leads_out_is_refused(chain: Path, change: str) -> None:
    before = chain.read_bytes()
    result = run(chain, **CHANGES[change])
    assert result.failed
    assert result.json["error"]["kind"] == "refused", result.msg
    assert "below it is " in result.msg
    assert chain.read_bytes() == before
    assert leftovers(chain.parent) == []


@NAMES
def test_a_commit_of_an_image_that_leads_out_is_refused(chain: Path) -> None:
    with chain.open("r+b") as file:  # an entry of the second table, so that it holds data
        file.seek(40)
        first_table = int.from_bytes(file.read(8), "big")
        file.truncate(8 * 65536)
        file.seek(first_table)
        file.write((5 * 65536 | 1 << 63).to_bytes(8, "big"))
        file.seek(5 * 65536)
        file.write((6 * 65536 | 1 << 63).to_bytes(8, "big"))
    result = run(chain, commit=True, verify="none")
    assert result.failed
    assert result.json["error"]["kind"] == "refused", result.msg


@NAMES
def test_it_is_not_compared_with_a_source_and_may_be_replaced_by_it(tmp_path: Path, chain: Path) -> None:
    source = tmp_path / "seed"
    source.write_bytes(bytes(MIB))
    result = run(chain, source=str(source))
    assert result.json["error"]["kind"] == "refused", result.msg
    assert run(chain, source=str(source), force=True).changed


@NAMES
def test_it_is_checked_and_left_alone_and_removed_without_looking_below(chain: Path) -> None:
    assert not run(chain, repair="leaks").changed
    assert not run(chain, size="1M").changed
    assert run(chain, state="absent").changed


@NAMES
def test_it_can_be_no_backing_file(tmp_path: Path, chain: Path) -> None:
    result = run(tmp_path / "new.qcow2", backing_file=str(chain))
    assert result.json["error"]["kind"] == "bad_input", result.msg
    assert "backing_file: " in result.msg


@NAMES
def test_looking_at_it_does_not_follow_the_name(chain: Path) -> None:
    for wanted in ({"check": True}, {"map": True}, {"measure": "raw"}):
        result = run_module("qemu_img_info", {"path": [str(chain)], "timeout": 60, **wanted})
        assert not result.failed, result.json
        (image,) = result.json["images"]
        assert image["virtual_size"] == MIB
        assert ("error" in image) == (wanted != {"check": True})
        assert "error" in image["backing_chain"][-1]


# files that hold an image's own data


def secret(listener: Listener, folder: Path) -> str:
    path = folder / "elsewhere" / "secret"
    path.parent.mkdir()
    path.write_bytes(b"TOP SECRET".ljust(MIB, b"\n"))
    return str(path)


def vmdk(path: Path, extent: str) -> Path:
    lines = ["# Disk DescriptorFile", "version=1", "CID=1", "parentCID=ffffffff", 'createType="monolithicFlat"']
    path.write_text("\n".join([*lines, 'RW 2048 FLAT "%s" 0' % extent.replace('"', "'"), ""]))
    return path


EXTENTS = pytest.mark.parametrize(
    "name", [protocol, pseudo_protocol, fifo, secret], ids=["nbd", "json", "fifo", "secret"]
)


@EXTENTS
def test_a_vmdk_with_strange_parts_is_not_opened(tmp_path: Path, listener: Listener, name: Any) -> None:
    path = vmdk(tmp_path / "disk.vmdk", name(listener, tmp_path))
    result = run(path, format="vmdk", size="2M")
    assert result.json["error"]["kind"] == "refused", result.msg
    assert "as a part of it" in result.msg
    (image,) = run_module("qemu_img_info", {"path": [str(path)], "timeout": 60}).json["images"]
    assert "as a part of it" in image["error"]
    assert len(image["references"]) == 1
    overlay = run(tmp_path / "new.qcow2", backing_file=str(path))
    assert overlay.failed
    assert "as a part of it" in overlay.msg


@pytest.mark.parametrize("image_format", ["vmdk", "qcow2"])
@EXTENTS
def test_a_vmdk_with_strange_parts_may_be_made_anew(
    tmp_path: Path, listener: Listener, name: Any, image_format: str
) -> None:
    path = vmdk(tmp_path / "disk", name(listener, tmp_path))
    source = tmp_path / "seed"
    source.write_bytes(b"\1" * MIB)
    options = {"format": image_format, "source": str(source)}
    refused = run(path, **options)
    assert refused.json["error"]["kind"] == "refused"
    assert "Make it anew with source and force: true, or remove it with state: absent" in refused.msg
    anew = {"path": str(path), **options, "size": "2M", "force": True, "timeout": 60}
    would = run_module("qemu_img", anew, check=True, diff=True)
    assert would.changed
    assert would.json["diff"]["before"] == {"path": str(path), "state": "present", "format": "vmdk"}
    assert would.json["diff"]["after"]["virtual_size"] == 2 * MIB
    assert would.json["image"] == {"path": str(path), "exists": True, "format": "vmdk"}
    result = run(path, **options, force=True, repair="all")
    assert not result.failed, result.msg
    assert result.changed
    assert same_content(source, "raw", path, image_format)
    assert not run(path, **options).changed
    assert leftovers(tmp_path) == []


@EXTENTS
def test_a_vmdk_with_strange_parts_may_be_removed(tmp_path: Path, listener: Listener, name: Any) -> None:
    part = name(listener, tmp_path)
    path = vmdk(tmp_path / "disk.vmdk", part)
    others = sorted(set(os.listdir(tmp_path)) - {"disk.vmdk"})
    assert run(path, state="absent").changed
    assert sorted(os.listdir(tmp_path)) == others
    assert part[0] != "/" or Path(part).exists()


@EXTENTS
def test_below_an_image_it_is_not_opened_either(tmp_path: Path, listener: Listener, name: Any) -> None:
    vmdk(tmp_path / "below.vmdk", name(listener, tmp_path))
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "below.vmdk", "-F", "vmdk", path, "1M")
    result = run(path, size="2M")
    assert result.json["error"]["kind"] == "refused", result.msg
    (image,) = run_module("qemu_img_info", {"path": [str(path)], "timeout": 60}).json["images"]
    assert "as a part of it" in image["backing_chain"][0]["error"]


def test_a_vmdk_with_its_parts_in_a_folder_beside_it_is_looked_at(tmp_path: Path) -> None:
    path = vmdk(tmp_path / "disk.vmdk", "parts/flat.vmdk")
    part = tmp_path / "parts" / "flat.vmdk"
    part.parent.mkdir()
    part.write_bytes(bytes(MIB))
    (image,) = run_module("qemu_img_info", {"path": [str(path)]}).json["images"]
    assert image["virtual_size"] == MIB, image
    assert image["references"] == ["parts/flat.vmdk"]


def test_a_vmdk_whose_parts_lie_above_it_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret").write_bytes(bytes(MIB))
    path = vmdk(tmp_path / "images" / "disk.vmdk", "parts/../../secret")
    (image,) = run_module("qemu_img_info", {"path": [str(path)]}).json["images"]
    assert "as a part of it" in image["error"]


def test_a_vmdk_with_its_parts_beside_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M")
    (image,) = run_module("qemu_img_info", {"path": [str(path)]}).json["images"]
    assert image["virtual_size"] == MIB
    assert image["references"] == ["disk-flat.vmdk"]
