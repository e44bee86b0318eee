# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-test sanity for one core, on a copy of the tree: it wants real folders named like the collection."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools import environments, pythons
from tests.tools.environments import Environment
from tests.tools.paths import ROOT, STATE

_BOOTSTRAP = "import ensurepip; ensurepip.bootstrap(upgrade=True, default_pip=True)\n"
"""Stands in for the script that ansible-test would download to get pip: Python brings one along."""


def main(name: str) -> int:
    """Runs it with the named environment's core; answers its exit code."""
    known = {environment.name: environment for environment in (environments.newest(), environments.oldest())}
    environment = known[name]
    work = STATE / "sanity" / name
    tree = work / "ansible_collections" / "vmops" / "lifecycle"
    _copy_tree(tree)
    home = work / "home"
    # a home of its own: nothing is left in the user's, and nothing but the settings of pip counts
    _seed_pip(environment, home / ".ansible" / "test" / "cache")
    _keep_pip_settings(home / ".config" / "pip" / "pip.conf")
    environ = {**os.environ, "HOME": str(home), "PATH": _path(environment, work / "bin")}
    command = [environment.bin("ansible-test"), "sanity", "--venv", "--color", "no"]
    return subprocess.run(command, cwd=tree, env=environ, stdin=subprocess.DEVNULL, check=False).returncode


def _copy_tree(tree: Path) -> None:
    """What git has or would take, as it is in the work tree."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    shutil.rmtree(tree, ignore_errors=True)
    for name in filter(None, names):
        if os.path.lexists(ROOT / name):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    # else it asks the repository around it, which ignores the copy: all would be skipped, and the answer be yes
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)


def _path(environment: Environment, folder: Path) -> str:
    """A PATH with the two Pythons to check for, the oldest of a managed host and this core's own, and no shims."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for python in filter(None, [pythons.find((3, 9)), environment.python]):
        (folder / f"python{python.label}").symlink_to(python.path)
    return os.pathsep.join([str(folder), *(found for found in os.get_exec_path() if Path(found).name != "shims")])


def _seed_pip(environment: Environment, cache: Path) -> None:
    """Puts the stand-in where this core's ansible-test looks for its script, whose name holds a release of pip."""
    cache.mkdir(parents=True, exist_ok=True)
    for source in environment.folder.glob("lib/python3*/site-packages/ansible_test/_internal/python_requirements.py"):
        for release in re.findall(r"\bpip='([0-9.]+)'", source.read_text()):
            (cache / f"get_pip_{release.replace('.', '_')}.py").write_text(_BOOTSTRAP)


def _keep_pip_settings(file: Path) -> None:
    """Carries over what the user told pip, by file or environment: ansible-test passes on neither."""
    settings = configparser.RawConfigParser()
    settings.read([Path.home() / ".pip" / "pip.conf", Path.home() / ".config" / "pip" / "pip.conf"])
    told = {name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name.startswith("PIP_")}
    told["quiet"] = "1"  # its progress would hide what the checks say
    settings.read_dict({"global": told})
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as output:
        settings.write(output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
