# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""XML that means harm: refused, in bounded memory and time."""

from __future__ import annotations

import tracemalloc

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.descriptor import MAX_DESCRIPTOR_BYTES
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.xml_tree import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_TAG_BYTES,
    parse,
)

LAUGHS = "".join('<!ENTITY l%d "%s">' % (number, "&l%d;" % (number - 1) * 10) for number in range(1, 10))
BOMB = '<!DOCTYPE l [<!ENTITY l0 "ha">%s]><l>&l9;</l>' % LAUGHS
QUADRATIC = '<!DOCTYPE l [<!ENTITY a "%s">]><l>%s</l>' % ("a" * 100_000, "&a;" * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        QUADRATIC,
        "<!DOCTYPE l><l/>",
        '<!DOCTYPE l SYSTEM "file:///etc/passwd"><l/>',
        '<!DOCTYPE l [<!ENTITY e SYSTEM "file:///etc/passwd">]><l>&e;</l>',
        '<!DOCTYPE l [<!ENTITY % p SYSTEM "http://127.0.0.1:1/"> %p;]><l/>',
        '<?xml version="1.0"?>\n<!-- by hand -->\n<!DOCTYPE l [<!ATTLIST l a CDATA "x">]><l/>',
    ],
    ids=["billion laughs", "quadratic", "plain", "external", "external entity", "parameter entity", "attributes"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused_before_they_do_anything(text, encoding):
    encoded = text.encode(encoding)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=r"^a\.ovf, line \d: it has a document type"):
            parse(encoded, "a.ovf")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


FILL = MAX_DESCRIPTOR_BYTES - 100
NAMESPACE = b"<a xmlns%s='" + b"u" * 200_000 + b"'>"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"<a>" + b"<b/>" * (FILL // 4) + b"</a>", "more than %d elements" % MAX_ELEMENTS),
        (b"<a>" * (FILL // 3), "nested more than %d deep" % MAX_DEPTH),
        (b"<a " + b" ".join(b"b%d=''" % number for number in range(FILL // 12)) + b"/>", "a tag or comment has more"),
        (b"<a><!--" + b"x" * FILL + b"--></a>", "a tag or comment has more"),
        (b"<a b='" + b"x" * FILL + b"'/>", "a tag or comment has more"),
        (b"<a>" + b"<b c='' d='' e=''/>" * (MAX_ELEMENTS - 1) + b"</a>", "more than %d attributes" % MAX_ATTRIBUTES),
        (NAMESPACE % b"" + b"".join(b"<b%d/>" % number for number in range(20_000)) + b"</a>", "a namespace has more"),
        (
            NAMESPACE % b":p" + b"<b %s/></a>" % b" ".join(b"p:b%d=''" % number for number in range(9_000)),
            "a namespace",
        ),
    ],
    ids=["elements", "depth", "attributes", "comment", "a value", "many", "a namespace", "a prefix's namespace"],
)
def test_bounds(text, says):
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=says):
            parse(text, "a.ovf")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_namespaces():
    root = parse(
        b"<p:a xmlns='urn:1' xmlns:p='urn:2' b='0' p:b='2' xml:lang='en'><c/><c xmlns=''>"
        b"<d xmlns='urn:3' xmlns:p='urn:4' p:b='4'/><d p:b='2'/></c><c/></p:a>",
        "a.ovf",
    )
    assert (root.namespace, root.name) == ("urn:2", "a")
    assert root.attributes == {"b": "0", "urn:2 b": "2", "http://www.w3.org/XML/1998/namespace lang": "en"}
    assert [(child.namespace, child.name, child.attributes) for child in root.children] == [
        ("urn:1", "c", {}),
        ("", "c", {}),
        ("urn:1", "c", {}),
    ]
    assert [(child.namespace, child.attributes) for child in root.children[1].children] == [
        ("urn:3", {"urn:4 b": "4"}),
        ("", {"urn:2 b": "2"}),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"<p:a/>", "line 1: nothing declares the prefix 'p'"),
        (b"<a p:b=''/>", "nothing declares the prefix 'p'"),
        (b"<a><b xmlns:p='urn:1'/>\n<p:b/></a>", "line 2: nothing declares the prefix 'p'"),
        (b"<p:a xmlns:p=''/>", "nothing declares the prefix 'p'"),
        (b"<a xmlns:p='urn:1' xmlns:q='urn:1' p:b='' q:b=''/>", "the attribute 'q:b' is there twice"),
    ],
)
def test_names_that_mean_nothing(text, says):
    with pytest.raises(BadInput, match=says):
        parse(text, "a.ovf")


def test_what_is_just_within_the_bounds_is_read():
    deep = b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH
    assert parse(deep, "a.ovf").name == "a"
    many = parse(b"<a>" + b"<b/>" * (MAX_ELEMENTS - 1) + b"</a>", "a.ovf")
    assert len(many.children) == MAX_ELEMENTS - 1
    long = parse(b"<a b='" + b"x" * (MAX_TAG_BYTES - 100) + b"'>" + b"y" * 3_000_000 + b"</a>", "a.ovf")
    assert (len(long.attributes["b"]), len(long.text)) == (MAX_TAG_BYTES - 100, 3_000_000)


@pytest.mark.parametrize("size", [MAX_TAG_BYTES // 2, MAX_TAG_BYTES - 20_000, MAX_TAG_BYTES])
def test_a_long_tag_is_read_wherever_it_begins(size):
    """However expat divides its work."""
    tag = b"<a b='" + b"x" * (size - 9) + b"'/>"
    for offset in range(0, 140_000, 5_000):
        root = parse(b"<r>" + b"y" * offset + tag + b"z" * 900_000 + b"</r>", "a.ovf")
        assert len(root.text) == offset + 900_000


def test_a_large_text_comes_whole_from_its_pieces():
    text = "é&amp;<![CDATA[<&>]]>\n" * 100_000
    root = parse(("<a>%s</a>" % text).encode(), "a.ovf")
    assert root.text == "é&<&>\n".join([""] * 100_001).strip()
