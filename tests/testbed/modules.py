# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module of this collection as a process and reads its result, for tests that kill, starve or time it.

For the way through Ansible itself see `playbooks.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.common import parameters

from .forked import Fork
from .module_main import ROOT

MAIN = str(ROOT / "tests" / "testbed" / "module_main.py")


class Result(NamedTuple):
    """How a module ended: its exit code, its JSON (empty when it was killed) and what it wrote to standard error."""

    rc: int
    json: dict[str, Any]
    stderr: str

    @property
    def changed(self) -> bool:
        return bool(self.json["changed"])

    @property
    def failed(self) -> bool:
        return bool(self.json.get("failed"))

    @property
    def msg(self) -> str:
        return str(self.json["msg"])


def start_module(
    name: str,
    arguments: Mapping[str, Any],
    check: bool = False,
    diff: bool = False,
    env: Mapping[str, str] | None = None,
    python: str | None = None,
    cwd: str | Path | None = None,
    umask: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a module; `finish` waits for it. It leads a session of its own, so that a test can kill its whole tree.

    With a `python` it is that one that starts, else the module is a fork (see `forked.py`).
    """
    given = dict(arguments, _ansible_check_mode=check, _ansible_diff=diff, _ansible_remote_tmp="~/.ansible/tmp")
    if "inject_invocation" in parameters.PASS_VARS:  # the older cores always put it into the result
        given["_ansible_inject_invocation"] = True
    environ = {**os.environ, **(env or {})}
    process = Fork(name, environ, cwd, umask) if python is None else _interpreter(python, name, environ)
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    process.stdin = None
    return process


def _interpreter(python: str, name: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    words = [python, MAIN, name]
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=environ, start_new_session=True)


def finish(process: subprocess.Popen[bytes], timeout_s: float = 600) -> Result:
    """Wait for a started module and read its result."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    text = out.decode()
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return Result(process.returncode, json.loads(lines[-1]) if lines else {}, err.decode())


def run_module(name: str, arguments: Mapping[str, Any], timeout_s: float = 600, **given: Any) -> Result:
    """Run a module to its end, started as by `start_module`. A traceback on standard error is never right, so it fails
    the test here.
    """
    result = finish(start_module(name, arguments, **given), timeout_s)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.json, "no result: rc %d, stderr %s" % (result.rc, result.stderr)
    return result


# main() leaves by SystemExit; what it printed goes before what is told.
_TELL = """
import json, sys
from tests.testbed import module_main
try:
    module_main.run(sys.argv[1])
except SystemExit:
    pass
print(json.dumps(%s))
"""
_IMPORTED = "list(sys.modules)"
# What a process inherits counts as its parent's in the rusage of a child, so it reads its own at its end.
_MEMORY = """[
    next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")),
    (lambda found: found.getrusage(found.RUSAGE_CHILDREN).ru_maxrss)(__import__("resource")),
]"""


class Memory(NamedTuple):
    """Resident memory at most, in KiB: of a module, and of the largest child that it has waited for."""

    own: int
    of_children: int


def imported_by(name: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A module's result, and all that its process had imported by its end."""
    return _told_at_end(name, arguments, _IMPORTED)


def memory_of(name: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Memory]:
    """A module's result, and the memory that a process of its own took for it."""
    result, memory = _told_at_end(name, arguments, _MEMORY)
    return result, Memory(*memory)


def _told_at_end(name: str, arguments: Mapping[str, Any], tell: str) -> tuple[dict[str, Any], Any]:
    given = json.dumps({**arguments, "_ansible_remote_tmp": "/tmp"})
    words = [sys.executable, "-c", _TELL % tell, name]
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=True, cwd=ROOT)
    result, told = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    return result, told
