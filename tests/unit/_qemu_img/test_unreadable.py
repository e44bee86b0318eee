# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file below an image that this user may not read ends the look at the chain, and costs nothing else."""

from __future__ import annotations

import os
import subprocess
import tempfile

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.examine import leads_out
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.model import Format
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.report import Images
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.request import Request
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.tool import Node, QemuImg
from tests.unit.children import PATIENCE_S, as_nobody

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def request_for(path):
    """With its chain, and a map, which reads that too."""
    return Request((path,), None, True, False, True, None, {})


@pytest.fixture(name="overlay", params=["qcow2", "vmdk"])
def _overlay(request):
    """Over an image of the same format that is its owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        base, overlay = os.path.join(folder, "base"), os.path.join(folder, "overlay")
        for words in ((base, "1M"), ("-b", base, "-F", request.param, overlay)):
            subprocess.run(["qemu-img", "create", "-q", "-f", request.param, *words], check=True)
        node = Node(overlay, Format(request.param))
        # Loads what is imported late: another user can't where the interpreter lies in a home directory.
        Images(request_for(overlay), Deadline(PATIENCE_S)).observe()
        os.chmod(base, 0o600)
        yield node


def test_an_image_over_it_leads_nowhere_strange(overlay):
    qemu_img = QemuImg(Deadline(PATIENCE_S))
    assert as_nobody(lambda: leads_out(overlay.path, qemu_img.info(overlay), qemu_img)) == repr("")


def test_it_is_told_of_and_the_image_over_it_all_the_same(overlay):
    def look():
        (entry,) = Images(request_for(overlay.path), Deadline(PATIENCE_S)).observe()
        (below,) = entry["backing_chain"]
        return entry["virtual_size"], below["exists"], "can't be read: Permission denied" in below["error"]

    assert as_nobody(look) == repr((1 << 20, True, True))
