# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an encrypted image holds is nowhere in the clear, and where nothing was written it reads as zeros."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB, info, make, qemu_img
from tests.testbed.modules import Result, run_module

PASSPHRASE = "correct horse"
SECRET = {"secret": PASSPHRASE, "options": {"iter-time": 10}}
MODES = ("metadata", "falloc", "full")


def img(path: Path, **arguments: Any) -> Result:
    result = run_module("qemu_img", {"path": str(path), **arguments})
    assert not result.failed, result.json
    return result


def unlocked(path: Path) -> list[str]:
    """The words by which QEMU's programs open an encrypted image."""
    secret = ["--object", "secret,id=s,data=%s" % PASSPHRASE]
    return [*secret, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename=%s" % path]


def reads(path: Path, *patterns: str) -> None:
    """Assert that the guest's view of an encrypted image has these patterns, each as 'PATTERN OFFSET LENGTH'."""
    words = [word for pattern in patterns for word in ("-c", "read -P %s" % pattern)]
    done = subprocess.run(["qemu-io", *words, *unlocked(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "failed" not in done.stdout, done.stdout


def decrypted(path: Path) -> Path:
    """A raw copy of what the guest sees."""
    copy = path.with_name(path.name + ".decrypted")
    qemu_img("convert", *unlocked(path), "-O", "raw", copy)
    return copy


def compressed_bytes(path: Path) -> int:
    extents = json.loads(qemu_img("map", "--output=json", *unlocked(path)))
    return sum(extent["length"] for extent in extents if extent.get("compressed"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Data, holes, and zeros that were written."""
    return make(tmp_path / "source.raw", "raw", 4 * MIB, "write -P 7 1M 1M", "write -P 0 2M 64k")


# QEMU compresses data instead of encrypting it


@pytest.mark.parametrize("check", [True, False])
def test_compressed_data_is_not_encrypted_so_both_are_refused(path: Path, source: Path, check: bool) -> None:
    wanted = {"path": str(path), "source": str(source), "compress": True, "encrypt": SECRET}
    result = run_module("qemu_img", wanted, check=check)
    assert result.failed
    assert "compress: QEMU doesn't encrypt compressed data" in result.msg
    assert not path.exists()


def test_what_was_compressed_is_not_compressed_once_it_is_encrypted(path: Path, source: Path) -> None:
    img(path, source=str(source), compress=True)
    result = img(path, encrypt=SECRET, force=True)
    assert [words for words in result.json["commands"] if "convert" in words]
    assert not [words for words in result.json["commands"] if "-c" in words]
    assert compressed_bytes(path) == 0
    reads(path, "0 0 1M", "7 1M 1M", "0 2M 2M")
    assert not img(path, encrypt=SECRET).changed


# What is preallocated and zero in the file decrypts to noise


@pytest.mark.parametrize(("mode", "compat"), [*((mode, "1.1") for mode in MODES), ("full", "0.10")])
def test_a_preallocated_image_has_the_zeros_of_its_source(path: Path, source: Path, mode: str, compat: str) -> None:
    options = {"preallocation": mode, "compat": compat}
    img(path, source=str(source), size="8M", encrypt=SECRET, options=options)
    qemu_img("compare", "-f", "raw", "-F", "raw", source, decrypted(path))
    reads(path, "0 4M 4M")
    if mode != "metadata":
        assert path.stat().st_blocks * 512 >= 8 * MIB


@pytest.mark.parametrize("mode", MODES)
def test_a_preallocated_image_has_what_it_was_converted_from(path: Path, source: Path, mode: str) -> None:
    qemu_img("convert", "-f", "raw", "-O", "qcow2", source, path)
    img(path, encrypt=SECRET, options={"preallocation": mode}, force=True)
    qemu_img("compare", "-f", "raw", "-F", "raw", source, decrypted(path))


@pytest.mark.parametrize("mode", MODES)
def test_a_preallocated_image_is_made_of_zeros_and_grows_by_them(path: Path, mode: str) -> None:
    img(path, size="1000K", encrypt=SECRET, options={"preallocation": mode})
    reads(path, "0 0 1000K")
    img(path, size="5M", encrypt=SECRET, snapshots=[{"name": "a"}])
    reads(path, "0 0 5M")
    assert info(path)["virtual-size"] == 5 * MIB
    if mode != "metadata":
        assert path.stat().st_blocks * 512 >= 5 * MIB


@pytest.mark.parametrize("mode", MODES)
def test_a_preallocated_overlay_shows_what_lies_below_and_grows_by_zeros(path: Path, source: Path, mode: str) -> None:
    extended = {"preallocation": mode, "extended_l2": True}
    img(path, backing_file="source.raw", size="3M", encrypt=SECRET, options=extended)
    reads(path, "7 1M 1M", "0 2M 1M")
    img(path, size="3500K", encrypt=SECRET)
    reads(path, "0 0 1M", "7 1M 1M", "0 2M 1452K")
