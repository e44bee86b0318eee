# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk images as the tests see them: through qemu-img and qemu-io themselves, never through this collection."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

MIB = 1 << 20
FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc")


def qemu_img(*words: object, ok: tuple[int, ...] = (0,), cwd: Path | None = None) -> str:
    """Run qemu-img and return what it prints. One that couldn't measure the processor for a LUKS image tries again."""
    for _attempt in range(50):
        done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, check=False, cwd=cwd)
        if "Unable to get accurate CPU usage" not in done.stderr:
            break
    assert done.returncode in ok, "%s: %d %s %s" % (words, done.returncode, done.stdout, done.stderr)
    return done.stdout


def info(path: Path, image_format: str = "qcow2") -> dict[str, Any]:
    """What qemu-img says of an image, whatever its name."""
    named = json.dumps({"driver": image_format, "file": {"driver": "file", "filename": str(path)}})
    found: dict[str, Any] = json.loads(qemu_img("info", "-U", "--output=json", "json:" + named))
    return found


def faults(path: Path, image_format: str = "qcow2") -> dict[str, int]:
    """What a check finds."""
    found = json.loads(qemu_img("check", "--output=json", "-f", image_format, path, ok=(0, 2, 3)))
    return {name: found.get(name, 0) for name in ("corruptions", "leaks")}


def qemu_io(path: Path, *commands: str, image_format: str = "qcow2") -> str:
    """Read and write the guest's view of an image, as a machine would."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", image_format, *words, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "failed" not in done.stdout, done.stdout
    return done.stdout


def holds(path: Path, *patterns: str, image_format: str = "qcow2") -> None:
    """Assert that the guest's view has these patterns, each as 'PATTERN OFFSET LENGTH'."""
    qemu_io(path, *("read -P %s" % pattern for pattern in patterns), image_format=image_format)


def same_content(first: Path, first_format: str, second: Path, second_format: str) -> bool:
    """Whether two images show the same content (the longer one's rest being zeros is no difference)."""
    words = ["compare", "-q", "-f", first_format, "-F", second_format, str(first), str(second)]
    done = subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def make(path: Path, image_format: str, size: int, *commands: str, options: str = "") -> Path:
    """A new image with what qemu-io's commands write into it."""
    force = "force_size=on" if image_format == "vpc" else ""
    given = ",".join(part for part in (force, options) if part)
    qemu_img("create", "-q", "-f", image_format, *(["-o", given] if given else []), path, size)
    if commands:
        qemu_io(path, *commands, image_format=image_format)
    return path
