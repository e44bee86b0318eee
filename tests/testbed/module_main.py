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
    sys.path.insert(0, str(ROOT / ".testbed" / "collections"))
    return importlib.import_module("ansible_collections.vmops.lifecycle.plugins.modules." + name)


if __name__ == "__main__":
    module = load(sys.argv[1])
    set_arguments(json.dumps({"ANSIBLE_MODULE_ARGS": json.load(sys.stdin)}).encode())
    module.main()
