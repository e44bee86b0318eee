# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of the tests: what each one runs, with what."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import COLLECTIONS
from tests.tools import environments
from tests.tools.environments import Environment
from tests.tools.paths import ROOT, STATE
from tests.tools.runner import Command, Stage

_TORTURE_SECONDS = 300
"""The tests' share of the faults at every system call; make torture tries them all."""

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


def unit() -> list[Stage]:
    """The unit tests with every core, and on the oldest Python of a managed host where one is at hand."""
    stages = [
        _pytest(f"unit-{environment.name}", f"unit, {environment.label}", environment, ["tests/unit"])
        for environment in dict.fromkeys([environments.main(), environments.newest(), environments.oldest()])
    ]
    python39 = environments.python39()
    if python39:
        lent = {"PYTHONPATH": str(environments.lent_core())}
        # what needs the controller's side of a core can't run there
        chosen = ["-m", "not controller", "tests/unit"]
        stages.append(_pytest("unit-python39", f"unit, {python39.label}", python39, chosen, lent))
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


def integration() -> list[Stage]:
    """The modules against real QEMU, in real plays, with the newest core and the oldest; images apart from guests, as
    each half takes as long as all else.
    """
    folder = "tests/integration"
    images = ["test_qemu_img*.py", "test_nocloud_seed.py"]
    halves = {
        "guests": [f"--ignore-glob={folder}/{name}" for name in images] + [folder],
        "images": [str(path.relative_to(ROOT)) for name in images for path in sorted((ROOT / folder).glob(name))],
    }
    return [
        _pytest(
            f"integration-{half}-{environment.name}",
            f"integration, {half}, {environment.label}",
            environment,
            arguments,
        )
        for half, arguments in halves.items()
        for environment in (environments.newest(), environments.oldest())
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
    return [_pytest("torture", "torture", environments.main(), ["tests/torture"], seconds)]


def everything() -> list[Stage]:
    """All of the above: the quick answers first, then the longest, so that none of them is left to run alone."""
    return [*lint(), *unit(), *integration(), *torture(), *sanity(), *molecule()]


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
    environ: Mapping[str, str] | None = None,
) -> Stage:
    stage = Stage(name, title, [])
    command = [environment.bin("python"), "-m", "pytest", f"--junitxml={stage.report}", *arguments]
    return stage._replace(commands=[Command(command, environ or {})])
