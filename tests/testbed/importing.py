# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An import into a stand-in for a vCenter server, and what it leaves there, looked at by others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .faults import until
from .module_main import ROOT
from .modules import Result, finish, run_module, start_module
from .ovf_packages import Spec, make_package
from .vcenter import NEWEST, Vcenter, vcenter

NAME = "web1"
PATH = f"/DC0/vm/{NAME}"

ENDING_S = 90.0
"""What may come on top of a task's own time before all that it began has ended (_vsphere/guard.py: GRACE_S, ENDING_S,
LAST_S).
"""


class Importing:
    """A server, a package, and the task that imports one into the other. ``temporary`` is where that leaves logs."""

    def __init__(self, server: Vcenter, package: Path, temporary: Path) -> None:
        self.server = server
        self.package = package
        self.temporary = temporary

    def options(self, **given: Any) -> dict[str, Any]:
        """A task's options that lead to a machine called web1."""
        return {
            **self.server.options,
            "ca_path": str(self.server.cafile),
            "source": str(self.package),
            "name": NAME,
            "cluster": "DC0_C0",
            "datastore": "LocalDS_0",
            "timeout": 120,
            **given,
        }

    def run(self, check: bool = False, **given: Any) -> Result:
        return run_module("ovf_import", self.options(**given), check=check, diff=True, env=self._environ)

    def start(self, **given: Any) -> subprocess.Popen[bytes]:
        """Begin it; `finish` waits for it."""
        return start_module("ovf_import", self.options(**given), env=self._environ)

    @property
    def _environ(self) -> dict[str, str]:
        return {"TMPDIR": str(self.temporary)}

    def held_at(self, method: str, **given: Any) -> tuple[subprocess.Popen[bytes], int]:
        """A task that waits for the server's answer to this call, which was not performed yet, and the rule."""
        rule = self.server.rule(method, "hold")
        process = self.start(**given)
        self.server.wait_held(rule)
        return process, rule

    def await_uploads(self, many: int = 1) -> None:
        """Until something has come of so many files."""
        until(lambda: sum(bool(upload["bytes"]) for upload in self.server.uploads) >= many, "uploads to begin")

    def killed_before_its_mark(self) -> None:
        """Leaves a whole machine whose mark says that it is being imported: task and guard were killed then."""
        rule = self.server.rule("ReconfigVM_Task", "hold_drop")
        process = self.start()
        self.server.wait_held(rule)
        end_both(process)
        self.server.release(rule)

    def machines(self) -> list[str]:
        return [path for path in self.server.machines() if Path(path).name.startswith(NAME)]

    def assert_nothing_left(self) -> None:
        """No lease, no login, and no machine: at once, for nobody is there any more who could end them."""
        assert self.server.live_leases == []
        assert self.server.sessions == []
        assert self.machines() == []

    def await_nothing_left(self) -> None:
        """The same, where it is the guard that ends them, or the server: soon."""
        until(
            lambda: not self.server.live_leases and not self.server.sessions and not self.machines(),
            "what was begun to be ended",
        )
        self.assert_nothing_left()

    def assert_imported(self) -> None:
        """The machine is there and whole; nothing else is left."""
        assert self.server.live_leases == []
        assert self.server.sessions == []
        assert self.machines() == [PATH]
        assert self.stamp()["vmops.ovf.state"] == "complete"

    def stamp(self) -> dict[str, str]:
        """What the machine bears of its import, as govc reads it."""
        machine = self.server.govc_json("vm.info", "-e", PATH)["virtualMachines"][0]
        extra = machine["config"]["extraConfig"]
        return {item["key"]: item["value"] for item in extra if item["key"].startswith("vmops.")}


def run_after(bench: Importing, words: str, **options: object) -> Result:
    """The module in a process that has done this before."""
    script = "import os, signal, sys\nfrom tests.testbed import module_main\n%s\nmodule_main.run('ovf_import')" % words
    given = json.dumps({**bench.options(**options), "_ansible_remote_tmp": "/tmp"})
    done = subprocess.run(
        [sys.executable, "-c", script], input=given.encode(), capture_output=True, cwd=ROOT, check=False
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    line = next(line for line in done.stdout.decode().splitlines() if line.startswith("{"))
    return Result(done.returncode, json.loads(line), done.stderr.decode())


def guards_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that a module has forked."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def end_hard(process: subprocess.Popen[bytes]) -> None:
    """The module alone, as by the kernel that is out of memory."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def end_both(process: subprocess.Popen[bytes]) -> None:
    """The module and its guard at once: neither sees the other's end."""
    os.kill(process.pid, signal.SIGSTOP)
    for guard in guards_of(process):
        os.kill(guard, signal.SIGKILL)
    end_hard(process)


@contextmanager
def importing(folder: Path, spec: Spec | None = None, version: str = NEWEST, **model: int | str) -> Iterator[Importing]:
    """A server and a package of its own for a test."""
    packages = folder / "package"
    temporary = folder / "tmp"
    for made in (packages, temporary):
        made.mkdir()
    with vcenter(folder, version, **model) as server:
        yield Importing(server, make_package(packages, spec or Spec()), temporary)


__all__ = [
    "ENDING_S",
    "NAME",
    "PATH",
    "Importing",
    "end_both",
    "end_hard",
    "finish",
    "guards_of",
    "importing",
    "run_after",
]
