# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a folder of images, told by qemu-img and never by the code under test."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

FINE, LEAKS, CORRUPT, UNCHECKED = "fine", "leaks", "corrupt", "can't be checked"
_CHECK = {0: FINE, 2: CORRUPT, 3: LEAKS, 63: UNCHECKED}


class Broken(Exception):
    """An image that doesn't even open."""


class Look(NamedTuple):
    """One image, as a machine would find it. Contents are digests of all that a machine can read."""

    format: str
    size_bytes: int
    content: str
    snapshots: tuple[tuple[str, str], ...]  # name and content
    bitmaps: tuple[tuple[str, str], ...]  # name and flags
    backing: str | None
    own_data: bool  # an overlay's that isn't in its backing file
    options: str
    check: str

    @property
    def sound(self) -> Look:
        """The same without the space it may have lost, which counts as whole."""
        return self._replace(check=FINE if self.check in (LEAKS, UNCHECKED) else self.check)


def tool(*words: str | Path, ok: tuple[int, ...] = (0,)) -> str:
    """Run a program of QEMU's. Raises Broken with its own words."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode not in ok:
        raise Broken(f"{' '.join(map(str, words))}: rc {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(path: Path, image_format: str, snapshot: str | None = None) -> str:
    """A digest of what a machine reads, through all backing files."""
    raw = path.parent.parent / (path.parent.name + ".content")
    chosen = ["-l", f"snapshot.name={snapshot}"] if snapshot else []
    try:
        tool("qemu-img", "convert", "-f", image_format, *chosen, "-O", "raw", path, raw)
        return digest(raw)
    finally:
        raw.unlink(missing_ok=True)


def look(path: Path, image_format: str) -> Look:
    """Everything about one image. Raises Broken."""
    info = json.loads(tool("qemu-img", "info", "--output=json", "-f", image_format, path))
    specific = info.get("format-specific", {}).get("data", {})
    check = subprocess.run(["qemu-img", "check", "-q", "-f", image_format, path], capture_output=True, check=False)
    backing = info.get("backing-filename")
    shown = {name: specific[name] for name in ("compat", "lazy-refcounts", "refcount-bits") if name in specific}
    return Look(
        format=info["format"],
        size_bytes=info["virtual-size"],
        content=content(path, image_format),
        snapshots=tuple(
            (snapshot["name"], content(path, image_format, snapshot["name"])) for snapshot in info.get("snapshots", ())
        ),
        bitmaps=tuple((bitmap["name"], ",".join(bitmap["flags"])) for bitmap in specific.get("bitmaps", ())),
        backing=backing,
        own_data=backing is not None and _has_own_data(path, image_format),
        options=json.dumps({**shown, "cluster-size": info.get("cluster-size")}),
        check=_CHECK.get(check.returncode, f"check answers {check.returncode}"),
    )


def _has_own_data(path: Path, image_format: str) -> bool:
    parts = json.loads(tool("qemu-img", "map", "--output=json", "-f", image_format, path))
    return any(part["depth"] == 0 and (part["data"] or part["zero"]) for part in parts)


class World:
    """A scenario's folder, which can be put back to how it was before."""

    def __init__(self, folder: Path, images: dict[str, str]) -> None:
        self.folder = folder
        self._images = images
        self._template = folder.with_name(folder.name + ".before")
        self._looks: dict[tuple[object, ...], dict[str, Look | str | None]] = {}

    def keep(self) -> None:
        """This is how it is before."""
        shutil.copytree(self.folder, self._template, copy_function=_copy)

    def reset(self) -> None:
        """As before."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._template, self.folder, copy_function=_copy)

    def names(self) -> list[str]:
        """All files."""
        return sorted(os.listdir(self.folder))

    def bytes(self) -> dict[str, str | None]:
        """Digests of the images' files; None for one that isn't there."""
        paths = {name: self.folder / name for name in self._images}
        return {name: digest(path) if path.exists() else None for name, path in paths.items()}

    def looks(self) -> dict[str, Look | str | None]:
        """Each image; None for one that isn't there, a text that says why one can't be read.

        Equal bytes look equal, so they are looked at once.
        """
        key = tuple(sorted(self.bytes().items()))
        if key not in self._looks:
            self._looks[key] = {name: self._look(name, image_format) for name, image_format in self._images.items()}
        return self._looks[key]

    def _look(self, name: str, image_format: str) -> Look | str | None:
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return look(path, image_format)
        except Broken as broken:
            return str(broken)


def _copy(source: str, target: str) -> str:
    """With its times and attributes, which a record and a source's identity rest on, and with its holes."""
    tool("cp", "--sparse=always", source, target)
    shutil.copystat(source, target)
    return target
