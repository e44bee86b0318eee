# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.units import LARGEST_BYTES, parse_size

SUFFIXES = ("", "K", "M", "G", "T", "P", "E")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1", 1),
        ("512", 512),
        ("512B", 512),
        ("1K", 1024),
        ("1k", 1024),
        ("1KiB", 1024),
        ("1kib", 1024),
        ("20G", 20 << 30),
        ("20 GiB", 20 << 30),
        (" 20G ", 20 << 30),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("1.0001K", 1024),  # a part of a byte is dropped, as qemu-img does
        ("7E", 7 << 60),
        ("9223372036854775807", LARGEST_BYTES),
    ],
)
def test_sizes(text, expected):
    assert parse_size(text, "size") == expected


def test_a_number_from_yaml_is_as_good_as_its_text():
    assert parse_size(1073741824, "size") == 1 << 30


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no size"),
        ("G", "is no size"),
        ("ten", "is no size"),
        ("10 GiBs", "is no size"),
        ("1..5G", "is no size"),
        ("1,5G", "is no size"),
        ("0x10", "is no size"),
        ("1e9", "is no size"),
        ("1Z", "is no size"),
        ("1G2", "is no size"),
        ("10G\nrm", "is no size"),
        ("9" * 5000, "is no size"),
        ("1." + "9" * 5000 + "G", "is no size"),
        ("-1", "relative or negative"),
        ("-20G", "relative or negative"),
        ("+5G", "relative or negative"),
        ("1GB", "powers of 1000 or of 1024"),
        ("1.5", "a part of a byte"),
        ("9E", "more than any file can hold"),
        ("8E", "more than any file can hold"),
        ("9223372036854775808", "more than any file can hold"),
    ],
)
def test_what_is_no_size_is_refused_with_the_option_s_name(text, why):
    with pytest.raises(BadInput, match=why) as caught:
        parse_size(text, "options.cluster_size")
    assert str(caught.value).startswith("options.cluster_size: ")


@given(st.integers(0, LARGEST_BYTES))
def test_a_number_of_bytes_comes_back(size):
    assert parse_size(str(size), "size") == size


@given(st.integers(0, 2**10), st.sampled_from(SUFFIXES))
def test_every_unit_is_1024_of_the_one_before_in_each_spelling(count, suffix):
    expected = count * 1024 ** SUFFIXES.index(suffix)
    spellings = {suffix, suffix.lower(), " " + suffix, suffix + "iB" if suffix else "B"}
    for spelling in spellings:
        if expected > LARGEST_BYTES:
            with pytest.raises(BadInput):
                parse_size("%d%s" % (count, spelling), "size")
        else:
            assert parse_size("%d%s" % (count, spelling), "size") == expected


@given(st.integers(0, 1023), st.integers(0, 999), st.integers(0, 999), st.sampled_from(SUFFIXES[1:-1]))
def test_more_written_is_never_less_meant(whole, first, second, suffix):
    low, high = sorted((first, second))
    smaller = parse_size("%d.%03d%s" % (whole, low, suffix), "size")
    larger = parse_size("%d.%03d%s" % (whole, high, suffix), "size")
    assert parse_size("%d%s" % (whole, suffix), "size") <= smaller <= larger
    assert larger < parse_size("%d%s" % (whole + 1, suffix), "size")


@given(st.text())
def test_any_text_is_a_size_or_bad_input_and_no_size_is_negative(text):
    try:
        assert 0 <= parse_size(text, "size") <= LARGEST_BYTES
    except BadInput:
        pass
