# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules as forks of the test's own process, and what they tell."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from tests.testbed import module_main
from tests.testbed.syscalls import Run

_DOMAIN = "ansible_collections.vmops.lifecycle.plugins.module_utils."


def warm_main(name: str, *packages: str) -> Callable[[], object]:
    """The module's main(), with everything loaded that it may import on its way from these packages."""
    module = module_main.load(name)
    for package in packages:
        loaded = importlib.import_module(_DOMAIN + package)
        for found in pkgutil.iter_modules(loaded.__path__):
            importlib.import_module(f"{_DOMAIN}{package}.{found.name}")
    main: Callable[[], object] = module.main
    return main


def arguments_of(given: Mapping[str, Any]) -> bytes:
    """A task's options, as the module gets them."""
    hidden = {"_ansible_check_mode": False, "_ansible_diff": False, "_ansible_remote_tmp": "~/.ansible/tmp"}
    return json.dumps({"ANSIBLE_MODULE_ARGS": {**given, **hidden}}).encode()


def result_of(run: Run) -> dict[str, Any]:
    lines = [line for line in run.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    result: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return result


def told(run: Run) -> str:
    """How a run ended, for people."""
    said = result_of(run).get("msg") or run.stdout.decode(errors="replace")[-300:]
    return f"status {run.status}, {said}, {run.stderr.decode(errors='replace')[-2000:]}"
