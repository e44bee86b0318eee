# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's network of its own, in which a test may make bridges and taps: root, or sudo, is needed to make one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .others_guest import AS_ANYBODY

HOST, GUEST = "10.0.2.2", "10.0.2.15"  # the second one is what the tests' Linux guest gives itself

TAP = f"""
ip tuntap add dev vmops-tap mode tap
ip address add {HOST}/24 dev vmops-tap
ip link set vmops-tap up
"""

# QEMU's helper takes a bridge that /etc/qemu/bridge.conf allows; the host's own /etc stays as it is.
BRIDGE = f"""
ip link add vmops-br type bridge
ip address add {HOST}/24 dev vmops-br
ip link set vmops-br up
mount -t tmpfs none "$1"
cp -a /etc/. "$1"
mkdir -p "$1"/qemu
echo allow vmops-br > "$1"/qemu/bridge.conf
mount --bind "$1" /etc
"""


class HostNetwork:
    """A network namespace, and a Python in it."""

    def __init__(self, folder: Path, keeper: int, kinds: Sequence[str]) -> None:
        self._enter = [*(AS_ANYBODY or []), "nsenter", f"--target={keeper}", *kinds, "--"]
        self.python = str(folder / "python-in-network")
        Path(self.python).write_text(f'#!/bin/sh\nexec {" ".join(self._enter)} {sys.executable} "$@"\n')
        Path(self.python).chmod(0o700)

    def run(self, *words: str) -> str:
        """A program there; its standard output."""
        done = subprocess.run([*self._enter, *words], check=True, capture_output=True, text=True, timeout=60)
        return done.stdout


def kinds_for(script: str) -> list[str]:
    """The namespaces that it needs: what is mounted must not be seen by the host."""
    return ["--net", "--mount"] if "mount " in script else ["--net"]


def can_be_made(script: str) -> bool:
    """Whether this user can have these namespaces here: in a chroot, say, there are none for mounts."""
    words = [*(AS_ANYBODY or []), "unshare", *kinds_for(script), "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@contextmanager
def host_network(folder: Path, script: str) -> Iterator[HostNetwork]:
    """Make one by a shell script of `ip` commands. It is gone with the block, and so must be all that runs in it."""
    etc = folder / "etc"
    etc.mkdir()
    as_anybody, kinds = AS_ANYBODY or [], kinds_for(script)
    words = [*as_anybody, "unshare", *kinds, "sh", "-ec", script + "echo $$; read ended", "sh", str(etc)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        try:
            said = keeper.stdout.readline()
            assert said.strip().isdigit(), "no network could be made"
            yield HostNetwork(folder, int(said), kinds)
        finally:
            keeper.communicate()
            # what root made there is the user's again, who removes it
            owner = f"{os.getuid()}:{os.getgid()}"
            subprocess.run([*as_anybody, "chown", "--recursive", owner, str(folder)], check=True)
