# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qemu-img prints, by what it really printed: every recorded version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import LifecycleError
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import parse
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.found import CheckResult
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.model import Format

RECORDED = sorted((Path(__file__).parent / "fixtures").glob("qemu-img-*.json"))


@pytest.fixture(params=RECORDED, ids=[path.stem for path in RECORDED])
def printed(request):
    cases = json.loads(request.param.read_text())
    return lambda name: cases[name]["stdout"]


def test_there_is_something_recorded():
    assert RECORDED


def test_an_odd_size_shows_in_whole_sectors(printed):
    info = parse.parse_info(printed("info of a raw image with an odd size"))
    assert (info.format, info.virtual_size_bytes, info.options) == (Format.RAW, 1000000512, {})
    assert (info.backing_file, info.encrypted, info.dirty, info.corrupt) == (None, False, False, False)
    assert (info.snapshots, info.bitmaps) == ((), ())


def test_a_qcow2_image_shows_its_options_by_the_names_that_create_takes(printed):
    assert parse.parse_info(printed("info of a qcow2 image")).options == {
        "cluster_size": "65536",
        "compat": "1.1",
        "compression_type": "zlib",
        "data_file_raw": "off",
        "extended_l2": "off",
        "lazy_refcounts": "off",
        "refcount_bits": "16",
    }


def test_what_an_old_header_cannot_have_is_off(printed):
    options = parse.parse_info(printed("info of an old qcow2 image")).options
    assert (options["compat"], options["lazy_refcounts"], options["extended_l2"]) == ("0.10", "off", "off")


def test_newer_features_show(printed):
    options = parse.parse_info(printed("info with newer features")).options
    assert options["extended_l2"] == "on"
    assert options["compression_type"] == "zstd"
    assert options["cluster_size"] == "131072"


def test_an_overlay_names_what_is_stored_in_it(printed):
    info = parse.parse_info(printed("info of an overlay"))
    assert (info.backing_file, info.backing_format) == ("base.qcow2", "qcow2")


def test_snapshots_of_one_name_are_both_there(printed):
    info = parse.parse_info(printed("info with snapshots of one name and a bitmap"))
    assert info.snapshots == ("one", "one")
    assert info.bitmaps == ("b0",)
    assert info.options["lazy_refcounts"] == "on"


def test_encryption_shows(printed):
    assert parse.parse_info(printed("info of an encrypted image")).encrypted is True


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vmdk", {"subformat": "monolithicSparse"}),
        ("vdi", {}),
        ("vhdx", {"block_size": "8388608"}),
        ("vpc", {}),
    ],
)
def test_the_other_formats_show_what_they_can(printed, kind, options):
    info = parse.parse_info(printed("info of a %s image" % kind))
    assert info.format is Format(kind)
    assert info.options == options


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("check of a sound image", CheckResult(0, 0)),
        ("check of an image with a leak", CheckResult(0, 1)),
        ("check of a corrupt image", CheckResult(2, 1)),
    ],
)
def test_checks(printed, case, expected):
    assert parse.parse_check(printed(case)) == expected


def test_faults_of_the_check_itself_count_as_corruption():
    assert parse.parse_check('{"check-errors": 2, "corruptions": 1}') == CheckResult(3, 0)


def test_measures(printed):
    assert parse.parse_measure(printed("measure for qcow2")) == 393216
    assert parse.parse_measure(printed("measure for raw")) == 2097152


def read_map(text, step=7):
    """In pieces, as a pipe may cut it."""
    reader = parse.MapReader()
    for start in range(0, len(text), step):
        reader.feed(text[start : start + step].encode())
    reader.finish()
    return reader


def test_a_map_that_was_cut_off_is_told(printed):
    lines = printed("map of an image that stands alone").splitlines()
    with pytest.raises(LifecycleError, match="map could not be understood"):
        read_map("\n".join(lines[:2]))


@pytest.mark.parametrize(
    ("case", "has_data"),
    [
        # the part behind the backing file's end is the overlay's own, and nothing is in it
        ("map of an empty overlay", False),
        ("map of an overlay that hides data by zeros", True),
        ("map of an overlay with data", True),
    ],
)
def test_whether_an_overlay_holds_anything(printed, case, has_data):
    assert read_map(printed(case)).holds_data is has_data


def test_a_map_in_figures(printed):
    assert read_map(printed("map of an image that stands alone")).summary == {
        "data": 65536,
        "zero": 65536,
        "unallocated": (1 << 20) - 2 * 65536,
        "extents": 4,
    }


PARSERS = [
    parse.parse_info,
    parse.parse_check,
    parse.parse_measure,
    read_map,
]


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "text", ["", "no JSON at all", '{"cut off": ', "[1]", '[{"depth": 0}]', '{"virtual-size": {}}', "7", "null", '"x"']
)
def test_what_cannot_be_understood_is_shown(parser, text):
    with pytest.raises(LifecycleError) as caught:
        parser(text)
    assert text in str(caught.value)


def test_a_missing_field_is_named(printed):
    data = json.loads(printed("info of a qcow2 image"))
    for name in ("format", "virtual-size", "actual-size", "cluster-size"):
        short = {key: value for key, value in data.items() if key != name}
        with pytest.raises(LifecycleError, match=name):
            parse.parse_info(json.dumps(short))


def test_a_format_that_is_not_ours_is_named():
    text = '{"format": "bochs", "virtual-size": 1, "actual-size": 1}'
    with pytest.raises(LifecycleError, match="bochs"):
        parse.parse_info(text)


def test_unknown_fields_are_ignored(printed):
    data = json.loads(printed("info of a qcow2 image"))
    data["something-new"] = {"deep": []}
    data["format-specific"]["data"]["something-newer"] = 1
    assert parse.parse_info(json.dumps(data)) == parse.parse_info(printed("info of a qcow2 image"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["format", "virtual-size", "actual-size", "format-specific", "data", "snapshots", "depth"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(JSON, st.sampled_from(PARSERS))
def test_no_json_whatever_ends_in_another_error(value, parser):
    try:
        parser(json.dumps(value))
    except LifecycleError:
        pass
