# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments, made once for their requirements and their Python."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.tools import pythons
from tests.tools.failure import Failure
from tests.tools.paths import LOGS, REQUIREMENTS, ROOT, STATE
from tests.tools.pythons import Python


class Environment(NamedTuple):
    """A virtual environment: the Python it is made with, what is in it, and where it is."""

    name: str
    python: Python | None
    folder: Path
    wants: str = ""

    @property
    def requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"

    @property
    def label(self) -> str:
        """For people: the core that is really in it, and its Python."""
        cores = [found.name.split("-")[1] for found in self.folder.glob("lib/*/site-packages/ansible_core-*.dist-info")]
        python = f"Python {self.python.label}" if self.python else "no Python"
        return ", ".join([*(f"core {version.removesuffix('.dist')}" for version in cores), python])

    def bin(self, command: str) -> str:
        """The full name of a command in it."""
        return str(self.folder / "bin" / command)


def main() -> Environment:
    """The developer's: the newest core for Python 3.11, and all tools."""
    return Environment("dev", pythons.running(), ROOT / ".venv")


def oldest() -> Environment:
    """The oldest supported core."""
    python = pythons.find(*pythons.OLDEST_CORE_RANGE)
    return Environment("oldest", python, STATE / "venvs" / "oldest", "Python 3.10, 3.11 or 3.12")


def newest() -> Environment:
    """The newest core, where a Python at hand is new enough for it; else the developer's."""
    python = pythons.find(*pythons.NEWEST_CORE_RANGE)
    return Environment("newest", python, STATE / "venvs" / "newest") if python else main()


def python39() -> Environment | None:
    """The oldest Python of a managed host, where one is at hand."""
    python = pythons.find((3, 9))
    return Environment("python39", python, STATE / "venvs" / "python39") if python else None


def lent_core() -> Path:
    """A folder for PYTHONPATH that lends the oldest core's ansible.module_utils to Python 3.9."""
    return STATE / "lent-core"


def ensure(environments: Iterable[Environment]) -> None:
    """Makes those that are missing or made from other inputs, two at a time; quick where nothing is to do."""
    stale = [environment for environment in dict.fromkeys(environments) if not _is_current(environment)]
    if not stale:
        return
    with _alone():
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(_make, [environment for environment in stale if not _is_current(environment)]))
        _lend_core()


def _is_current(environment: Environment) -> bool:
    stamp = environment.folder / ".made-from"
    return stamp.is_file() and stamp.read_text() == _digest(environment)


def _digest(environment: Environment) -> str:
    """Of all that decides what the environment is: its Python and the requirements."""
    digest = hashlib.sha256(str(environment.folder).encode())
    digest.update(str(environment.python and environment.python.path).encode())
    for requirements in (environment.requirements, REQUIREMENTS / "constraints.txt"):
        digest.update(requirements.read_bytes())
    return digest.hexdigest()


def _make(environment: Environment) -> None:
    if environment.python is None:
        raise Failure(f"{environment.wants} is needed for {environment.requirements.name}, and none is at hand")
    where = os.path.relpath(environment.folder, ROOT)
    print(f"making {where} with Python {environment.python.label} (up to a minute)", flush=True)
    shutil.rmtree(environment.folder, ignore_errors=True)
    log = LOGS / f"venv-{environment.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        for command in (
            [str(environment.python.path), "-m", "venv", str(environment.folder)],
            [environment.bin("python"), "-m", "pip", "install", "-r", str(environment.requirements)],
        ):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
            if done.returncode:
                sys.stderr.write(log.read_text()[-2000:])
                raise Failure(f"could not make {where}: {' '.join(command)} answered {done.returncode} (all in {log})")
    (environment.folder / ".made-from").write_text(_digest(environment))


def _lend_core() -> None:
    # only the package ansible: the whole site-packages would bring a pytest that Python 3.9 can't read
    for package in (oldest().folder / "lib").glob("python*/site-packages/ansible"):
        link = lent_core() / "ansible"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(package)


@contextmanager
def _alone() -> Iterator[None]:
    """Keeps a second make from making the same at the same time; the lock goes with the process."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
