# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The source's name is given to another file while the module is at work: what is read is what was proven, or the
task is refused.

qemu-img itself is held at a gate before it starts, so the swap comes at exactly the chosen moment.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.testbed.faults import digest, qemu_img, until
from tests.testbed.modules import Result, finish, start_module

MIB = 1 << 20


class Gate(NamedTuple):
    """Holds the n-th qemu-img of one kind until it is let through."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": "%s:%s" % (self.folder, os.environ["PATH"])}

    def wait(self) -> None:
        """Until somebody stands at the gate."""
        until((self.folder / "here").exists, "the module to come to the gate")

    def open(self) -> None:
        with (self.folder / "go").open("w") as go:
            go.write("go\n")


def gate(folder: Path, word: str, nth: int) -> Gate:
    folder.mkdir()
    os.mkfifo(folder / "go")
    real = shutil.which("qemu-img")
    assert real is not None
    script = f"""#!/bin/sh
gate={shlex.quote(str(folder))}
if [ "$1" = {word} ]; then
    echo >> "$gate/count"
    if [ "$(wc -l < "$gate/count")" -eq {nth} ]; then
        : > "$gate/here"
        read -r _ < "$gate/go"
    fi
fi
exec {shlex.quote(real)} "$@"
"""
    (folder / "qemu-img").write_text(script)
    (folder / "qemu-img").chmod(0o755)
    return Gate(folder)


@pytest.fixture(params=["raw", "qcow2"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What the user means, in a folder of its own."""
    (tmp_path / "seeds").mkdir()
    return image(tmp_path / "seeds" / "source", request.param, 1)


def image(path: Path, image_format: str, first: int) -> Path:
    raw = path.with_name(path.name + ".raw")
    raw.write_bytes(bytes([first]) * MIB)
    qemu_img("convert", "-f", "raw", "-O", image_format, raw, path)
    raw.unlink()
    return path


def swapped_at(word: str, nth: int, tmp_path: Path, source: Path, **options: Any) -> Result:
    """The module's run, at which the source's name came to another file of the same size and time at that moment."""
    image_format = "qcow2" if source.read_bytes()[:4] == b"QFI\xfb" else "raw"
    kept = source.with_name("kept")
    os.link(source, kept)
    evil = image(source.with_name("evil"), image_format, 2)
    status = source.stat()
    os.utime(evil, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert evil.stat().st_size == status.st_size
    held = gate(tmp_path / "gate", word, nth)
    target = tmp_path / "images"
    target.mkdir()
    arguments = {"path": str(target / "disk.raw"), "format": "raw", "source": str(source), "timeout": 60, **options}
    module = start_module("qemu_img", arguments, env=held.env)
    held.wait()
    evil.rename(source)
    held.open()
    return finish(module)


def checked(source: Path, with_checksum: bool) -> dict[str, str]:
    return {"checksum": "sha256:" + digest(source)} if with_checksum else {}


with_and_without = pytest.mark.parametrize("with_checksum", [True, False], ids=["checksum", "no checksum"])


@with_and_without
@pytest.mark.parametrize("word", ["measure", "convert"])
def test_what_is_read_is_what_was_opened_and_proven(
    tmp_path: Path, source: Path, word: str, with_checksum: bool
) -> None:
    result = swapped_at(word, 1, tmp_path, source, **checked(source, with_checksum))
    assert not result.failed, result.json
    made = (tmp_path / "images" / "disk.raw").read_bytes()
    assert made == b"\1" * MIB


@with_and_without
def test_another_file_after_the_decision_is_refused(tmp_path: Path, source: Path, with_checksum: bool) -> None:
    """The first look, the decisive look under the lock, at which it is swapped; then it is opened to be read."""
    result = swapped_at("info", 2, tmp_path, source, **checked(source, with_checksum))
    assert result.failed, result.json
    assert result.json["error"]["kind"] == "refused"
    assert str(source) in result.msg
    assert os.listdir(tmp_path / "images") == []


def test_another_file_after_the_proof_is_proven_itself(tmp_path: Path, source: Path) -> None:
    result = swapped_at("info", 1, tmp_path, source, **checked(source, True))
    assert result.failed, result.json
    assert result.json["error"]["kind"] == "bad_input"
    assert "checksum: " in result.msg
    assert os.listdir(tmp_path / "images") == []


def test_the_comparison_with_an_image_that_is_there_reads_what_was_opened(tmp_path: Path, source: Path) -> None:
    """Equal to what was opened, so it is adopted as made from that, and from nothing else."""
    images = tmp_path / "elsewhere"
    images.mkdir()
    target = images / "disk.raw"
    target.write_bytes(b"\1" * MIB)
    result = swapped_at("compare", 1, tmp_path, source, path=str(target))
    assert result.failed, result.json  # under the lock it is looked at again, and is another by then
    assert result.json["error"]["kind"] == "refused"
    assert target.read_bytes() == b"\1" * MIB
