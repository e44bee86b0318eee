# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task with nothing to do: qemu_img beside ansible.builtin.stat on the same file, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.testbed.module_main import ROOT

from .guests import timed
from .report import Figure

TITLE = "Tasks with nothing to do"
PAIRS = 50
NO_OPS = 30
CORES = ("oldest", "newest")

# Runs in the Python of each core: the plays go through the ansible-playbook beside it.
_PLAY = """
import json, sys
sys.path.insert(0, %(root)r)
import tests.conftest
from pathlib import Path
from tests.testbed.playbooks import run_tasks
play = run_tasks(Path(sys.argv[1]), json.load(sys.stdin))
if play.rc:
    sys.exit(play.text)
print(json.dumps(play.seconds))
"""


def measure() -> list[Figure]:
    """From main() on, and the whole task as the controller sees it, on every core whose environment is there."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = _seeded(Path(folder))
        mains = [timed("qemu_img", arguments).main_s * 1000 for _run in range(NO_OPS)]
        note = "median of %d, imports excluded" % NO_OPS
        figures = [Figure("qemu_img, from main() on", statistics.median(mains), "ms", limit=25, note=note)]
        for core in CORES:
            figures += _beside_stat(core, Path(folder), arguments)
        return figures


def _seeded(folder: Path) -> dict[str, str]:
    """A seeded image, so that the record, the source and the size are all looked at."""
    source = folder / "source.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", source, "8M"], check=True)
    arguments = {"path": str(folder / "image.qcow2"), "source": str(source), "size": "10M"}
    if not timed("qemu_img", arguments).result["changed"]:
        raise RuntimeError("the image was not made")
    return arguments


def _beside_stat(core: str, folder: Path, arguments: dict[str, str]) -> list[Figure]:
    python = ROOT / ".testbed" / "venvs" / core / "bin" / "python"
    if not python.exists():
        raise RuntimeError("%s is not there: run make venv first" % python)
    stat = {"name": "stat", "ansible.builtin.stat": {"path": arguments["path"], "get_checksum": False}}
    image = {"name": "qemu_img", "vmops.lifecycle.qemu_img": arguments}
    code = _PLAY % {"root": str(ROOT)}
    tasks = [stat, image] * (PAIRS + 1)  # the first pair packs the modules
    done = subprocess.run(
        [str(python), "-c", code, str(folder)], input=json.dumps(tasks), capture_output=True, text=True, check=True
    )
    seconds: dict[str, list[float]] = {"stat": [], "qemu_img": []}
    for name, spent in json.loads(done.stdout.splitlines()[-1])[2:]:
        seconds[name].append(spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    version = subprocess.run(
        [str(python), "-c", "import ansible.release; print(ansible.release.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    note = "%.0f ms beside %.0f ms, medians of %d" % (medians["qemu_img"] * 1000, medians["stat"] * 1000, PAIRS)
    ratio = medians["qemu_img"] / medians["stat"]
    return [Figure("whole task / stat, core %s" % version, ratio, "x", limit=1.25, note=note)]
