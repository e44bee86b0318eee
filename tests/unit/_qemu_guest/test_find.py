# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.find import (
    Claims,
    claims,
    is_qemu,
    suboptions,
)

CASES = [
    ("the short form", "-name web1", Claims("web1", None, None, None)),
    ("the long form", "-name guest=web1,debug-threads=on,process=x", Claims("web1", None, None, None)),
    ("no name in it", "-name debug-threads=on", Claims(None, None, None, None)),
    (
        "two dashes",
        "--uuid 6F1D2C0E-8A43-4A57-9A52-1F0F6F0A4C11",
        Claims(None, "6f1d2c0e-8a43-4a57-9a52-1f0f6f0a4c11", None, None),
    ),
    (
        "paths",
        "-pidfile /run/a.pid -qmp unix:/run/a.sock,server=on,wait=off",
        Claims(None, None, "/run/a.pid", "/run/a.sock"),
    ),
    ("relative paths are nobody's", "-pidfile a.pid -qmp unix:a.sock,server=on", Claims(None, None, None, None)),
    (
        "by chardev",
        "-chardev socket,id=m,path=/run/m.sock,server=on -mon chardev=m,mode=control",
        Claims(None, None, None, "/run/m.sock"),
    ),
    (
        "a human's monitor isn't ours",
        "-chardev socket,id=m,path=/run/m.sock -mon chardev=m",
        Claims(None, None, None, None),
    ),
    (
        "an agent's channel, as it is started here",
        (
            "-chardev socket,id=agent,server=on,wait=off,path=/run/ga.sock -device virtio-serial-pci "
            "-device virtserialport,chardev=agent,name=org.qemu.guest_agent.0"
        ),
        Claims(None, None, None, None, "/run/ga.sock"),
    ),
    (
        "an agent's channel in JSON, and named before its chardev",
        (
            '-device {"driver":"virtserialport","chardev":"c0","id":"channel0","name":"org.qemu.guest_agent.0","nr":1} '
            "-chardev socket,id=c0,path=/run/c0.sock,server=on -mon chardev=m,mode=control "
            "-chardev socket,path=/run/m.sock,id=m"
        ),
        Claims(None, None, None, "/run/m.sock", "/run/c0.sock"),
    ),
    (
        "another's channel, and one that was handed over open",
        (
            "-chardev socket,id=v,path=/run/v.sock -device virtserialport,chardev=v,name=com.redhat.spice.0 "
            "-chardev socket,id=c0,fd=31 -device virtserialport,chardev=c0,name=org.qemu.guest_agent.0"
        ),
        Claims(None, None, None, None, None),
    ),
    ("no JSON", "-device {org.qemu.guest_agent.0", Claims(None, None, None, None)),
    ("a monitor over TCP", "-qmp tcp:localhost:4444,server=on", Claims(None, None, None, None)),
]


@pytest.mark.parametrize(("line", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_a_command_line_claims(line, said):
    assert claims(["qemu-system-x86_64", *line.split()]) == said


def test_a_doubled_comma_is_one_comma():
    assert suboptions("a,,b,path=/x,,y", "first") == {"first": "a,b", "path": "/x,y"}


@pytest.mark.parametrize(
    ("argv", "is_one"),
    [
        (["/usr/bin/qemu-system-x86_64", "-m", "1"], True),
        (["/usr/libexec/qemu-kvm"], True),
        (["kvm"], True),
        (["qemu-img", "convert"], False),
        (["qemu-nbd"], False),
        (["vim", "qemu-system-x86_64"], False),
        ([], False),
    ],
)
def test_which_programs_are_emulators(argv, is_one):
    assert is_qemu(argv) is is_one
