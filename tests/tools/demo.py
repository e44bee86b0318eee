# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a machine twice, takes it away twice, and looks at each step from outside of Ansible."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.testbed import linux_guest
from tests.tools.failure import Failure
from tests.tools.paths import ROOT, STATE
from tests.tools.plays import play, say

_INVENTORY = ROOT / "tests" / "demo" / "inventory.yml"
_FOLDER = STATE / "demo"
_RUN = STATE / "demo.run"  # as in the inventory: apart, so that what is left of either shows
_SOURCE = STATE / "demo-source.img"


def main() -> int:
    """Answers 0 only where every step did what it should."""
    started = time.monotonic()
    port = _free_port()
    try:
        _make_source()
        _FOLDER.mkdir(exist_ok=True)
        say("1. make it: convert the image, grow it, boot, wait until the guest answers")
        _play("provision", port, changes=True)
        say("2. what is there now")
        _show()
        say("3. the same playbook again: nothing to do")
        _play("provision", port, changes=False)
        say("4. take it away: shut down gracefully, prove that the process is gone, remove what was made")
        _play("teardown", port, changes=True)
        _prove_gone()
        say("5. the same again: nothing to do")
        _play("teardown", port, changes=False)
    except Failure as failure:
        print(f"\nerror: {failure}", file=sys.stderr)
        return 1
    say(f"done in {time.monotonic() - started:.0f} s: made once, taken away once, nothing left")
    return 0


def _make_source() -> None:
    """A small raw image with a file system in it; what a user would download."""
    content = STATE / "demo-content"
    content.mkdir(parents=True, exist_ok=True)
    (content / "hello.txt").write_text("made by make demo\n")
    _SOURCE.unlink(missing_ok=True)
    mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if mkfs is None:
        raise Failure("mkfs.ext4 is missing: apt-get install e2fsprogs")
    done = subprocess.run(
        [mkfs, "-q", "-d", str(content), str(_SOURCE), "64M"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failure("mkfs.ext4 could not make the demo's image: " + done.stderr.strip())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _play(name: str, port: int, changes: bool) -> None:
    guest = linux_guest.build()
    variables = {
        "demo_folder": str(_FOLDER),
        "demo_source": str(_SOURCE),
        "demo_kernel": str(guest.kernel),
        "demo_initrd": str(guest.initrd),
        "demo_port": port,
    }
    play(name, _INVENTORY, variables, changes)


def _processes() -> dict[int, list[str]]:
    """The QEMU processes that have the demo's folder on their command line, as the kernel tells."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, NotADirectoryError):
            continue
        if "qemu-system" in argv[0] and any(str(_FOLDER) in argument for argument in argv):
            found[int(entry.name)] = argv
    return found


def _show() -> None:
    for pid in _processes():
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        print(f"process {pid}: {status['Name'].strip()}, {int(status['VmRSS'].split()[0]) // 1024} MiB resident")
    for console in sorted(_RUN.glob("*/console.log")):
        print(f"{console.parent.name} says on its console:")
        print("".join(f"    {line}\n" for line in console.read_text(errors="replace").splitlines()), end="")
    for image in sorted(_FOLDER.rglob("*.qcow2")):
        # --force-share: the machine is running on it
        command = ["qemu-img", "info", "--force-share", "--output=json", str(image)]
        info = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        size_kib, used_kib = (info[key] // 1024 for key in ("virtual-size", "actual-size"))
        print(f"{image.relative_to(ROOT)}: {info['format']}, {size_kib // 1024} MiB, of which {used_kib} KiB are used")


def _prove_gone() -> None:
    if running := _processes():
        raise Failure(f"still running: {', '.join(map(str, running))}")
    left = [str(path.relative_to(ROOT)) for folder in (_FOLDER, _RUN) for path in folder.rglob("*")]
    if left:
        raise Failure(f"left: {', '.join(left)}")
    folders = " and ".join(str(folder.relative_to(ROOT)) for folder in (_FOLDER, _RUN))
    print(f"no QEMU process of it is running, and {folders} are empty", flush=True)


if __name__ == "__main__":
    sys.exit(main())
