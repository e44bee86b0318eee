# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a source's content."""

from __future__ import annotations

import hashlib
import os

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput, TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.source import refuse_other_checksum
from tests.unit._qemu_img.builders import source

CONTENT = b"content" * 300_000  # more than one piece


@pytest.fixture
def descriptor(tmp_path):
    path = tmp_path / "seed"
    path.write_bytes(CONTENT)
    opened = os.open(str(path), os.O_RDONLY)
    yield opened
    os.close(opened)


def declared(content):
    return source(checksum="sha256:" + hashlib.sha256(content).hexdigest())


def test_the_whole_file_is_proved_wherever_it_was_read_last(descriptor):
    os.lseek(descriptor, 0, os.SEEK_END)
    refuse_other_checksum(declared(CONTENT), descriptor, Deadline(60))
    with pytest.raises(BadInput, match="checksum: "):
        refuse_other_checksum(declared(CONTENT[:-1]), descriptor, Deadline(60))


def test_the_proof_bows_to_the_deadline(descriptor):
    with pytest.raises(TimedOut, match="the checksum of"):
        refuse_other_checksum(declared(CONTENT), descriptor, Deadline(0))
