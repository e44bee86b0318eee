# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tests are run with every core, and which only in a share of them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.share import VARIABLE
from tests.tools.paths import ROOT

RUN_PLAYS = {"run_playbook", "run_tasks", "ansible_environment"}
MARK = "pytest.mark.every_core"

TESTS = """
import pytest

@pytest.mark.every_core
@pytest.mark.parametrize("number", range(3))
def test_marked(number): pass

@pytest.mark.parametrize("number", range(10))
def test_other(number): pass
"""


@pytest.mark.parametrize(("one_of", "passed"), [(None, 13), ("4", 3 + 3)])
def test_a_share_has_all_that_are_marked(tmp_path, one_of, passed):
    (tmp_path / "test_some.py").write_text(TESTS)
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if one_of is not None:
        environ[VARIABLE] = one_of
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", "-o", f"cache_dir={tmp_path}/cache", str(tmp_path)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout.splitlines()[-1]
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in told
    assert ("deselected" in told) == (passed < 13)


def unmarked_plays() -> Iterator[str]:
    """The tests that run plays without the mark, and helpers that do in files that don't bear it."""
    for path in sorted((ROOT / "tests" / "integration").glob("test_*.py")):
        text = path.read_text()
        if f"pytestmark = {MARK}" in text:
            continue
        for item in ast.parse(text).body:
            if isinstance(item, (ast.FunctionDef, ast.ClassDef)) and not marked(item) and RUN_PLAYS & set(names(item)):
                yield f"{path.name}: {item.name}"


def marked(item: ast.FunctionDef | ast.ClassDef) -> bool:
    return MARK in map(ast.unparse, item.decorator_list)


def names(item: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(item) if isinstance(node, ast.Name))


def test_whatever_runs_plays_is_marked():
    assert list(unmarked_plays()) == []
