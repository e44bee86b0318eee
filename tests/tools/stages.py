# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of the tests: what each one runs, with what."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from tests import share
from tests.conftest import COLLECTIONS
from tests.tools import environments
from tests.tools.environments import Environment
from tests.tools.paths import ROOT, STATE
from tests.tools.runner import Command, Stage

_TORTURE_SECONDS = 300
"""The tests' share of the faults at every system call; make torture tries them all."""

_ONE_OF = 4
"""How many tests there are for each one of a share."""

_MODULE_UTILS = "ansible_collections.vmops.lifecycle.plugins.module_utils"


def lint() -> list[Stage]:
    """Style, types, and whether the reference fits the modules."""
    main = environments.main()
    python = main.bin("python")
    return [
        Stage(
            "lint",
            "lint",
            [
                Command([main.bin("ruff"), "format", "--check", "."]),
                Command([main.bin("ruff"), "check", "--output-format", "concise", "."]),
                Command([main.bin("yamllint"), "--strict", "."]),
                Command([main.bin("ansible-lint"), "--offline", "--profile", "production", "--strict"], _ansible(main)),
            ],
        ),
        Stage(
            "types",
            "types",
            [
                Command([main.bin("mypy"), "-p", _MODULE_UTILS], {"MYPYPATH": str(COLLECTIONS)}),
                Command([main.bin("mypy"), "-p", "tests.tools"]),
            ],
        ),
        Stage(
            "docs",
            "docs",
            [
                Command([python, "-m", "tests.tools.reference", "--check"]),
                Command([main.bin("antsibull-docs"), "lint-collection-docs", "--plugin-docs", "."], _ansible(main)),
                Command([main.bin("antsibull-changelog"), "lint"]),
            ],
        ),
    ]


def unit(one_of: int = 1) -> list[Stage]:
    """The unit tests with every core, and on the oldest Python of a managed host where one is at hand.

    `one_of` is for those between: all of them are run with the newest core, and with the oldest core's code on the
    oldest Python.
    """
    python39 = environments.python39()
    whole = [environments.newest(), *([] if python39 else [environments.oldest()])]
    stages = [
        _pytest(f"unit-{environment.name}", "unit", environment, ["tests/unit"], 1 if environment in whole else one_of)
        for environment in dict.fromkeys([environments.newest(), environments.main(), environments.oldest()])
    ]
    if python39:
        lent = {"PYTHONPATH": str(environments.lent_core())}
        # what needs the controller's side of a core can't run there
        chosen = ["-m", "not controller", "tests/unit"]
        stages.insert(1, _pytest("unit-python39", "unit", python39, chosen, environ=lent))
    return stages


def sanity() -> list[Stage]:
    """ansible-test's own checks with the oldest core and the newest."""
    return [
        Stage(
            f"sanity-{environment.name}",
            f"sanity, {environment.label}",
            # by the Python that runs this: which environments there are depends on it
            [Command([sys.executable, "-m", "tests.tools.sanity", environment.name])],
        )
        for environment in (environments.newest(), environments.oldest())
    ]


def integration(one_of: int = 1) -> list[Stage]:
    """The modules against real programs and servers, in real plays, with the newest core and the oldest; in groups that
    take about as long as each other: each file is in the first that it fits.

    `one_of` is for the oldest core.
    """
    folder = ROOT / "tests" / "integration"
    groups = {
        "roles": ["test_*_role.py", "test_readme.py"],
        "faults of imports": [f"test_ovf_import_{what}.py" for what in ("endings", "faults", "stops", "tasks")],
        "packages": ["test_ovf_*.py", "test_vcenter_*.py"],
        "images": ["test_qemu_img*.py", "test_nocloud_seed.py"],
        "guests": ["test_*.py"],
    }
    chosen: dict[str, list[str]] = {}
    left = {path.name: str(path.relative_to(ROOT)) for path in sorted(folder.glob("test_*.py"))}
    for group, patterns in groups.items():
        names = [name for name in left if any(fnmatch(name, pattern) for pattern in patterns)]
        chosen[group] = [left.pop(name) for name in names]
    runs = [
        (environment, share_of, group)
        for environment, share_of in ((environments.newest(), 1), (environments.oldest(), one_of))
        for group in chosen
    ]
    # all of the roles is plays, so no share of them is small
    runs.sort(key=lambda run: (run[2] != "roles", run[1]))
    return [
        _pytest(
            f"integration-{group.replace(' ', '-')}-{environment.name}",
            f"integration, {group}",
            environment,
            chosen[group],
            1 if group == "roles" else share_of,
        )
        for environment, share_of, group in runs
    ]


def molecule() -> list[Stage]:
    """The roles, by Molecule."""
    main = environments.main()
    # in the root of the collection: only there molecule reads extensions/molecule/config.yml
    command = Command([main.bin("molecule"), "test", "--all"], _ansible(main), ROOT)
    return [Stage("molecule", "molecule", [command])]


def torture() -> list[Stage]:
    """As many of the faults at every system call, evenly spread, as fit the time."""
    seconds = {"VMOPS_TORTURE_SECONDS": str(_TORTURE_SECONDS)}
    return [_pytest("torture", "torture", environments.main(), ["tests/torture"], environ=seconds)]


def everything() -> list[Stage]:
    """Every test, and a share of them again with each further core: the quick answers first, then the longest, so that
    none of them is left to run alone.
    """
    return _all(_ONE_OF)


def everything_with_every_core() -> list[Stage]:
    """Every test with every core."""
    return _all(1)


def _all(one_of: int) -> list[Stage]:
    return [*lint(), *integration(one_of), *torture(), *molecule(), *unit(one_of), *sanity()]


def _ansible(environment: Environment) -> Mapping[str, str]:
    """Makes Ansible's commands find each other and this collection, whatever the user's own settings are."""
    return {
        "PATH": os.pathsep.join([str(Path(environment.bin("python")).parent), os.environ["PATH"]]),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_HOME": str(STATE / "ansible-home"),
    }


def _pytest(
    name: str,
    title: str,
    environment: Environment,
    arguments: Sequence[str],
    one_of: int = 1,
    environ: Mapping[str, str] | None = None,
) -> Stage:
    """With `one_of` above 1 it is a share of the tests (see tests/share.py), and its title says so."""
    which = f" (1 of {one_of}, and all plays)" if one_of > 1 else ""
    stage = Stage(name, f"{title}, {environment.label}{which}", [])
    command = [environment.bin("python"), "-m", "pytest", f"--junitxml={stage.report}", *arguments]
    return stage._replace(commands=[Command(command, {share.VARIABLE: str(one_of), **(environ or {})})])
