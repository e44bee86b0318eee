# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""XML of which nobody vouches for, as a tree of elements: no document types, so no entities, and bounds on all else.

Expat does the reading; ElementTree isn't used, because its parser doesn't let a document type be refused in time.
Namespaces are looked up here: expat would write a long one out before each name.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from xml.parsers import expat

from .._core.errors import BadInput
from .encoding import UTF_8, encoding_of, undecodable

# An honest descriptor has some hundreds of elements, a few levels deep, and its longest tag a line or two.
MAX_ELEMENTS = 50_000
MAX_ATTRIBUTES = 100_000
MAX_NAMESPACE = 300
MAX_DEPTH = 64
MAX_TAG_BYTES = 256 * 1024
_PIECE_BYTES = 64 * 1024
_NONE: Mapping[str, str] = {}
_XML = {"xml": "http://www.w3.org/XML/1998/namespace"}
_NO_XML = "An OVF descriptor is XML, and its name ends in .ovf: name that file, or export the package again"
_TOO_MUCH = "No honest descriptor is like that: export the package again"


class Element(NamedTuple):
    """``attributes`` are by namespace, blank and name; ``line`` is where it begins, counted from 1."""

    namespace: str
    name: str
    line: int
    attributes: Mapping[str, str]
    children: list[Element]
    pieces: list[str]

    @property
    def text(self) -> str:
        """What stands directly in it, without the white space around."""
        return "".join(self.pieces).strip()

    def own(self, name: str) -> Iterator[Element]:
        """The children of that name in the element's own namespace."""
        return (child for child in self.children if child.name == name and child.namespace == self.namespace)

    def first(self, name: str) -> Element | None:
        """The first of those, or None."""
        return next(self.own(name), None)

    def attribute(self, name: str) -> str | None:
        """The attribute of that name in the element's own namespace, or None."""
        return self.attributes.get("%s %s" % (self.namespace, name))


def parse(text: bytes, where: str) -> Element:
    """The root element. ``where`` names the document in errors. Raises BadInput for what is no XML, has a document
    type, or goes beyond the bounds.
    """
    builder = _Builder(where)
    parser = builder.parser
    given = understood = 0
    try:
        for piece in _pieces(text, encoding_of(text, where)):
            parser.Parse(piece, False)
            given += len(piece)
            understood = max(understood, parser.CurrentByteIndex)  # -1 while expat waits for more
            # Newer versions of it look at an unfinished tag again only when it has doubled.
            if given - understood > 2 * MAX_TAG_BYTES + _PIECE_BYTES:
                raise builder.refuse("a tag or comment has more than %d bytes" % MAX_TAG_BYTES, _TOO_MUCH)
        parser.Parse(b"", True)
    except UnicodeDecodeError as error:
        raise undecodable(error, where) from None
    except expat.ExpatError as error:
        problem = "it is not XML: %s (line %d, column %d)"
        raise BadInput(
            where, problem % (expat.ErrorString(error.code), error.lineno, error.offset + 1), _NO_XML
        ) from None
    return builder.root


def _pieces(text: bytes, encoding: str) -> Iterator[bytes]:
    """The document in UTF-8. Raises UnicodeDecodeError."""
    decoder = codecs.getincrementaldecoder(encoding)()
    for start in range(0, len(text), _PIECE_BYTES):
        yield decoder.decode(text[start : start + _PIECE_BYTES]).encode()
    decoder.decode(b"", True)


class _Builder:
    """Takes what expat finds. Bounds are checked as it comes, so nothing grows beyond them."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._open: list[Element] = []
        self._namespaces: list[Mapping[str, str]] = [_XML]  # declared by those that are open, by their prefixes
        self._count = self._attribute_count = 0
        self.parser = expat.ParserCreate(UTF_8)  # whatever it says to be in
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.root = Element("", "", 0, _NONE, [], [])

    def refuse(self, problem: str, instead: str) -> BadInput:
        return BadInput("%s, line %d" % (self._where, self.parser.CurrentLineNumber), problem, instead)

    def _doctype(self, name: str, system: str | None, public: str | None, has_subset: bool) -> None:
        raise self.refuse(
            "it has a document type (DOCTYPE), which could define entities",
            "An OVF descriptor needs none: remove it if you trust the package's origin",
        )

    def _start(self, qualified: str, attributes: Mapping[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise self.refuse("it has more than %d elements" % MAX_ELEMENTS, _TOO_MUCH)
        self._attribute_count += len(attributes)
        if self._attribute_count > MAX_ATTRIBUTES:
            raise self.refuse("it has more than %d attributes" % MAX_ATTRIBUTES, _TOO_MUCH)
        if len(self._open) >= MAX_DEPTH:
            raise self.refuse("its elements are nested more than %d deep" % MAX_DEPTH, _TOO_MUCH)
        self._namespaces.append(self._declared(attributes) if attributes else _NONE)
        prefix, colon, name = qualified.rpartition(":")
        namespace = self._namespace(prefix) if colon else self._known("")
        found = self._attributes(attributes) if attributes else _NONE
        element = Element(namespace, name, self.parser.CurrentLineNumber, found, [], [])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _declared(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """The namespaces that an element declares, by their prefixes, "" for the default one."""
        declared = {}
        for name, value in attributes.items():
            if name == "xmlns" or name.startswith("xmlns:"):
                if len(value) > MAX_NAMESPACE:
                    raise self.refuse("a namespace has more than %d characters" % MAX_NAMESPACE, _TOO_MUCH)
                declared[name[len("xmlns:") :]] = value
        return declared

    def _attributes(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        found = {}
        for qualified, value in attributes.items():
            prefix, colon, name = qualified.rpartition(":")
            if prefix == "xmlns" or qualified == "xmlns":
                continue
            key = "%s %s" % (self._namespace(prefix), name) if colon else name
            if key in found:
                raise self.refuse("the attribute %.80r is there twice" % qualified, _NO_XML)
            found[key] = value
        return found

    def _namespace(self, prefix: str) -> str:
        namespace = self._known(prefix)
        if not namespace:
            raise self.refuse("nothing declares the prefix %.80r" % prefix, _NO_XML)
        return namespace

    def _known(self, prefix: str) -> str:
        """The namespace of a prefix, "" without one."""
        return next((known[prefix] for known in reversed(self._namespaces) if prefix in known), "")

    def _end(self, _qualified: str) -> None:
        self._open.pop()
        self._namespaces.pop()

    def _characters(self, text: str) -> None:
        self._open[-1].pieces.append(text)
