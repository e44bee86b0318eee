# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demos share: steps that are said, and playbooks run in the open and held against what is expected."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.testbed.playbooks import ansible_environment
from tests.tools.failure import Failure
from tests.tools.paths import ROOT


class Recap(NamedTuple):
    """What a playbook says of itself at its end, over all hosts."""

    exit_code: int
    hosts: int
    changed: int
    failed: int


def say(text: str) -> None:
    """Announces a step."""
    print(f"\n=== {text}", flush=True)


def play(name: str, inventory: Path, variables: Mapping[str, object], changes: bool, *words: str) -> None:
    """Runs one of the collection's playbooks. Raises Failure where it fails, or changes what it should not."""
    with started(name, inventory, variables, *words) as process:
        recap = followed(process)
    if recap.exit_code or recap.failed or not recap.hosts:
        raise Failure(f"{name} failed (exit code {recap.exit_code}, {recap.hosts} machines)")
    if bool(recap.changed) != changes:
        raise Failure(
            f"{name} changed {recap.changed} things, and {'something' if changes else 'nothing'} was to change"
        )


def started(name: str, inventory: Path, variables: Mapping[str, object], *words: str) -> subprocess.Popen[str]:
    """A playbook that was begun; `followed` shows it."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), f"vmops.lifecycle.{name}"]
    command += ["--inventory", str(inventory), "--extra-vars", json.dumps(variables), *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=ansible_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


def followed(process: subprocess.Popen[str]) -> Recap:
    """Shows what it prints until it has ended."""
    changed = failed = hosts = 0
    for line in process.stdout or ():
        sys.stdout.write(line)
        sys.stdout.flush()
        recap = re.search(r"\bchanged=(\d+) +unreachable=(\d+) +failed=(\d+)", line)
        if recap:
            hosts += 1
            changed += int(recap[1])
            failed += int(recap[2]) + int(recap[3])
    return Recap(process.wait(), hosts, changed, failed)
