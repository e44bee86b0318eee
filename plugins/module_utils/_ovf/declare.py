# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A package as a task declares it. The options are those of the documentation fragment ``ovf_source``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from .._core.errors import BadInput, describe
from .preflight import IF_PRESENT, VERIFY
from .source import Access, is_url

_SECRET_LENGTH = 8
SOURCE_SPEC: Mapping[str, Mapping[str, object]] = {
    "source": {"type": "str", "required": True},
    "url_username": {"type": "str"},
    "url_password": {"type": "str", "no_log": True},
    "url_headers": {"type": "dict", "default": {}, "no_log": True},
    "url_validate_certs": {"type": "bool", "default": True},
    "url_ca_path": {"type": "path"},
    "url_use_proxy": {"type": "bool", "default": True},
    "verify": {"type": "str", "choices": list(VERIFY), "default": IF_PRESENT},
    "stall_timeout": {"type": "int", "default": 60},
}


def declared_location(params: Mapping[str, Any]) -> str:
    """The path or URL of the package. Raises BadInput."""
    given = str(params["source"]).strip()
    if not given:
        raise BadInput("source", "it is empty", "Give the path or the URL of an .ovf or .ova file")
    if any(ord(character) < 32 for character in given):
        raise BadInput("source", "%r has control characters" % given, "Correct the path or the URL")
    return given if is_url(given) else os.path.expanduser(given)


def declared_access(params: Mapping[str, Any]) -> Access:
    """How its server is asked. Raises BadInput."""
    if params["stall_timeout"] <= 0:
        raise BadInput("stall_timeout", "%d seconds are no time" % params["stall_timeout"], "Give a number above 0")
    if params["url_password"] is not None and params["url_username"] is None:
        raise BadInput("url_password", "it is of no user", "Add url_username")
    authorities = params["url_ca_path"]
    if authorities is not None:
        _check_authorities(authorities)
    return Access(
        headers={str(name): str(value) for name, value in params["url_headers"].items()},
        username=params["url_username"],
        password=params["url_password"],
        validate_certs=params["url_validate_certs"],
        ca_path=authorities,
        use_proxy=params["url_use_proxy"],
        stall_timeout_s=params["stall_timeout"],
        retries=params.get("retries", Access().retries),
    )


def _check_authorities(path: str) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # an SSLError is one
        raise BadInput(
            "url_ca_path", "%s can't be used: %s" % (path, describe(error)), "Name a file with certificates (PEM)"
        ) from None


def secrets(params: Mapping[str, Any]) -> set[str]:
    """What the URL has that nobody should see in a log."""
    if "://" not in params["source"]:
        return set()
    try:
        parts = urlsplit(params["source"])
        password = parts.password or ""
    except ValueError:
        return set()
    # What is masked is masked wherever it stands: a short query is no secret, and might be a part of any word.
    query = parts.query if len(parts.query) >= _SECRET_LENGTH else ""
    return {secret for secret in (query, password, unquote(password)) if secret}
