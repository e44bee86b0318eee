# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole names, which mean to us what they mean to the kernel."""

from __future__ import annotations

import os

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.names import absolute


@pytest.mark.parametrize(
    ("path", "folder", "whole"),
    [
        ("/images/a.qcow2", "", "/images/a.qcow2"),
        ("a.qcow2", "/images", "/images/a.qcow2"),
        ("./a.qcow2", "/images/", "/images/a.qcow2"),
        ("//images//./a.qcow2", "", "/images/a.qcow2"),
        ("/srv/a.qcow2", "/images", "/srv/a.qcow2"),
        ("/../etc", "", "/etc"),
        ("/", "", "/"),
    ],
)
def test_it_says_no_more_than_it_must(path, folder, whole):
    assert absolute(path, folder) == whole


def test_a_relative_name_starts_at_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a.qcow2") == os.path.join(os.getcwd(), "a.qcow2")


def test_the_parent_of_a_directory_is_the_one_before_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert absolute("a/b/../../x", str(tmp_path)) == str(tmp_path / "x")


@pytest.mark.parametrize("name", ["a/link/../x", "a/./link//..//x", "a/link/deep/../../x", "a/link/../c/../x"])
def test_the_parent_of_a_linked_directory_is_where_it_really_lies(tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "c" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("../b/c")
    (tmp_path / "b" / "x").touch()
    (tmp_path / "a" / "x").touch()
    assert absolute(name, str(tmp_path)) == str(tmp_path / "b" / "x")
    assert os.path.samefile(tmp_path / name, tmp_path / "b" / "x")


@pytest.mark.parametrize("between", ["missing", "file", "dangling"])
def test_what_is_no_directory_has_no_parent(tmp_path, between):
    (tmp_path / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert not os.path.exists(absolute("%s/../x" % between, str(tmp_path)))
