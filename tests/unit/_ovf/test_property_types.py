# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which values properties take, and how they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.model import Property
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.property_types import Kind, Unfit, kind_of, text_of


def kind(type_name, qualifiers="", password=False):
    return kind_of(Property("k", type_name, qualifiers, password=password))


@pytest.mark.parametrize(
    ("type_name", "qualifiers", "expected"),
    [
        ("string", "", Kind("string", None, 65535)),
        ("String", "", Kind("string", None, 65535)),
        ("datetime", "", Kind("string", None, 65535)),
        ("", "", Kind("string", None, 65535)),
        ("string(3..9)", "", Kind("string", 3, 9)),
        ("string(..9)", "", Kind("string", None, 9)),
        ("string(3..)", "", Kind("string", 3, 65535)),
        ("password(8..)", "", Kind("string", 8, 65535, is_secret=True)),
        ('string["a b", "c\\"d"]', "", Kind("string", None, 65535, ("a b", 'c"d'))),
        ("string", "MinLen(2),MaxLen(5)", Kind("string", 2, 5)),
        ("string", "minlen( 2 ) , maxlen(5)", Kind("string", 2, 5)),
        ("string", "MaxLen(x)", Kind("string", None, 65535)),
        (
            "string",
            'ValueMap{"a","b, c","}","MinLen(9)"}',
            Kind("string", None, 65535, ("a", "b, c", "}", "MinLen(9)")),
        ),
        ("string", 'ValueMap{"a"}, MaxLen(4), Other("z")', Kind("string", None, 4, ("a",))),
        ("string", 'ValueMap{"a","b"', Kind("string", None, 65535, ("a", "b"))),
        ("string", "ValueMap{}", Kind("string", None, 65535)),
        ("string", "Ip", Kind("ip", None, 65535)),
        ("string", 'MaxLen(15), Ip("VM Network")', Kind("ip", None, 15, is_pooled=True)),
        ("string", "MinLen(1), Ip('Network 1')", Kind("ip", 1, 65535, is_pooled=True)),
        ("string", 'MinLen(1), Gateway("N")', Kind("string", 1, 65535, is_computed=True)),
        ("string", "Dns('N')", Kind("string", None, 65535, is_computed=True)),
        ("string", "Gateway", Kind("string", None, 65535)),
        ("uint32", "ValueMap{0, 2}", Kind("integer", 0, 2**32 - 1, ("0", "2"))),
        ("uint32", "ValueMap{0,2", Kind("integer", 0, 2**32 - 1, ("0", "2"))),
        ("int", "MinValue(10) MaxValue(1000)", Kind("integer", 10, 1000)),
        ("string", 'ValueMap{"Ip"}', Kind("string", None, 65535, ("Ip",))),
        ("uint8", "Ip", Kind("integer", 0, 255)),
        ("ip", "", Kind("ip")),
        ("ip:VM Network", "", Kind("ip", is_pooled=True)),
        ("boolean", "", Kind("boolean")),
        ("uint8", "", Kind("integer", 0, 255)),
        ("sint8", "", Kind("integer", -128, 127)),
        ("uint64", "", Kind("integer", 0, 2**64 - 1)),
        ("sint64", "", Kind("integer", -(2**63), 2**63 - 1)),
        ("int", "", Kind("integer", -(2**31), 2**31 - 1)),
        ("int(-5..5)", "", Kind("integer", -5, 5)),
        ("uint16", "MinValue(1),MaxValue(100000)", Kind("integer", 1, 65535)),
        ("uint16", "MinLen(1)", Kind("integer", 0, 65535)),
        ("real32", "MaxValue(0.5)", Kind("real", None, 0.5)),
        ("real(1.5..2.5)", "", Kind("real", 1.5, 2.5)),
    ],
)
def test_kinds(type_name, qualifiers, expected):
    assert kind(type_name, qualifiers) == expected


@pytest.mark.parametrize(
    ("type_name", "qualifiers", "value", "expected"),
    [
        ("string", "", "", ""),
        ("string", "", " as it is\n", " as it is\n"),
        ("string", "", 4711, "4711"),
        ("string", "", "é" * 65535, "é" * 65535),
        ("string", 'ValueMap{"true","false"}', True, "true"),
        ("string", 'ValueMap{"TRUE","FALSE"}', False, "FALSE"),
        ("string", "MinLen(2),MaxLen(2)", "ab", "ab"),
        ("boolean", "", True, "True"),
        ("boolean", "", False, "False"),
        ("boolean", "", "true", "True"),
        ("boolean", "", "FALSE", "False"),
        ("boolean", "", "no", "False"),
        ("uint8", "", 0, "0"),
        ("uint8", "", "255", "255"),
        ("uint8", "", " 007 ", "7"),
        ("sint8", "", "-128", "-128"),
        ("uint64", "", 2**64 - 1, "18446744073709551615"),
        ("uint8", 'ValueMap{"1","5..10","250.."}', 7, "7"),
        ("uint8", 'ValueMap{"1","5..10","250.."}', 251, "251"),
        ("real32", "", 1.5, "1.5"),
        ("real64", "", "1e-3", "1e-3"),
        ("real", "", 3, "3"),
        ("ip", "", "192.0.2.1", "192.0.2.1"),
        ("ip", "", " 2001:DB8::0:1 ", "2001:db8::1"),
        ("ip:N", "", "", ""),
        ("string", "Ip", "192.0.2.1", "192.0.2.1"),
        ("unheard-of", "", "x", "x"),
    ],
)
def test_values_that_fit(type_name, qualifiers, value, expected):
    assert text_of(value, kind(type_name, qualifiers)) == expected


@pytest.mark.parametrize(
    ("type_name", "qualifiers", "value", "says"),
    [
        ("string", "", None, "has no value"),
        ("string", "", ["a"], "one value"),
        ("string", "", {"a": 1}, "one value"),
        ("uint8", "", [1], "one value"),
        ("string", "", True, "True is a truth value"),
        ("string", 'ValueMap{"on","off"}', True, "True is a truth value"),
        ("string", 'ValueMap{"true","True"}', True, "True is a truth value"),
        ("string", "", 1.10, "1.1 is a number with a fraction"),
        ("string", "", "a\0b", "XML can't carry"),
        ("string", "", "\ud800", "XML can't carry"),
        ("string", "", "x" * 65536, "too long"),
        ("string", "MinLen(1)", "", "too short"),
        ("string", "MaxLen(3)", "abcd", "too long"),
        ("string", "MaxLen(3)", 1234, "too long"),
        ("string", 'ValueMap{"a","b"}', "c", "'c' is not among its values"),
        ("string", 'ValueMap{"a","b"}', "A", "'A' is not among its values"),
        ("boolean", "", "perhaps", "'perhaps' is no truth value"),
        ("boolean", "", 1, "1 is no truth value"),
        ("boolean", "", "", "'' is no truth value"),
        ("uint8", "", -1, "-1 is out of range"),
        ("uint8", "", 256, "256 is out of range"),
        ("uint64", "", 2**64, "out of range"),
        ("sint8", "", -129, "out of range"),
        ("int", "", 2**31, "out of range"),
        ("uint8", "", True, "True is no whole number"),
        ("uint8", "", 1.0, "1.0 is no whole number"),
        ("uint8", "", "0x10", "'0x10' is no whole number"),
        ("uint8", "", "1_0", "is no whole number"),
        ("uint8", "", "٣", "is no whole number"),
        ("uint8", "", "", "is no whole number"),
        ("uint8", "", "9" * 400, "is no whole number"),
        ("uint8", 'ValueMap{"1","5..10"}', 4, "4 is not among its values"),
        ("uint8", 'ValueMap{"1","5..10"}', 11, "11 is not among its values"),
        ("uint8", 'ValueMap{"250.."}', 249, "249 is not among its values"),
        ("real32", "", "nan", "is no number"),
        ("real32", "", "inf", "is no number"),
        ("real32", "", "1e9999", "is no number"),
        ("real32", "", True, "is no number"),
        ("real(0..1)", "", 1.5, "out of range"),
        ("ip", "", "192.0.2.256", "'192.0.2.256' is no IP address"),
        ("ip", "", "192.0.2.1/24", "is no IP address"),
        ("ip", "", "gateway", "is no IP address"),
        ("ip", "", 5, "'5' is no IP address"),
    ],
)
def test_values_that_don_t_fit(type_name, qualifiers, value, says):
    with pytest.raises(Unfit) as caught:
        text_of(value, kind(type_name, qualifiers))
    assert says in caught.value.problem
    assert caught.value.instead


@pytest.mark.parametrize("type_name", ["string", "boolean", "uint8", "real32", "ip"])
@pytest.mark.parametrize("qualifiers", ["", "MaxLen(1)", 'ValueMap{"x"}', "MaxValue(1)"])
@pytest.mark.parametrize("value", ["Tr0ub4dor", 31337, 31.337])
def test_no_message_shows_a_secret(type_name, qualifiers, value):
    try:
        text_of(value, kind(type_name, qualifiers, password=True))
    except Unfit as unfit:
        told = unfit.problem + unfit.instead
        assert str(value) not in told
        assert "the value given" in told or "it is too long" in told


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
TYPES = st.sampled_from(
    ["string", "boolean", "uint8", "sint64", "int", "real64", "ip", "ip:N", "password(2..)", "odd", "int(1..5)"]
)
QUALIFIERS = st.lists(
    st.sampled_from(
        ["MinLen(1)", "MaxLen(3)", 'ValueMap{"a","1"}', "MinValue(2)", "Ip", 'Ip("N")', "{", '"', "\\", ","]
    ),
    max_size=5,
)


@given(TYPES, QUALIFIERS.map("".join), VALUES)
def test_a_value_becomes_text_that_stays_or_is_refused(type_name, qualifiers, value):
    found = kind(type_name, qualifiers)
    try:
        text = text_of(value, found)
    except Unfit:
        return
    assert text_of(text, found) == text


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_type_and_any_qualifiers_make_a_kind(type_name, qualifiers):
    assert isinstance(kind(type_name, qualifiers), Kind)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_value_maps_come_back(values):
    quoted = ",".join('"%s"' % value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    assert kind("string", "MaxLen(9), ValueMap{%s}, MinLen(0)" % quoted) == Kind("string", 0, 9, tuple(values))


@pytest.mark.parametrize(
    "text",
    [
        '"' + '\\"' * 120_000,
        "ValueMap{" + '"a" ' * 60_000,
        "MinLen(" * 30_000,
        "." * 250_000 + "!",
        "int(" + "." * 250_000 + "!)",
    ],
)
def test_hostile_qualifiers_take_no_longer_than_their_length(text):
    """A search that goes back and forth would not end within hours."""
    assert kind(text, text).base
