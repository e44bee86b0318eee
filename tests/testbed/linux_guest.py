# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the tests' Linux guest: a Debian kernel and a small initramfs with busybox, the QEMU guest agent and our init.

Nothing is installed: the packages are downloaded by apt-get and unpacked. The result is kept under
`.testbed/linux-guest/`, keyed by a digest of this file and the init, and is built once.
`python -m tests.testbed.linux_guest` builds it and prints where it is.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .module_main import ROOT

INIT = ROOT / "tests" / "testbed" / "linux_guest_init"
HOME = ROOT / ".testbed" / "linux-guest"
PACKAGES = ("linux-image-cloud-amd64", "busybox-static", "qemu-guest-agent")
# What the kernel needs beyond its built-in parts: discs and ports on PCI, the seed's file system, the power button.
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "isofs", "button", "evdev")
NO_RELATIVES = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")


class LinuxGuest(NamedTuple):
    """A kernel and an initramfs to boot with `console=ttyS0`; `versions` are those of the packages inside."""

    kernel: Path
    initrd: Path
    versions: dict[str, str]


def build() -> LinuxGuest:
    """The guest, built if it isn't there. Says what it does while it builds."""
    digest = hashlib.sha256(INIT.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    target = HOME / digest
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            started = time.monotonic()
            print("linux guest: downloading and unpacking %s ..." % ", ".join(PACKAGES), flush=True)
            with tempfile.TemporaryDirectory(dir=HOME) as scratch:
                _build(Path(scratch))
                os.rename(Path(scratch) / "out", target)
            print("linux guest: built in %.0f s" % (time.monotonic() - started), flush=True)
    versions = json.loads((target / "versions.json").read_text())
    return LinuxGuest(target / "kernel", target / "initrd", versions)


def _build(scratch: Path) -> None:
    names = _closure(PACKAGES)
    debs = scratch / "debs"
    root = scratch / "root"
    out = scratch / "out"
    for folder in (debs, root, out):
        folder.mkdir()
    _run("apt-get", "download", "--quiet", *names, cwd=debs)
    versions = {}
    for deb in sorted(debs.iterdir()):
        _run("dpkg-deb", "--extract", str(deb), str(root))
        name, version = _run("dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(deb)).split()
        versions[name] = version
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), out / "kernel")
    archive = b"".join(_archive(root))
    (out / "initrd").write_bytes(gzip.compress(archive, compresslevel=6, mtime=0))
    shown = {name: version for name, version in versions.items() if name in PACKAGES or name.startswith("linux-image")}
    (out / "versions.json").write_text(json.dumps(shown, indent=1))


def _closure(packages: Iterable[str]) -> list[str]:
    """The packages and all that they need, without the kernel's tools for an installed system."""
    wanted: set[str] = set()
    for package in packages:
        options = ["--no-" + kind for kind in NO_RELATIVES]
        depth = [] if package.startswith("linux-image") else ["--recurse"]
        lines = _run("apt-cache", "depends", *options, *depth, package).splitlines()
        wanted.add(package)
        if depth:
            wanted.update(line for line in lines if line and not line.startswith((" ", "<", "|")))
        else:
            wanted.update(line.split()[-1] for line in lines if "Depends: linux-image" in line)
    return sorted(wanted & _downloadable(wanted))


def _downloadable(names: Iterable[str]) -> set[str]:
    """Those that are real packages: a virtual name has no candidate."""
    text = _run("apt-cache", "policy", *sorted(names))
    blocks = text.replace("\n  ", "\t").splitlines()
    return {block.split(":")[0] for block in blocks if "Candidate:" in block and "Candidate: (none)" not in block}


def _archive(root: Path) -> Iterator[bytes]:
    """The initramfs as a cpio archive (newc)."""
    for folder in (
        "bin",
        "sbin",
        "usr",
        "usr/bin",
        "usr/sbin",
        "lib",
        "lib/modules",
        "lib64",
        "dev",
        "proc",
        "sys",
        "tmp",
        "etc",
    ):
        yield _entry(folder, 0o040755, b"")
    # the kernel wants its first line, which no other file of a collection may have
    yield _entry("init", 0o100755, b"#!/bin/busybox sh\n" + INIT.read_bytes())
    yield _entry("bin/busybox", 0o100755, (root / "bin" / "busybox").read_bytes())
    agent = root / "usr" / "sbin" / "qemu-ga"
    yield _entry("usr/sbin/qemu-ga", 0o100755, agent.read_bytes())
    folders = [root / "lib" / "x86_64-linux-gnu", root / "usr" / "lib" / "x86_64-linux-gnu"]
    # Not by way of /lib64: that link is absolute and would lead to the host's own loader.
    (loader, *_others) = (path for folder in folders for path in folder.glob("ld-linux-*"))
    yield _entry("lib64/" + loader.name, 0o100755, loader.read_bytes())
    for library in _libraries(loader, agent, folders):
        yield _entry("lib/" + library.name, 0o100755, library.read_bytes())
    order = _modules(root)
    yield _entry("lib/modules/order", 0o100644, "".join(path.name.split(".ko")[0] + ".ko\n" for path in order).encode())
    for path in order:
        content = path.read_bytes()
        yield _entry(
            "lib/modules/%s.ko" % path.name.split(".ko")[0],
            0o100644,
            lzma.decompress(content) if path.suffix == ".xz" else content,
        )
    yield _entry("TRAILER!!!", 0, b"")


def _libraries(loader: Path, program: Path, folders: Iterable[Path]) -> list[Path]:
    """The shared libraries of a program, as its own loader lists them."""
    listed = _run(str(loader), "--library-path", ":".join(map(str, folders)), "--list", str(program))
    return [Path(line.split("=>")[1].split()[0]) for line in listed.splitlines() if "=>" in line]


def _modules(root: Path) -> list[Path]:
    """The modules and those that they need, in loading order."""
    files = {path.name.split(".ko")[0]: path for path in (root / "lib" / "modules").rglob("*.ko*")}
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in files:  # what has no file is built in
            return
        content = files[name].read_bytes()
        content = lzma.decompress(content) if files[name].suffix == ".xz" else content
        needs = content.split(b"\0depends=", 1)[1].split(b"\0", 1)[0].decode()
        for need in filter(None, needs.split(",")):
            add(need)
        order.append(name)

    for module in MODULES:
        add(module)
    return [files[name] for name in order]


def _entry(name: str, mode: int, content: bytes) -> bytes:
    """One member of a cpio archive ("newc"): a header of 110 characters, name and content each padded to 4 bytes."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        hint = " Are the package lists fresh? apt-get update" if argv[0].startswith("apt-") else ""
        raise SystemExit("linux guest: %s failed: %s%s" % (" ".join(argv[:3]), done.stderr.strip(), hint))
    return done.stdout


if __name__ == "__main__":
    guest = build()
    print(json.dumps({"kernel": str(guest.kernel), "initrd": str(guest.initrd), "versions": guest.versions}))
