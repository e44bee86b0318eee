# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Advice on what QEMU says when it refuses to start."""

from __future__ import annotations

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.launch import advice


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("-netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:22-:22'", "tcp:127.0.0.1:22"),
        ("Could not set up host forwarding rule 'udp::53-:53'", "udp::53"),
        ('Failed to get "write" lock\nIs another process using the image [/a]?', "Another process has that image"),
        ('Failed to get shared "write" lock', "Another process has that image"),
        ("Image is not in qcow2 format", "isn't qcow2"),
        ("Could not access KVM kernel module: Permission denied", "accel"),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "lower memory"),
        ("unsupported machine type", "-machine help"),
        ("unable to find CPU model 'x'", "-cpu help"),
        ("could not configure /dev/net/tun (tap0): Operation not permitted", "mode user"),
        ("Could not open '/a b': Permission denied", "read and write /a b"),
        ("something else", "Correct the option"),
    ],
)
def test_advice(said, part):
    assert part in advice(said)
