# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's packages: which are missing, and how they come here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.tools.failure import Failure
from tests.tools.paths import LOGS

_TABLE = Path(__file__).with_name("debian.txt")
_LOG = LOGS / "apt-get.log"


class Package(NamedTuple):
    """``uses`` are parted by commas."""

    uses: str
    name: str
    command: str
    why: str


def ensure(uses: Iterable[str]) -> None:
    """Installs what is missing for these uses; says so first, and does nothing where all is there."""
    missing = [package for package in table() if {*package.uses.split(",")} & set(uses) and not _there(package.command)]
    if find_spec("ensurepip") is None:
        name = "python%d.%d-venv" % sys.version_info[:2]
        missing.append(Package("python", name, "", "makes virtual environments"))
    if missing:
        _install(missing)


def update(why: str) -> None:
    """Reads the lists of packages anew."""
    print(f"apt-get update: {why}", flush=True)
    if _apt_get("update"):
        raise Failure(f"apt-get update failed:\n{_its_words()}")


def table() -> list[Package]:
    """The committed list of packages."""
    rows = [line.split(maxsplit=3) for line in _TABLE.read_text().splitlines() if not line.startswith("#")]
    return [Package(*row) for row in rows]


def _there(command: str) -> bool:
    # an ordinary user's PATH on Debian lacks the folders of mkfs
    return shutil.which(command, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"])) is not None


def _install(packages: list[Package]) -> None:
    named = ", ".join(f"{package.name} ({package.why})" for package in packages)
    if shutil.which("apt-get") is None:
        raise Failure(f"missing here, and without apt-get they can't be installed for you: {named}")
    print(f"installing by apt-get: {named}", flush=True)
    install = ["install", "--no-install-recommends", *(package.name for package in packages)]
    # with fresh lists the first try spares the update; a machine that never had any is not asked
    if any(Path("/var/lib/apt/lists").glob("*_Packages*")) and _apt_get(*install) == 0:
        return
    update("there are no lists of packages, or old ones")
    if _apt_get(*install):
        raise Failure(f"apt-get could not install {' '.join(install[2:])}:\n{_its_words()}")


def _apt_get(*arguments: str) -> int:
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if as_root and shutil.which("sudo") is None:
        raise Failure(f"not root, and there is no sudo; as root run: apt-get {' '.join(arguments)}")
    # noninteractive goes behind sudo, which drops the environment
    command = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", *arguments]
    _LOG.parent.mkdir(parents=True, exist_ok=True)
    with _LOG.open("a") as output:
        # sudo asks for a password at the terminal itself
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode


def _its_words() -> str:
    lines = _LOG.read_text(errors="replace").splitlines()[-10:]
    return "\n".join([*lines, f"(all of it: {_LOG})"])
