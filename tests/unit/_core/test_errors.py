# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user reads when something fails: what happened, to what, what to do; and the same as data."""

from __future__ import annotations

import errno

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core import errors

CASES = [
    (
        errors.ToolMissing("qemu-img", "qemu-utils", ["/usr/bin", "/bin"]),
        (
            "qemu-img was not found on this host. Install the package that holds it (qemu-utils). "
            "Looked in: /usr/bin, /bin."
        ),
        {"kind": "tool_missing", "tool": "qemu-img", "package": "qemu-utils", "looked_in": ["/usr/bin", "/bin"]},
    ),
    (
        errors.BadInput("size", "'1 GB' is no size.", "Write 1GiB"),
        "size: '1 GB' is no size. Write 1GiB.",
        {"kind": "bad_input", "option": "size", "expected": "Write 1GiB"},
    ),
    (
        errors.CommandFailed("converting a.img", ["/usr/bin/qemu-img", "convert"], 1, "no room\n"),
        "Converting a.img failed: qemu-img exited with 1: no room",
        {"kind": "command_failed", "argv": ["/usr/bin/qemu-img", "convert"], "rc": 1, "stderr": "no room\n"},
    ),
    (
        errors.StorageFailed("Writing a", "/images", errno.ENOSPC, 10, 3),
        (
            "Writing a failed at /images: No space left on device. It needs 10 bytes, and 3 are free there. "
            "Free space there or choose another file system, then run the task again."
        ),
        {"kind": "storage_failed", "path": "/images", "errno": "ENOSPC", "needed_bytes": 10, "free_bytes": 3},
    ),
    (
        errors.StorageFailed("Writing a", "/images", errno.ELOOP),
        (
            "Writing a failed at /images: Too many levels of symbolic links. "
            "Check the path and the file system, then run the task again."
        ),
        {"kind": "storage_failed", "path": "/images", "errno": "ELOOP", "needed_bytes": None, "free_bytes": None},
    ),
    (
        errors.Refused("remove a", "it is in use.", "Shut it down first", path="/a"),
        "Refused to remove a: it is in use. Shut it down first.",
        {
            "kind": "refused",
            "operation": "remove a",
            "reason": "it is in use.",
            "instead": "Shut it down first",
            "path": "/a",
        },
    ),
    (
        errors.TimedOut("the guest", 2.0001),
        "Gave up after 2.0 s waiting for the guest. Raise the task's timeout if it only needs longer.",
        {"kind": "timed_out", "waiting_for": "the guest", "waited_s": 2.0, "last_seen": ""},
    ),
]


@pytest.mark.parametrize(("error", "message", "facts"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_message_and_facts(error, message, facts):
    assert str(error) == message
    assert error.details() == {"error": facts}


def test_each_kind_is_told_apart():
    kinds = [type(error).kind for error in {type(case[0]): case[0] for case in CASES}.values()]
    assert len(kinds) == len(set(kinds))


def test_failed_clean_ups_stand_beside_the_first_error():
    error = errors.Refused("remove a", "it is in use", "Wait")
    error.attach(OSError(errno.EIO, "Input/output error", "/a.new"), "removing /a.new")
    error.attach(ValueError(), "closing it")
    assert str(error) == (
        "Refused to remove a: it is in use. Wait. Besides, while cleaning up: "
        "removing /a.new: Input/output error (/a.new); closing it: ValueError"
    )
    assert error.details()["secondary_errors"] == [
        "removing /a.new: Input/output error (/a.new)",
        "closing it: ValueError",
    ]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO])
def test_a_file_system_s_no_becomes_words_with_advice(number):
    error = errors.storage_failed(OSError(number, "said", "/a"), "Writing a")
    assert error.facts["errno"] == errno.errorcode[number]
    assert "Check the path and the file system" not in str(error), "it has advice of its own"


def test_a_file_system_s_no_without_a_name():
    assert "at an unnamed file:" in str(errors.storage_failed(OSError(errno.EIO, "said"), "Writing a"))
    assert errors.storage_failed(OSError(errno.EIO, "said", b"/\xff"), "Writing a").facts["path"] == "/\udcff"
    assert errors.storage_failed(OSError("no number"), "Writing a").facts["errno"] == "0"
