# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What values a property takes, and how they are written to vSphere. Pure.

Types and qualifiers are those of OVF (DSP0243 9.5: ``uint8`` with ``MinValue(1)``) and of vSphere (VAppPropertyInfo:
``string(1..20)``, ``ip:VM Network``, beside the standard's as ``Ip("VM Network")``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .model import Property

STRING, BOOLEAN, INTEGER, REAL, IP = "string", "boolean", "integer", "real", "ip"
_BITS = re.compile(r"([us])int(8|16|32|64)")
_TYPE = re.compile(r"(\w+)\s*(?:\((.*)\)|\[(.*)\]|:(.*))?", re.DOTALL)
_RANGE = re.compile(r"\s*([-+.\w]{0,40}?)\s*\.\.\s*([-+.\w]{0,40})\s*")
_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_LIMIT = re.compile(r"\b(MinLen|MaxLen|MinValue|MaxValue)\s*\(\s*([-+.\w]+)\s*\)", re.IGNORECASE)
_VALUE_MAP = re.compile(r"\bValueMap\s*\{", re.IGNORECASE)
_IP = re.compile(r"\bIp\b\s*(\(\s*[\"'])?", re.IGNORECASE)
# vSphere's own, which it fills in from a network's protocol profile.
_COMPUTED = re.compile(
    r"\b(?:AutoIp|Dns|DomainName|Gateway|HostPrefix|HttpProxy|Net|Netmask|SearchPath|Subnet)\s*\(\s*[\"']",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"[-+]?[0-9]{1,20}")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_BOOLEANS = {"true": "True", "yes": "True", "false": "False", "no": "False"}
LONGEST_STRING = 65535  # VAppPropertyInfo.type
_LISTED = 20  # of many names in one message


class Unfit(Exception):
    """A value that a property doesn't take: what is wrong, and what to do."""

    def __init__(self, problem: str, instead: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.instead = instead


class Kind(NamedTuple):
    """A property's type with its qualifiers. ``least`` and ``most`` bound a number, and a text's number of characters.

    ``allowed``: only these values, among whole numbers also ranges such as ``1..5``. ``is_pooled``: vSphere may take
    the address from the pool of a network. ``is_computed``: it fills the value in from what it knows of a network.
    ``is_secret``: its values are never shown.
    """

    base: str = STRING
    least: float | None = None
    most: float | None = None
    allowed: tuple[str, ...] = ()
    is_pooled: bool = False
    is_computed: bool = False
    is_secret: bool = False


def kind_of(given: Property) -> Kind:
    """The kind of a property. An unknown type takes every text: vSphere will judge it."""
    match = _TYPE.fullmatch(given.type.strip())
    name, limits, choice, network = match.groups() if match else (STRING, None, None, None)
    name = name.lower()
    kind = _plain(name)._replace(is_secret=given.password or name == "password", is_pooled=bool(network))
    bounds = _RANGE.fullmatch(limits) if limits else None
    if bounds:
        kind = _narrowed(kind, bounds.group(1), bounds.group(2))
    if choice:
        kind = kind._replace(allowed=tuple(value for _start, _end, value in _strings(choice)))
    return _qualified(kind, given.qualifiers)


def listed(names: Iterable[str]) -> str:
    """Names for a message: not all, if they are many."""
    all_names = list(names)
    more = ["and %d more" % (len(all_names) - _LISTED)] if len(all_names) > _LISTED else []
    return ", ".join(all_names[:_LISTED] + more)


def _plain(name: str) -> Kind:
    bits = _BITS.fullmatch(name)
    if bits or name == "int":  # VAppPropertyInfo: int is one of 32 bits
        sign, size = (bits.group(1), int(bits.group(2))) if bits else ("s", 32)
        return Kind(INTEGER, *((0, 2**size - 1) if sign == "u" else (-(2 ** (size - 1)), 2 ** (size - 1) - 1)))
    if name in ("real", "real32", "real64"):
        return Kind(REAL)
    if name in (BOOLEAN, IP):
        return Kind(name)
    return Kind(STRING, None, LONGEST_STRING)


def _qualified(kind: Kind, qualifiers: str) -> Kind:
    strings = list(_strings(qualifiers))
    outside = _blanked(qualifiers, strings)  # a value may read like a qualifier
    for name, bound in _LIMIT.findall(outside):
        is_length = name.lower().endswith("len")
        if is_length == (kind.base == STRING):
            kind = _narrowed(kind, bound, "") if name.lower().startswith("min") else _narrowed(kind, "", bound)
    opened = _VALUE_MAP.search(outside)
    if opened:
        kind = kind._replace(allowed=_allowed(outside, opened.end(), strings))
    address = _IP.search(outside)
    if address and kind.base == STRING:  # OVF has no type of its own for them
        kind = kind._replace(base=IP, is_pooled=bool(address.group(1)))
    return kind._replace(is_computed=_COMPUTED.search(outside) is not None)


def _allowed(outside: str, start: int, strings: Sequence[tuple[int, int, str]]) -> tuple[str, ...]:
    """The values from there up to the closing brace. Some write numbers without quotes."""
    brace = outside.find("}", start)
    end = brace if brace >= 0 else len(outside)
    quoted = tuple(value for begin, _end, value in strings if start <= begin < end)
    return quoted or tuple(value.strip() for value in outside[start:end].split(",") if value.strip())


def _strings(text: str) -> Iterator[tuple[int, int, str]]:
    """The quoted strings in it: begin, end and value. In time that grows with the length alone."""
    start = -1
    for mark in _QUOTE.finditer(text):
        if mark.group() != '"':
            continue
        if start < 0:
            start = mark.start()
            continue
        yield start, mark.end(), re.sub(r"\\(.)", r"\1", text[start + 1 : mark.start()], flags=re.DOTALL)
        start = -1


def _blanked(text: str, strings: Sequence[tuple[int, int, str]]) -> str:
    """The text with nothing but blanks within the quotes."""
    pieces, done = [], 0
    for start, end, _value in strings:
        pieces += [text[done : start + 1], " " * (end - start - 2)]
        done = end - 1
    return "".join([*pieces, text[done:]])


def _narrowed(kind: Kind, least: str, most: str) -> Kind:
    low, high = _number(least), _number(most)
    if low is not None:
        kind = kind._replace(least=low if kind.least is None else max(low, kind.least))
    if high is not None:
        kind = kind._replace(most=high if kind.most is None else min(high, kind.most))
    return kind


def _number(text: str) -> float | None:
    """Whole numbers stay whole: those of 64 bits are more than a float can tell apart."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else None


def text_of(value: object, kind: Kind) -> str:
    """``value``, of whatever type YAML made it, as vSphere wants it. Raises Unfit."""
    if value is None:
        raise Unfit("it has no value", 'Give it one ("" for an empty one), or leave it out')
    if isinstance(value, (list, tuple, dict)):
        raise Unfit("a property is one value, no list or dictionary", "Write one text, such as with Jinja's join")
    if kind.base == BOOLEAN:
        return _boolean(value, kind)
    if kind.base in (INTEGER, REAL):
        return _numeric(value, kind)
    text = _string(value, kind)
    if kind.base == IP:
        return _address(text, kind)
    _check_string(text, kind)
    return text


def _shown(value: object, kind: Kind) -> str:
    return "the value given" if kind.is_secret else "%r" % (value,)


def _boolean(value: object, kind: Kind) -> str:
    text = _BOOLEANS.get(str(value).strip().lower())
    if text is None:
        raise Unfit("%s is no truth value" % _shown(value, kind), "Write true or false")
    return text


def _numeric(value: object, kind: Kind) -> str:
    is_whole = kind.base == INTEGER
    text = str(value).strip()
    number = (
        None if isinstance(value, bool) or not (_WHOLE if is_whole else _DECIMAL).fullmatch(text) else _number(text)
    )
    if number is None or not math.isfinite(number):
        what = "whole number" if is_whole else "number"
        raise Unfit("%s is no %s" % (_shown(value, kind), what), "Write one without quotes")
    if (kind.least is not None and number < kind.least) or (kind.most is not None and number > kind.most):
        raise Unfit("%s is out of range" % _shown(value, kind), "Write a number of %s" % _words(kind))
    if kind.allowed and not any(_covers(entry, text, number) for entry in kind.allowed):
        raise Unfit("%s is not among its values" % _shown(value, kind), "Use one of %s" % listed(kind.allowed))
    return str(number) if is_whole else text


def _covers(entry: str, text: str, number: float) -> bool:
    """Whether one of the allowed values is the number, or a range with it."""
    bounds = _RANGE.fullmatch(entry)
    if bounds is None:
        return entry.strip() == text or _number(entry.strip()) == number
    low, high = _number(bounds.group(1)), _number(bounds.group(2))
    return (low is None or low <= number) and (high is None or number <= high)


def _string(value: object, kind: Kind) -> str:
    """YAML's own reading of a text without quotes may have changed it: what isn't certain is refused."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        same = [entry for entry in kind.allowed if entry.lower() == str(value).lower()]
        if len(same) == 1:
            return same[0]
        raise Unfit(
            "%s is a truth value, and it takes a text" % _shown(value, kind),
            "Write the text in quotes, as the product expects it",
        )
    if isinstance(value, int):
        return str(value)
    raise Unfit(
        "%s is a number with a fraction, and it takes a text" % _shown(value, kind),
        "Write the text in quotes, so that no digit is lost",
    )


def _check_string(text: str, kind: Kind) -> None:
    if kind.allowed and text not in kind.allowed:
        raise Unfit(
            "%s is not among its values" % _shown(text, kind), "Use one of %s" % listed(map(repr, kind.allowed))
        )
    too_short = kind.least is not None and len(text) < kind.least
    if too_short or (kind.most is not None and len(text) > kind.most):
        problem = "it is too %s" % ("short" if too_short else "long")
        raise Unfit(problem, "Write a text of %s characters" % _words(kind))
    if _NO_XML.search(text):
        raise Unfit("it has characters that XML can't carry", "Leave out control characters")


def _address(text: str, kind: Kind) -> str:
    import ipaddress

    if not text.strip():
        return ""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        problem = "%s is no IP address" % _shown(text, kind)
        raise Unfit(problem, "Write one such as 192.0.2.10, without a prefix length") from None


def _words(kind: Kind) -> str:
    if kind.least is None:
        return "at most %s" % kind.most
    return "at least %s" % kind.least if kind.most is None else "%s to %s" % (kind.least, kind.most)
