# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""XML in other encodings than UTF-8: what is read, and what is sent to others."""

from __future__ import annotations

import codecs

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.encoding import decoded
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.xml_tree import parse

UNDECLARED = '<?xml version="1.0"?><a b="%s">%s</a>'
TEXTS = {"ISO-8859-1": "Büro", "windows-1252": "5 €", "ISO-8859-5": "Я", "us-ascii": "a", "utf8": "Büro €"}
TEXTS = {**TEXTS, "UTF-8": "Büro 𝄞", "Shift_JIS": "日本", "EUC-KR": "한국", "GB18030": "中国 €", "Big5": "中"}


def declared(encoding: str, text: str) -> str:
    return UNDECLARED.replace("?>", ' encoding="%s" standalone="yes" ?>' % encoding) % (text, text)


def assert_read(document: bytes, text: str) -> None:
    root = parse(document, "a.ovf")
    assert (root.attributes["b"], root.text) == (text, text)
    sent = decoded(document, "a.ovf")
    assert sent.replace("'", '"') in (UNDECLARED % (text, text), declared("UTF-8", text))
    again = parse(sent.encode(), "a.ovf")
    assert (again.attributes["b"], again.text) == (text, text)


@pytest.mark.parametrize("encoding", TEXTS)
def test_what_a_document_declares_is_how_it_is_read(encoding):
    text = TEXTS[encoding]
    assert_read(declared(encoding, text).encode(encoding), text)
    assert_read(declared(encoding.lower(), text).replace('"', "'").encode(encoding), text)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("said", ["UTF-16", "utf-8", None])
@pytest.mark.parametrize("mark", [True, False])
def test_utf_16_is_known_by_its_first_bytes(encoding, said, mark):
    document = UNDECLARED % ("Büro 𝄞", "Büro 𝄞") if said is None else declared(said, "Büro 𝄞")
    begins = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}[encoding] if mark else b""
    assert_read(begins + document.encode(encoding), "Büro 𝄞")


@pytest.mark.parametrize("said", ["UTF-8", "ISO-8859-1", None])
def test_a_byte_order_mark_tells_more_than_the_declaration_and_is_sent_to_nobody(said):
    document = UNDECLARED % ("Büro", "Büro") if said is None else declared(said, "Büro")
    assert_read(codecs.BOM_UTF8 + document.encode(), "Büro")


def test_what_is_cut_by_the_pieces_in_which_it_is_read_is_whole():
    for before in range(4):
        text = "x" * before + "𝄞" * 100_000
        assert parse((UNDECLARED % ("", text)).encode(), "a.ovf").text == text
        assert parse((UNDECLARED % ("", text)).encode("utf-16"), "a.ovf").text == text


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (declared("klingon", "a").encode(), r"^a\.ovf: its encoding can't be read: it says to be in klingon"),
        (declared("UTF-16", "a").encode(), "it says to be in UTF-16"),
        *((declared(name, "a").encode(), name) for name in ("utf-7", "base64", "idna", "unicode_escape", "cp037")),
        ((UNDECLARED % ("ü", "")).encode("latin-1"), "it is not in UTF-8, .* 0xfc"),
        (declared("UTF-8", "ü").encode("latin-1"), "it is not in UTF-8, .* 0xfc"),
        (declared("us-ascii", "ü").encode(), "it is not in ASCII, .* 0xc3"),
        ((UNDECLARED % ("", "x")).encode("utf-16")[:-1], "it is not in UTF-16"),
        (codecs.BOM_UTF32_LE + (UNDECLARED % ("", "")).encode("utf-32-le"), "it is not XML"),
    ],
)
def test_what_can_not_be_read_is_refused(document, told):
    with pytest.raises(BadInput, match=told):
        parse(document, "a.ovf")
