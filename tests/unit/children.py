# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real processes for the unit tests: Python scripts that use this collection's code, and proof that one has ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.conftest import COLLECTIONS, ROOT

PATIENCE_S = 60.0  # far more than anything here takes; only a failing test waits so long
_CORE = "from ansible_collections.vmops.lifecycle.plugins.module_utils._core"


def environment(**additions: str) -> dict[str, str]:
    """This process's environment, in which Python finds the collection."""
    path = [str(COLLECTIONS), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **additions,
    }


def start(script: str, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
    """Start Python with a script; `_core` in an import line stands for the collection's."""
    code = textwrap.dedent(script).replace("from _core", _CORE)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pipes.update({"env": environment(), **popen})
    return subprocess.Popen([sys.executable, "-c", code, *arguments], text=True, **pipes)


@contextmanager
def running(script: str, *arguments: str, **popen: Any) -> Iterator[subprocess.Popen[str]]:
    """A script that has ended and is reaped after the block, with its pipes closed."""
    process = start(script, *arguments, **popen)
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


@contextmanager
def flocked(path: str | os.PathLike[str]) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds a lock (flock) on a file. It makes that if need be."""
    script = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(); input()"
    with running(script, os.fspath(path)) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield other


class Watched:
    """A process that is alive now, told from any later one of the same number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def ended(self, timeout_s: float = PATIENCE_S) -> bool:
        """Whether it has ended, or does within the time."""
        return bool(select.select([self._pidfd], [], [], timeout_s)[0])

    def close(self) -> None:
        os.close(self._pidfd)


NOBODY = 65534


def as_nobody(function: Callable[[], object]) -> str:
    """What a function answers, or raises, in a process of a user without any rights of his own; as text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, repr(function()).encode())
        except Exception as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text
