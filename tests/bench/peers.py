# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections of others to measure against, fetched once: those of the PyPI package ansible."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.testbed.module_main import ROOT

_BUNDLE = "ansible==14.5.0"
_COLLECTIONS = ("community/vmware", "vmware/vmware")
_REQUESTS = "requests==2.34.2"  # what community.vmware needs besides pyvmomi


def community_vmware() -> Path:
    """A folder for PYTHONPATH with community.vmware and what it needs."""
    target = ROOT / ".testbed" / "peers" / _BUNDLE
    if target.is_dir():
        return target
    print("fetching %s (50 MB), for community.vmware" % _BUNDLE, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        out = Path(scratch) / "out"
        # a wheel for a newer Python than this may be: its collections run on this one's ansible-core
        _pip("download", "--no-deps", "--only-binary=:all:", "--python-version=3.13", "--dest", scratch, _BUNDLE)
        [wheel] = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            prefixes = tuple("ansible_collections/%s/" % name for name in _COLLECTIONS)
            archive.extractall(out, [name for name in archive.namelist() if name.startswith(prefixes)])
        _pip("install", "--target", str(out), _REQUESTS)
        out.rename(target)
    return target


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)
