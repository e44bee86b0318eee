# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one module of this collection as a process of its own: `python module_main.py NAME < arguments.json`.

What AnsiballZ does on a target, without packing a zip: the arguments are put where AnsibleModule looks for them and
main() is called.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent


def set_arguments(arguments: bytes) -> None:
    """Give the arguments to the AnsibleModule that is made next, on every supported core."""
    from ansible.module_utils import basic

    basic._ANSIBLE_ARGS = arguments
    basic._ANSIBLE_PROFILE = "legacy"  # read by core 2.19 and later


def load(name: str) -> ModuleType:
    """The module's code, with all its imports done."""
    find_collection()
    return importlib.import_module("ansible_collections.vmops.lifecycle.plugins.modules." + name)


def find_collection() -> None:
    """Let Python import the collection of this checkout."""
    folder = str(ROOT / ".testbed" / "collections")
    if folder not in sys.path:
        sys.path.insert(0, folder)


def run(name: str) -> None:
    """Run a module with the arguments on standard input, to the end of this process."""
    module = load(name)
    set_arguments(json.dumps({"ANSIBLE_MODULE_ARGS": json.load(sys.stdin)}).encode())
    module.main()


if __name__ == "__main__":
    run(sys.argv[1])
