# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs real playbooks through the ansible-playbook beside this Python, and reads their results task by task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .module_main import ROOT

COLLECTIONS = ROOT / ".testbed" / "collections"


class Play(NamedTuple):
    """A playbook run: exit code, results by task name (of the last that bears it), the recap, and all text.

    ``seconds`` holds each task's name and duration as the controller sees it, in order.
    """

    rc: int
    tasks: dict[str, dict[str, Any]]
    stats: dict[str, dict[str, int]]
    text: str
    seconds: tuple[tuple[str, float], ...] = ()


def ansible_environment() -> dict[str, str]:
    """The environment for Ansible programs that use this checkout as the collection."""
    binaries = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": binaries + os.pathsep + os.environ.get("PATH", os.defpath),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "1",
    }


def run_playbook(playbook: Path, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 600) -> Play:
    """Run a playbook file. `tasks` holds the results of the last host that ran each task."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        reported = {
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "vmops_results",
            "VMOPS_RESULTS_FILE": str(results),
            "ANSIBLE_INJECT_INVOCATION": "true",  # what each module was given; the older cores always tell
        }
        done = subprocess.run(
            [program, str(playbook), *arguments],
            env={**ansible_environment(), **reported, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        text = done.stdout + done.stderr
        if not results.exists():
            return Play(done.returncode, {}, {}, text)
        data = json.loads(results.read_text())
    tasks = {task["name"]: task["result"] for task in data["tasks"]}
    seconds = tuple((task["name"], task["seconds"]) for task in data["tasks"])
    return Play(done.returncode, tasks, data["stats"], text, seconds)


def run_tasks(folder: Path, tasks: Sequence[Mapping[str, Any]], *arguments: str, **options: Any) -> Play:
    """Run the given tasks on localhost as a playbook of their own, written to `folder`."""
    playbook = folder / "playbook.yml"
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": list(tasks)}
    playbook.write_text(json.dumps([play]))  # JSON is YAML
    return run_playbook(playbook, *arguments, **options)
