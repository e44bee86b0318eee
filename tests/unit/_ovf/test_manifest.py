# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests as tools write them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.manifest import hasher, parse
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.model import Digest

SHA1 = hashlib.sha1(b"disk").hexdigest()
SHA256 = hashlib.sha256(b"disk").hexdigest()
SHA512 = hashlib.sha512(b"disk").hexdigest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n\r\n", {}),
        (f"SHA1(a.ovf)= {SHA1}\n", {"a.ovf": Digest("sha1", SHA1)}),
        (f"SHA256(a.ovf)= {SHA256}", {"a.ovf": Digest("sha256", SHA256)}),
        (f"SHA512(a.ovf)= {SHA512}\n", {"a.ovf": Digest("sha512", SHA512)}),
        (f"SHA256 (a.ovf) = {SHA256}\n", {"a.ovf": Digest("sha256", SHA256)}),
        (f"SHA-1(a.ovf)={SHA1}\n", {"a.ovf": Digest("sha1", SHA1)}),
        (f"sha256(a.ovf)= {SHA256.upper()}\n", {"a.ovf": Digest("sha256", SHA256)}),
        (
            f"\ufeffSHA1(a.ovf)= {SHA1}\r\nSHA1(b c.vmdk)= {SHA1} \r\n",
            {"a.ovf": Digest("sha1", SHA1), "b c.vmdk": Digest("sha1", SHA1)},
        ),
        (f"SHA1(a(1)= x.ovf)= {SHA1}\n", {"a(1)= x.ovf": Digest("sha1", SHA1)}),
        (f"SHA1(./a.ovf)= {SHA1}\n", {"a.ovf": Digest("sha1", SHA1)}),
        (f"SHA1(Büro.ovf)= {SHA1}\n", {"Büro.ovf": Digest("sha1", SHA1)}),
        (f"SHA1(a.ovf)= {SHA1}\nSHA1(a.ovf)= {SHA1.upper()}\n", {"a.ovf": Digest("sha1", SHA1)}),
        (f"SHA1(a.ovf)= {SHA1}\nSHA256(a.ovf)= {SHA256}\n", {"a.ovf": Digest("sha256", SHA256)}),
        (f"SHA256(a.ovf)= {SHA256}\nSHA1(a.ovf)= {SHA1}\n", {"a.ovf": Digest("sha256", SHA256)}),
    ],
    ids=[
        "empty",
        "blank lines",
        "SHA-1",
        "SHA-256",
        "SHA-512",
        "blanks",
        "a dash",
        "cases",
        "a mark and Windows' lines",
        "brackets in a name",
        "a dot before it",
        "no ASCII",
        "the same twice",
        "the stronger",
        "and first",
    ],
)
def test_variants(text, expected):
    assert parse(text.encode(), "a.mf") == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"hello\n", "line 1: 'hello' is no line of a manifest"),
        (f"SHA1(a)= {SHA1}\n{SHA1}  b\n".encode(), "line 2: "),
        (f"MD5(a)= {SHA1[:32]}\n".encode(), "is no line"),
        (f"SHA1()= {SHA1}\n".encode(), "is no line"),
        (f"SHA1(a) {SHA1}\n".encode(), "is no line"),
        (f"SHA1(a)= {SHA1} b\n".encode(), "is no line"),
        (b"SHA1(\xff)= " + SHA1.encode(), "is no line"),
        (b"\0" * 100, "is no line"),
        (f"SHA256(a)= {SHA1}\n".encode(), "a SHA256 digest has 64 hexadecimal digits, and that of 'a' has 40"),
        (f"SHA1(a)= {SHA1[1:]}\n".encode(), "has 39"),
        (f"SHA1(a)= {SHA1}\nSHA1(a)= {SHA1[::-1]}\n".encode(), "line 2: 'a' has another SHA1 digest"),
        (f"SHA1(a)= {SHA1}\nSHA1(./a)= {SHA1[::-1]}\n".encode(), "line 2: 'a' has another SHA1 digest"),
        (b"SHA1(" + b")" * 900_000, "is no line"),
        (b"SHA1(" + b")= a" * 200_000 + b"!", "is no line"),
        (b"SHA1(a)" + b" " * 900_000 + b"!", "is no line"),
    ],
)
def test_bad_lines(text, says):
    with pytest.raises(BadInput) as caught:
        parse(text, "a.mf")
    assert says in caught.value.message
    assert len(caught.value.message) < 1000


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1).filter(
    lambda name: not name.startswith("./")
)


@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(["sha1", "sha256", "sha512"]), st.binary(max_size=9))),
    st.sampled_from(["%s(%s)= %s", "%s (%s) = %s", "%s(%s)=%s"]),
    st.sampled_from([str.upper, str.lower]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read(contents, style, case, end):
    wanted = {name: Digest(kind, hashlib.new(kind, content).hexdigest()) for name, (kind, content) in contents.items()}
    lines = [style % (case(kind), name, case(value)) + end for name, (kind, value) in wanted.items()]
    assert parse("".join(lines).encode(), "a.mf") == wanted


@pytest.mark.parametrize(("algorithm", "expected"), [("sha1", SHA1), ("sha256", SHA256), ("sha512", SHA512)])
def test_hashers(algorithm, expected):
    found = hasher(algorithm)
    found.update(b"disk")
    assert found.hexdigest() == expected
