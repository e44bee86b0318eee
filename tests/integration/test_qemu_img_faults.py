# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_img killed, stopped, starved and in its own way: what becomes of the image, the children and the leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import (
    WAIT_S,
    Held,
    child_that,
    digest,
    free_bytes,
    leftovers,
    open_files,
    small_disk,
    until,
)
from tests.testbed.images import info, qemu_img, same_content
from tests.testbed.modules import Result, finish, run_module, start_module
from tests.testbed.tool_gate import Gate, gate
from tests.testbed.web_server import Temper, WebServer

MIB = 1 << 20
SOURCE_MIB = 256
NEW = ".disk.qcow2.vmops-new"
LOCK = ".disk.qcow2.vmops-lock"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source without a byte to spare."""
    path = tmp_path_factory.mktemp("source") / "big.raw"
    piece = os.urandom(4 * MIB)
    with path.open("wb") as file:
        for number in range(SOURCE_MIB // 4):
            file.write(number.to_bytes(8, "big") + piece[8:])
    return path


def declare(folder: Path, **options: Any) -> dict[str, Any]:
    return {"path": str(folder / "disk.qcow2"), **options}


def start(folder: Path, gate: Gate | None = None, **options: Any) -> subprocess.Popen[bytes]:
    return start_module("qemu_img", declare(folder, **options), env=gate and gate.env)


def run(folder: Path, check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", declare(folder, **options), check=check)


def old_image(folder: Path) -> Path:
    """An image with something to lose."""
    path = folder / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "8M")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", str(path)], check=True, capture_output=True)
    return path


def written(path: Path) -> int:
    """Bytes of a growing file that are on the disk."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def is_new_image(path: Path, source: Path) -> bool:
    return same_content(source, "raw", path, "qcow2")


# Killed


@pytest.mark.parametrize("mib", [0, 1, 64, 160, 250])
def test_killed_while_it_replaces_an_image(tmp_path: Path, big: Path, mib: int) -> None:
    target = old_image(tmp_path)
    before = digest(target)
    module = start(tmp_path, source=str(big), force=True)
    child = child_that(module.pid, "convert")
    until(lambda: written(tmp_path / NEW) >= mib * MIB or not (tmp_path / NEW).exists(), "the new image to grow")
    module.kill()
    assert child.ends_within()
    module.communicate()
    assert digest(target) == before or is_new_image(target, big)
    again = run(tmp_path, source=str(big), force=True)
    assert not again.failed, again.json
    assert is_new_image(target, big)
    assert os.listdir(tmp_path) == ["disk.qcow2"]
    assert not run(tmp_path, source=str(big), force=True).changed


def test_the_whole_tree_killed_while_it_makes_an_image(tmp_path: Path, big: Path) -> None:
    module, child = converting(tmp_path, big)
    module.send_signal(signal.SIGSTOP)  # so that it learns of nothing before it dies itself
    child.kill()
    module.kill()
    module.communicate()
    assert child.ends_within()
    assert not (tmp_path / "disk.qcow2").exists()
    assert leftovers(tmp_path) == [LOCK, NEW]
    assert run(tmp_path, source=str(big)).changed
    assert os.listdir(tmp_path) == ["disk.qcow2"]


def test_children_die_with_a_killed_module(tmp_path: Path, big: Path) -> None:
    """The child stands still, so it doesn't end by itself."""
    module, child = converting(tmp_path, big)
    module.kill()
    assert child.ends_within()
    module.communicate()
    assert written(tmp_path / NEW) < SOURCE_MIB * MIB


def test_any_task_sweeps_what_a_killed_one_left(tmp_path: Path, big: Path) -> None:
    old_image(tmp_path)
    module, child = converting(tmp_path, big)
    module.kill()
    module.communicate()
    assert child.ends_within()
    assert leftovers(tmp_path) == [LOCK, NEW]
    told = run(tmp_path, check=True, size="8M")
    assert told.changed
    assert leftovers(tmp_path) == [LOCK, NEW]
    assert run(tmp_path, size="8M").changed
    assert os.listdir(tmp_path) == ["disk.qcow2"]
    assert not run(tmp_path, size="8M").changed


def test_the_removal_of_an_image_that_never_came_to_be_sweeps_too(tmp_path: Path, big: Path) -> None:
    module, child = converting(tmp_path, big)
    module.kill()
    module.communicate()
    assert child.ends_within()
    assert leftovers(tmp_path) == [LOCK, NEW]
    assert run(tmp_path, state="absent").changed
    assert os.listdir(tmp_path) == []
    assert not run(tmp_path, state="absent").changed


# Stopped


Moment = Callable[[Path, Path], "tuple[subprocess.Popen[bytes], Held | None]"]


def converting(folder: Path, big: Path, **options: Any) -> tuple[subprocess.Popen[bytes], Held]:
    """In the middle of it, and the child stands still there: it ends by nothing but SIGKILL."""
    module = start(folder, source=str(big), force=True, compress=True, **options)  # compressing takes seconds
    child = child_that(module.pid, "convert")
    until(lambda: written(folder / NEW) >= MIB, "the new image to grow")
    child.stop()
    assert written(folder / NEW) < SOURCE_MIB * MIB
    return module, child


def starting_its_first_child(folder: Path, big: Path) -> tuple[subprocess.Popen[bytes], Held | None]:
    held = gate(folder / "gate", "info", 1)
    module = start(folder, held, source=str(big), force=True)
    held.wait()
    return module, child_that(module.pid, "info")


def summing(folder: Path, big: Path) -> tuple[subprocess.Popen[bytes], Held | None]:
    sparse = folder / "sparse.raw"
    with sparse.open("wb") as file:
        file.truncate(64 << 30)
    module = start(folder, source=str(sparse), checksum="sha256:" + "0" * 64, force=True)
    until(lambda: str(sparse) in open_files(module.pid), "the checksum to be taken")
    return module, None


def waiting_for_the_lock(folder: Path, big: Path) -> tuple[subprocess.Popen[bytes], Held | None]:
    lock = folder / LOCK
    holder = subprocess.Popen(["flock", str(lock), "sh", "-c", "echo held; read ended"], **PIPES)
    assert holder.stdout is not None
    holder.stdout.readline()
    HOLDERS.append(holder)
    module = start(folder, source=str(big), force=True)
    until(lambda: str(lock) in open_files(module.pid), "the module to wait for the lock")
    return module, None


PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
HOLDERS: list[subprocess.Popen[bytes]] = []


MOMENTS: tuple[Moment, ...] = (starting_its_first_child, summing, waiting_for_the_lock, converting)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_ends_it_cleanly(tmp_path: Path, big: Path, moment: Moment, number: signal.Signals) -> None:
    target = old_image(tmp_path)
    before = digest(target)
    module, child = moment(tmp_path, big)
    module.send_signal(number)
    result = finish(module)
    for holder in HOLDERS:
        holder.communicate(b"\n")
    HOLDERS.clear()
    assert result.rc == 1
    assert result.failed
    assert result.msg == f"Stopped by {number.name}. Run the task again to go on."
    assert "Traceback" not in result.stderr
    assert child is None or child.ends_within()
    assert digest(target) == before
    assert [name for name in leftovers(tmp_path) if name != LOCK or moment is not waiting_for_the_lock] == []


def test_a_second_signal_does_not_spoil_the_clean_up(tmp_path: Path, big: Path) -> None:
    before = digest(old_image(tmp_path))
    module, child = converting(tmp_path, big)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        module.send_signal(number)
    result = finish(module)
    assert result.failed
    assert result.msg.startswith("Stopped by SIG")
    assert child.ends_within()
    assert digest(tmp_path / "disk.qcow2") == before
    assert leftovers(tmp_path) == []


def test_it_ends_when_nobody_reads_its_result(tmp_path: Path, big: Path) -> None:
    before = digest(old_image(tmp_path))
    module, child = converting(tmp_path, big)
    assert module.stdout is not None
    module.stdout.close()
    module.stdout = None
    module.communicate(timeout=WAIT_S)
    assert module.returncode != 0
    assert child.ends_within()
    assert digest(tmp_path / "disk.qcow2") == before
    assert leftovers(tmp_path) == []


def test_a_convert_that_takes_too_long(tmp_path: Path, big: Path) -> None:
    before = digest(old_image(tmp_path))
    module, child = converting(tmp_path, big, timeout=10)
    result = finish(module)
    assert result.failed
    assert result.json["error"]["kind"] == "timed_out"
    assert "converting" in result.msg
    assert "Raise the task's timeout" in result.msg
    assert child.ends_within()
    assert digest(tmp_path / "disk.qcow2") == before
    assert leftovers(tmp_path) == []


# Disk full


@pytest.fixture
def source_16_mib(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    path.write_bytes(os.urandom(16 * MIB))
    return path


def commands(result: Result) -> list[str]:
    return [argv[1] for argv in result.json["commands"]]


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(tmp_path: Path, source_16_mib: Path) -> None:
    with small_disk(tmp_path, "8m") as folder:
        result = run(folder, source=str(source_16_mib))
        assert result.failed
        assert "No space left on device" in result.msg
        assert result.json["error"]["kind"] == "storage_failed"
        needed, free = result.json["error"]["needed_bytes"], result.json["error"]["free_bytes"]
        assert needed >= 16 * MIB
        assert free <= 8 * MIB
        assert f"It needs {needed} bytes, and {free} are free there." in result.msg
        assert "convert" not in commands(result)
        assert os.listdir(folder) == []


def partly_zeros(path: Path, data_mib: int, image_format: str, *options: str) -> Path:
    """An image of 16 MiB, all of them written, of which so many aren't zeros."""
    qemu_img("create", "-q", "-f", image_format, *options, path, "16M")
    zeros = f"write -P 0 {data_mib}M {16 - data_mib}M"
    subprocess.run(
        ["qemu-io", "-f", image_format, "-c", f"write -P 7 0 {data_mib}M", "-c", zeros, str(path)],
        check=True,
        capture_output=True,
    )
    return path


FORMATS = pytest.mark.parametrize(
    "formats", [("raw", "qcow2"), ("raw", "raw"), ("qcow2", "qcow2"), ("vdi", "raw"), ("vhdx", "raw")]
)


@FORMATS
def test_zeros_that_were_written_are_no_reason_to_refuse(tmp_path: Path, formats: tuple[str, str]) -> None:
    source = partly_zeros(tmp_path / "source", 3, formats[0])
    assert written(source) >= 16 * MIB, "the zeros aren't written, so this shows nothing"
    with small_disk(tmp_path, "8m") as folder:
        result = run(folder, source=str(source), format=formats[1])
        assert not result.failed, result.json
        assert same_content(source, formats[0], folder / "disk.qcow2", formats[1])


@FORMATS
def test_data_that_does_not_fit_is_refused_whatever_the_zeros(tmp_path: Path, formats: tuple[str, str]) -> None:
    source = partly_zeros(tmp_path / "source", 10, formats[0])
    with small_disk(tmp_path, "8m") as folder:
        result = run(folder, source=str(source), format=formats[1])
        assert result.failed
        assert f"(the zeros in {source} were left out of account)" in result.msg
        assert 10 * MIB <= result.json["error"]["needed_bytes"] < 11 * MIB
        assert "convert" not in commands(result)
        assert os.listdir(folder) == []


def test_what_is_cut_off_needs_no_room(tmp_path: Path) -> None:
    source = partly_zeros(tmp_path / "source", 10, "raw")
    with small_disk(tmp_path, "8m") as folder:
        result = run(folder, source=str(source), size="2M", allow_shrink=True)
        assert not result.failed, result.json


def test_compressed_data_counts_as_it_unpacks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", partly_zeros(tmp_path / "raw", 10, "raw"), source)
    with small_disk(tmp_path, "8m") as folder:
        result = run(folder, source=str(source), format="raw")
        assert result.json["error"]["needed_bytes"] == 10 * MIB
        assert os.listdir(folder) == []


def test_preallocation_that_does_not_fit_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with small_disk(tmp_path, "8m") as folder:
        result = run(folder, size="32M", options={"preallocation": "full"})
        assert result.failed
        assert result.json["error"]["needed_bytes"] >= 32 * MIB
        assert os.listdir(folder) == []


def test_a_disk_that_fills_up_during_a_convert(tmp_path: Path, source_16_mib: Path) -> None:
    """Nobody can tell beforehand what compression makes of it."""
    with small_disk(tmp_path, "8m") as folder:
        target = old_image(folder)
        before = digest(target)
        result = run(folder, source=str(source_16_mib), compress=True, force=True)
        assert "convert" in commands(result)
        assert result.failed
        assert "No space left on device" in result.msg
        assert result.json["error"]["needed_bytes"] >= 16 * MIB
        assert "bytes, and" in result.msg
        assert digest(target) == before
        assert os.listdir(folder) == ["disk.qcow2"]
        assert free_bytes(folder) > 4 * MIB


def test_a_copy_that_does_not_fit_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with small_disk(tmp_path, "8m") as folder:
        target = old_image(folder)
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", "write -P 9 0 5M", str(target)], check=True, capture_output=True
        )
        before = digest(target)
        result = run(folder, snapshots=[{"name": "before-upgrade"}])
        assert result.failed
        assert result.json["error"]["needed_bytes"] >= 5 * MIB
        assert "snapshot" not in commands(result)
        assert digest(target) == before
        assert os.listdir(folder) == ["disk.qcow2"]


# Two tasks at once


def test_two_tasks_that_declare_the_same(tmp_path: Path, big: Path) -> None:
    both = [start(tmp_path, source=str(big)) for _task in range(2)]
    results = [finish(module) for module in both]
    assert [result.failed for result in results] == [False, False], results
    assert sorted(result.changed for result in results) == [False, True]
    assert is_new_image(tmp_path / "disk.qcow2", big)
    assert leftovers(tmp_path) == []


def test_two_tasks_that_declare_different_sources(tmp_path: Path, big: Path, source_16_mib: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    sources = (big, source_16_mib)
    both = [start(folder, source=str(source)) for source in sources]
    results = [finish(module) for module in both]
    target = folder / "disk.qcow2"
    assert sorted(result.failed for result in results) == [False, True], results
    winner, loser = (0, 1) if not results[0].failed else (1, 0)
    assert results[loser].json["error"]["kind"] == "refused", results[loser].json
    assert is_new_image(target, sources[winner])
    assert info(target)["virtual-size"] == sources[winner].stat().st_size
    assert leftovers(folder) == []


def test_two_tasks_that_force_different_sources(tmp_path: Path, big: Path, source_16_mib: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    sources = (big, source_16_mib)
    both = [start(folder, source=str(source), force=True) for source in sources]
    results = [finish(module) for module in both]
    assert [result.failed for result in results] == [False, False], results
    made = info(folder / "disk.qcow2")["virtual-size"]
    last = next(source for source in sources if source.stat().st_size == made)
    assert is_new_image(folder / "disk.qcow2", last)
    assert leftovers(folder) == []


def test_a_task_that_waits_for_one_that_has_been_stopped(tmp_path: Path, big: Path) -> None:
    held = gate(tmp_path / "gate", "convert", 1)
    folder = tmp_path / "images"
    folder.mkdir()
    holder = start(folder, held, source=str(big))
    held.wait()
    holder.send_signal(signal.SIGSTOP)
    try:
        waiting = run(folder, source=str(big), timeout=10)
        assert waiting.failed
        assert waiting.json["error"]["kind"] == "timed_out"
        assert f"another task that works on {folder / 'disk.qcow2'}" in waiting.msg
        assert waiting.json["elapsed_s"] >= 10
    finally:
        holder.send_signal(signal.SIGCONT)
    held.open()
    assert finish(holder).changed
    assert is_new_image(folder / "disk.qcow2", big)
    assert leftovers(folder) == []


# From the network


@pytest.fixture(scope="module")
def document() -> bytes:
    return os.urandom(2 * MIB)


@pytest.fixture
def checksum(document: bytes, tmp_path: Path) -> str:
    path = tmp_path / "document.raw"
    path.write_bytes(document)
    return "sha256:" + digest(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def fetch(images: Path, server: WebServer, checksum: str, check: bool = False, **options: Any) -> Result:
    return run(images, check=check, source=server.url, checksum=checksum, **options)


@pytest.mark.parametrize(
    ("temper", "outcomes", "ranges"),
    [
        (Temper.GOOD, 1, [None]),
        (Temper.CUTS_ONCE, 2, [None, f"bytes={MIB}-"]),
        (Temper.CUTS_ONCE_NO_RANGE, 2, [None, f"bytes={MIB}-"]),
    ],
)
def test_a_source_from_the_network(
    images: Path, document: bytes, checksum: str, temper: Temper, outcomes: int, ranges: list[str | None]
) -> None:
    with WebServer(document, temper).running() as server:
        result = fetch(images, server, checksum)
        assert not result.failed, result.json
        assert result.changed
        assert server.requests == ranges
        assert len(result.json["attempts"]) == outcomes
        assert result.json["attempts"][-1]["outcome"] == "complete"
        assert is_new_image(images / "disk.qcow2", images.parent / "document.raw")
        assert os.listdir(images) == ["disk.qcow2"]
        again = fetch(images, server, checksum)
        assert not again.changed
        assert server.requests == ranges


@pytest.mark.parametrize(
    ("temper", "kind", "says"),
    [
        (Temper.MISSING, "error", "404"),
        (Temper.CUTS_ALWAYS, "error", "4 attempts"),
        (Temper.LIES, "error", "4 attempts"),
    ],
)
def test_a_server_that_does_not_deliver(
    images: Path, document: bytes, checksum: str, temper: Temper, kind: str, says: str
) -> None:
    target = old_image(images)
    before = digest(target)
    with WebServer(document, temper).running() as server:
        result = fetch(images, server, checksum, force=True)
        assert result.failed
        assert result.json["error"]["kind"] == kind
        assert says in result.msg
        assert server.url in result.msg
    assert digest(target) == before
    assert os.listdir(images) == ["disk.qcow2"]


def test_a_download_with_another_checksum(images: Path, document: bytes, checksum: str) -> None:
    other = "sha256:" + "0" * 64
    with WebServer(document, Temper.GOOD).running() as server:
        result = fetch(images, server, other)
        assert result.failed
        assert result.json["error"]["kind"] == "bad_input"
        assert checksum in result.msg
        assert other in result.msg
    assert os.listdir(images) == []


@pytest.mark.parametrize("temper", [Temper.STALLS, Temper.DRIPS])
def test_a_server_that_falls_silent(images: Path, document: bytes, checksum: str, temper: Temper) -> None:
    with WebServer(document, temper).running() as server:
        result = fetch(images, server, checksum, timeout=10)
        assert result.failed
        assert result.json["error"]["kind"] == "timed_out", result.json
        assert server.midway.is_set()
    assert os.listdir(images) == []


def test_a_stop_signal_during_a_download(images: Path, document: bytes, checksum: str) -> None:
    with WebServer(document, Temper.STALLS).running() as server:
        module = start(images, source=server.url, checksum=checksum)
        assert server.midway.wait(WAIT_S)
        module.send_signal(signal.SIGTERM)
        result = finish(module)
    assert result.failed
    assert result.msg.startswith("Stopped by SIGTERM")
    assert os.listdir(images) == []


def test_killed_during_a_download(images: Path, document: bytes, checksum: str) -> None:
    with WebServer(document, Temper.STALLS).running() as server:
        module = start(images, source=server.url, checksum=checksum)
        assert server.midway.wait(WAIT_S)
        module.kill()
        module.communicate()
    assert leftovers(images) == [".disk.qcow2.vmops-download", LOCK, NEW] or leftovers(images) == [
        ".disk.qcow2.vmops-download",
        LOCK,
    ]
    with WebServer(document, Temper.GOOD).running() as server:
        assert fetch(images, server, checksum).changed
    assert os.listdir(images) == ["disk.qcow2"]


def test_check_mode_fetches_nothing(images: Path, document: bytes, checksum: str) -> None:
    with WebServer(document, Temper.GOOD).running() as server:
        result = fetch(images, server, checksum, check=True)
        assert result.changed
        assert server.requests == []
    assert os.listdir(images) == []


def test_a_local_source_with_another_checksum(images: Path, source_16_mib: Path) -> None:
    result = run(images, source=str(source_16_mib), checksum="sha256:" + "0" * 64)
    assert result.failed
    assert result.json["error"]["kind"] == "bad_input"
    assert digest(source_16_mib) in result.msg
    assert os.listdir(images) == []
