# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a call of make does; see make help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.conftest import link_collection
from tests.tools import debian, environments, gotools, runner, stages
from tests.tools.environments import Environment
from tests.tools.failure import Failure
from tests.tools.paths import ROOT
from tests.tools.runner import Stage

_BOTH_USES = ("machines", "tests")
"""Of Debian's packages: those for machines, and those that only tests need."""


_DEFAULT_PLATFORM = " PLATFORM=qemu"


class Target(NamedTuple):
    """One word behind make: what it does, what has to be there for it."""

    help: str
    run: Callable[[], int]
    uses: tuple[str, ...] = ()
    environments: Callable[[], list[Environment]] = lambda: [environments.main()]
    go: tuple[str, ...] = ()


def main(arguments: list[str]) -> int:
    """Answers the exit code; 2 where the call itself is wrong."""
    targets = _targets()
    target = targets.get(" ".join(arguments).removesuffix(_DEFAULT_PLATFORM))
    if target is None:
        print(f"one of these, please: {', '.join(targets)}", file=sys.stderr)
        return 2
    try:
        debian.ensure(target.uses)
        environments.ensure(target.environments())
        gotools.ensure(target.go)
        link_collection()
        if "machines" in target.uses:
            _make_guest()
        return target.run()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _make_guest() -> None:
    """The Linux guest comes out of Debian's packages, downloaded by the lists that this machine has, if it has any."""
    command = [environments.main().bin("python"), "-m", "tests.testbed.linux_guest"]

    def make() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    done = make()
    if done.returncode:
        debian.update("the packages of the tests' Linux guest were not found")
        done = make()
    if done.returncode:
        raise Failure(f"the tests' Linux guest could not be made: {done.stderr.strip()}")


def _targets() -> Mapping[str, Target]:
    return {
        "help": Target("tells of these", _help, environments=list),
        "demo": Target("provisions a real QEMU machine, shows it, and takes it away again", _demo, ("machines",)),
        "demo PLATFORM=vsphere": Target(
            "imports into a simulated vCenter, kills an import, and takes all away again (first builds the simulator)",
            _demo_vsphere,
            ("packages",),
            go=(gotools.SETS[0],),
        ),
        "test": Target(
            "runs every test, and a share of them again with each further core",
            _stages(stages.everything),
            _BOTH_USES,
            _all_environments,
            gotools.SETS,
        ),
        "test-all": Target(
            "runs every test with every core",
            _stages(stages.everything_with_every_core),
            _BOTH_USES,
            _all_environments,
            gotools.SETS,
        ),
        "lint": Target("checks style, types and the reference", _stages(stages.lint)),
        "unit": Target("runs the unit tests", _stages(stages.unit), (), _all_environments),
        "sanity": Target("runs ansible-test sanity", _stages(stages.sanity), (), _both_cores),
        "integration": Target(
            "runs the modules on real QEMU and a simulated vCenter",
            _stages(stages.integration),
            _BOTH_USES,
            _both_cores,
            gotools.SETS,
        ),
        "molecule": Target("runs the roles by Molecule", _stages(stages.molecule), _BOTH_USES, go=(gotools.SETS[0],)),
        "torture": Target("tries a fault at every single system call", _torture, ("machines",)),
        "bench": Target("measures speed and memory side by side with others", _bench, ("machines",)),
        "docs": Target("writes the reference anew from the modules' documentation", _docs),
        "venv": Target("makes the developer's environment, .venv", lambda: 0),
    }


def _help() -> int:
    for name, target in _targets().items():
        print(f"make {name:<22} {target.help}")
    return 0


def _stages(chosen: Callable[[], list[Stage]]) -> Callable[[], int]:
    return lambda: runner.run(chosen())


def _both_cores() -> list[Environment]:
    return [environments.main(), environments.newest(), environments.oldest()]


def _all_environments() -> list[Environment]:
    python39 = environments.python39()
    return _both_cores() + ([python39] if python39 else [])


def _demo() -> int:
    return _in_front("-m", "tests.tools.demo")


def _demo_vsphere() -> int:
    return _in_front("-m", "tests.tools.demo_vsphere")


def _docs() -> int:
    return _in_front("-m", "tests.tools.reference")


def _bench() -> int:
    return _in_front("-m", "tests.bench")


def _torture() -> int:
    return _in_front("-m", "pytest", "tests/torture", "-s", environ={"VMOPS_TORTURE": "all"})


def _in_front(*arguments: str, environ: Mapping[str, str] | None = None) -> int:
    """Runs a Python of the main environment with the terminal as its own."""
    command = [environments.main().bin("python"), *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(environ or {})}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
