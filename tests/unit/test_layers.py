# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages know nothing of each other: what they share is in _core, which knows none of them. One may be built on
another, if that is said here, and that one knows nothing of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

UTILS = ROOT / "plugins" / "module_utils"
BUILT_ON = {"_vsphere": {"_ovf"}}
PACKAGES = sorted(folder.name for folder in UTILS.iterdir() if folder.is_dir() and folder.name != "__pycache__")


def imported(file: Path) -> Iterator[str]:
    """The words of the names of all that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from alias.name.split(".")


def test_the_packages_are_found():
    assert {"_core", "_nocloud_seed", "_ovf", "_qemu_guest", "_qemu_img"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_none_of_its_siblings(package):
    siblings = set(PACKAGES) - {package, "_core"} - BUILT_ON.get(package, set())
    files = sorted((UTILS / package).rglob("*.py"))
    assert files
    assert [(file.name, found) for file in files for found in imported(file) if found in siblings] == []


@pytest.mark.parametrize("file", sorted((ROOT / "plugins" / "modules").glob("*.py")), ids=lambda file: file.stem)
def test_a_module_is_built_on_one_package(file):
    packages = {found for found in imported(file) if found in PACKAGES} - {"_core"}
    beneath = {name for package in packages for name in BUILT_ON.get(package, ())}
    assert len(packages - beneath) == 1
