# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""In which encoding an XML document is: by its byte order mark, its first bytes and its declaration. Pure."""

from __future__ import annotations

import codecs
import re

from .._core.errors import BadInput

UTF_8 = "utf-8"
_BY_BEGINNING = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_DECLARED = r"""<\?xml\s[^>]{0,200}?\bencoding\s*=\s*(["'])([A-Za-z][A-Za-z0-9._-]{0,40})\1"""
_DECLARED_BYTES = re.compile(_DECLARED.encode(), re.ASCII)
_DECLARED_TEXT = re.compile(_DECLARED, re.ASCII)
# Those in which documents were written before UTF-8 was everywhere, by Python's names. Python knows others that are no
# encodings of texts, or costly.
_KNOWN = re.compile(
    r"utf-8|ascii|iso8859-\d+|cp125\d|koi8-[ru]|mac-roman|shift_jis|cp932|euc_jp|euc_kr|gb2312|gbk|gb18030|big5"
)
_AS_UTF_8 = "Save it as UTF-8"


def encoding_of(document: bytes, where: str) -> str:
    """Python's name of a document's encoding. ``where`` names it in errors. Raises BadInput for one not known here."""
    for beginning, encoding in _BY_BEGINNING:
        if document.startswith(beginning):
            return encoding
    match = _DECLARED_BYTES.match(document)
    declared = match.group(2).decode() if match else UTF_8
    try:
        name = codecs.lookup(declared).name
    except LookupError:
        name = ""
    if not _KNOWN.fullmatch(name):
        raise BadInput(where, "its encoding can't be read: it says to be in %s" % declared, _AS_UTF_8)
    return name


def decoded(document: bytes, where: str) -> str:
    """A document's text, as it is sent to others in UTF-8: it declares no other encoding. Raises BadInput."""
    encoding = encoding_of(document, where)
    try:
        text = document.decode(encoding)
    except UnicodeDecodeError as error:
        raise undecodable(error, where) from None
    match = _DECLARED_TEXT.match(text)
    return text if match is None else "%sUTF-8%s" % (text[: match.start(2)], text[match.end(2) :])


def undecodable(error: UnicodeDecodeError, where: str) -> BadInput:
    """The error about bytes that a document's encoding doesn't have."""
    wrong = error.object[error.start : error.start + 1].hex()
    problem = "it is not in %s, which it says to be in or has to be in: a byte of 0x%s there makes no sense (%s)"
    return BadInput(where, problem % (error.encoding.upper(), wrong, error.reason), _AS_UTF_8)
