# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed's files and the image's bytes. Other programs read them in the integration tests."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._nocloud_seed.content import files
from ansible_collections.vmops.lifecycle.plugins.module_utils._nocloud_seed.iso import SECTOR, iso_image

NAMES = ("user-data", "meta-data", "network-config", "vendor-data")


def entries(image, root):
    """A second reading of ECMA-119, 9.1: the identifier and the content of each file in a directory of one sector."""
    at = root * SECTOR
    found = {}
    while image[at]:
        record = image[at : at + image[at]]
        sector, size = struct.unpack_from("<I", record, 2)[0], struct.unpack_from("<I", record, 10)[0]
        identifier = record[33 : 33 + record[32]]
        if not record[25] & 2:
            found[bytes(identifier)] = bytes(image[sector * SECTOR : sector * SECTOR + size])
        assert image[at] % 2 == 0
        at += image[at]
    return found


@given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=5000)))
def test_every_content_comes_back_from_both_trees(contents):
    image = iso_image("cidata", contents)
    assert len(image) % SECTOR == 0
    primary = entries(image, 23)
    joliet = entries(image, 24)
    assert {key.decode("utf-16-be"): value for key, value in joliet.items()} == contents
    assert sorted(primary.values()) == sorted(contents.values())
    assert struct.unpack_from("<I", image, 16 * SECTOR + 80)[0] * SECTOR == len(image)
    assert image == iso_image("cidata", dict(reversed(list(contents.items()))))


def test_numbers_are_the_same_in_both_orders():
    image = iso_image("cidata", {"user-data": b"x" * 3000})
    for sector in (16, 17):
        for offset in (80,):
            at = sector * SECTOR + offset
            assert struct.unpack_from("<I", image, at) == struct.unpack_from(">I", image, at + 4)


def test_the_label():
    image = iso_image("cidata", {})
    assert image[16 * SECTOR + 40 : 16 * SECTOR + 72] == b"cidata".ljust(32)
    assert image[17 * SECTOR + 40 : 17 * SECTOR + 72].decode("utf-16-be").rstrip() == "cidata"


def test_a_dictionary_is_cloud_config():
    made = files({"user_data": {"b": 1, "a": [2]}})
    head, _line, body = made["user-data"].partition(b"\n")
    assert head == b"#cloud-config"
    assert json.loads(body) == {"a": [2], "b": 1}


def test_network_config_has_no_such_head():
    assert json.loads(files({"network_config": {"version": 2}})["network-config"]) == {"version": 2}


def test_what_is_not_declared_is_left_out():
    assert set(files({})) == {"user-data", "meta-data"}


def test_text_stays_text():
    assert files({"user_data": "#!/bin/sh\n"})["user-data"] == b"#!/bin/sh\n"


def instance(**options):
    return json.loads(files(options)["meta-data"])["instance-id"]


def test_the_instance_follows_the_content():
    assert instance() == instance()
    assert instance(user_data={"a": 1}) != instance(user_data={"a": 2})
    assert instance(vendor_data="a") != instance(network_config="a")
    assert instance(meta_data={"local-hostname": "a"}) != instance(meta_data={"local-hostname": "b"})
    assert instance(meta_data={"instance-id": "x"}) == "x"


@pytest.mark.parametrize("option", ["user_data", "meta_data", "network_config", "vendor_data"])
def test_empty_text_is_refused(option):
    with pytest.raises(BadInput) as caught:
        files({option: " \n"})
    assert caught.value.facts["option"] == option


@pytest.mark.parametrize("option", ["user_data", "meta_data", "network_config", "vendor_data"])
@pytest.mark.parametrize("given", [5, 0, False, ["a"], [["a", "b"]], []], ids=str)
def test_what_is_neither_dictionary_nor_text_is_refused(option, given):
    with pytest.raises(BadInput) as caught:
        files({option: given})
    assert caught.value.facts["option"] == option
