# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How images are named to qemu-img, and how a secret reaches it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput, CommandFailed, ToolMissing
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.extras import Encryption
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.model import Format
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.tool import Node, QemuImg, option_list, pair
from tests.unit.children import PATIENCE_S

QCOW2, RAW = Format.QCOW2, Format.RAW


def tree(node):
    scheme, _colon, text = node.name.partition(":")
    assert scheme == "json"
    return json.loads(text)


def test_a_plain_image_is_its_format_and_its_absolute_path():
    assert Node("/a b,c", QCOW2).arguments() == ["-f", "qcow2", "/a b,c"]
    assert Node("/a", RAW).arguments("-F") == ["-F", "raw", "/a"]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            Node("/a,b:c", QCOW2, alone=True),
            {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": "/a,b:c"}},
        ),
        (
            Node("/a", RAW, descriptor=7),
            {"driver": "raw", "file": {"driver": "file", "filename": "/proc/self/fd/7"}},
        ),
        (
            Node("/a", QCOW2, backing=("/base", RAW)),
            {
                "driver": "qcow2",
                "backing": {"driver": "raw", "file": {"driver": "file", "filename": "/base"}},
                "file": {"driver": "file", "filename": "/a"},
            },
        ),
        (
            Node("/a", QCOW2, encrypted=True),
            {
                "driver": "qcow2",
                "encrypt.key-secret": "passphrase",
                "file": {"driver": "file", "filename": "/a"},
            },
        ),
        (
            Node("/a", QCOW2, size_bytes=512),
            {
                "driver": "raw",
                "size": 512,
                "file": {"driver": "qcow2", "file": {"driver": "file", "filename": "/a"}},
            },
        ),
    ],
    ids=["alone", "by descriptor", "over another backing file", "encrypted", "only its beginning"],
)
def test_anything_special_is_said_as_a_tree(node, expected):
    assert tree(node) == expected
    assert node.arguments() == [node.name]


def test_without_proc_a_descriptor_has_its_other_name(monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "proc")
    assert tree(Node("/a", RAW, descriptor=7))["file"]["filename"] == "/dev/fd/7"


def test_two_images_have_their_formats_before_their_names():
    assert pair(Node("/a", RAW), Node("/b", QCOW2)) == ["-f", "raw", "-F", "qcow2", "/a", "/b"]
    special = Node("/b", QCOW2, alone=True)
    assert pair(Node("/a", RAW), special) == ["-f", "raw", "/a", special.name]


def test_a_comma_in_an_option_s_value_is_doubled():
    assert option_list({}) == []
    assert option_list({"a": "1", "b": "x,y=z"}) == ["-o", "a=1,b=x,,y=z"]


@pytest.fixture
def qemu_img():
    return QemuImg(Deadline(PATIENCE_S))


@pytest.fixture
def image(tmp_path):
    path = str(tmp_path / "image")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


def test_info_is_of_the_file_that_is_open_whatever_its_name_means_by_now(qemu_img, image):
    descriptor = os.open(image, os.O_RDONLY)
    try:
        os.rename(image, image + ".moved")
        info = qemu_img.info(Node(image, QCOW2, descriptor=descriptor, alone=True))
    finally:
        os.close(descriptor)
    assert info.virtual_size_bytes == 1 << 20


def test_an_image_opened_alone_does_not_touch_its_backing_file(qemu_img, image, tmp_path):
    over = str(tmp_path / "over")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", over], check=True)
    os.unlink(image)
    words = ["compare", *pair(Node(over, QCOW2, alone=True), Node(over, QCOW2, alone=True))]
    assert qemu_img.run(words, "comparing").rc == 0
    with pytest.raises(CommandFailed):
        qemu_img.run(["compare", *pair(Node(over, QCOW2), Node(over, QCOW2))], "comparing")


def test_what_was_run_is_kept(qemu_img, image):
    qemu_img.info(Node(image, QCOW2))
    assert qemu_img.commands == [[qemu_img.path, "info", "-U", "--output=json", "-f", "qcow2", image]]


def test_the_version_is_that_of_the_tool(qemu_img):
    said = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout
    assert qemu_img.version()
    assert qemu_img.version() in said


def test_a_missing_tool_names_the_packages(qemu_img, tmp_path, monkeypatch):
    from ansible_collections.vmops.lifecycle.plugins.module_utils._core import command

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "SBIN", ())
    with pytest.raises(ToolMissing, match="qemu-utils on Debian"):
        qemu_img.info(Node("/a", RAW))


@pytest.fixture(name="unmeasured")
def _unmeasured(tmp_path, monkeypatch):
    """A qemu-img that can't measure the processor so many times, as older ones on some kernels, and then is itself."""

    def make(times):
        wrapper = tmp_path / "bin" / "qemu-img"
        wrapper.parent.mkdir()
        said = tmp_path / "said"
        said.touch()
        wrapper.write_text(
            """#!/bin/sh
if [ "$(wc -l < %s)" -lt %d ]; then
    echo "qemu-img: luks: Unable to get accurate CPU usage" | tee -a %s >&2
    exit 1
fi
exec %s "$@"
"""
            % (said, times, said, shutil.which("qemu-img"))
        )
        wrapper.chmod(0o700)
        monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
        return said

    return make


def test_a_processor_that_could_not_be_measured_is_measured_again(qemu_img, unmeasured, tmp_path):
    said = unmeasured(7)
    qemu_img.run(["create", "-q", "-f", "qcow2", str(tmp_path / "made"), "1M"], "creating")
    assert len(said.read_text().splitlines()) == 7
    assert len(qemu_img.commands) == 8
    assert (tmp_path / "made").stat().st_size


def test_a_processor_that_can_never_be_measured_is_an_error(qemu_img, unmeasured, tmp_path):
    unmeasured(1000)
    with pytest.raises(CommandFailed, match="accurate CPU usage"):
        qemu_img.run(["create", "-q", "-f", "qcow2", str(tmp_path / "made"), "1M"], "creating")
    assert len(qemu_img.commands) < 1000


def test_a_secret_opens_the_image_and_is_in_no_argument_and_no_environment(tmp_path):
    secret = "pass phrase, 'quoted'; ünïcode"
    node = Node(str(tmp_path / "luks"), QCOW2, encrypted=True)
    options = {"encrypt.format": "luks", "encrypt.key-secret": "passphrase", "encrypt.iter-time": "10"}
    tool = QemuImg(Deadline(60), Encryption(secret, ()))
    tool.run(["create", "-q", "-f", "qcow2", *option_list(options), node.path, "1M"], "creating", [node])
    tool.run(["map", *node.arguments()], "mapping", [node])
    assert all(word.startswith("secret,id=passphrase,file=/dev/fd/") for argv in tool.commands for word in argv[3:4])
    assert "pass phrase" not in str(tool.commands)

    wrong = QemuImg(Deadline(60), Encryption("other", ()))
    with pytest.raises(BadInput, match="encrypt.secret: it doesn't open %s" % node.path) as caught:
        wrong.run(["map", *node.arguments()], "mapping", [node])
    assert "other" not in str(caught.value)


def test_no_descriptor_is_left_open(image, tmp_path):
    before = os.listdir("/proc/self/fd")
    tool = QemuImg(Deadline(PATIENCE_S), Encryption("x", ()))
    tool.run(["info", image], "looking", [Node(image, QCOW2, encrypted=True)])
    with pytest.raises(CommandFailed):
        tool.run(["info", "/nowhere"], "looking", [Node(image, QCOW2, encrypted=True)])
    assert os.listdir("/proc/self/fd") == before
