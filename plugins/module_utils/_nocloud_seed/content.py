# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a NoCloud seed, made from what the user declares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .._core.errors import BadInput

# Names and label are cloud-init's (its NoCloud data source); a volume label is at most 32 characters, theirs is fixed.
LABEL = "cidata"
FILES = {
    "user_data": "user-data",
    "meta_data": "meta-data",
    "network_config": "network-config",
    "vendor_data": "vendor-data",
}
# cloud-init tells what its user data are by the first line.
CLOUD_CONFIG = "#cloud-config\n"
HEADED = ("user_data", "vendor_data")

Files = Mapping[str, bytes]


def files(options: Mapping[str, Any]) -> Files:
    """The seed's files by name. user-data and meta-data are always there: without them cloud-init takes it for no seed.

    Raises BadInput.
    """
    for option in FILES:
        _check_kind(option, options.get(option))
    found = {name: _document(option, options.get(option)) for option, name in FILES.items()}
    made = {name: content for name, content in found.items() if content is not None}
    made.setdefault("user-data", CLOUD_CONFIG.encode())
    made["meta-data"] = _meta_data(options.get("meta_data"), made)
    return made


def _check_kind(option: str, given: Any) -> None:
    if given is not None and not isinstance(given, (Mapping, str)):
        raise BadInput(
            option,
            "it is neither a dictionary nor a text (but of type %s)" % type(given).__name__,
            "Write a dictionary, or give the file's text",
        )


def _meta_data(given: Any, others: Files) -> bytes:
    """With an instance-id, once for each of which cloud-init does its work: by default it follows the content."""
    if isinstance(given, str):
        return _text("meta_data", given)
    data = dict(given or {})
    if "instance-id" not in data:
        digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode())
        for name in sorted(set(others) - {"meta-data"}):
            digest.update(b"\0%s\0%d\0" % (name.encode(), len(others[name])) + others[name])
        data["instance-id"] = "seed-" + digest.hexdigest()[:20]
    return _dumped(data)


def _document(option: str, given: Any) -> bytes | None:
    if given is None:
        return None
    if isinstance(given, str):
        return _text(option, given)
    head = CLOUD_CONFIG if option in HEADED else ""
    return head.encode() + _dumped(given)


def _dumped(data: Any) -> bytes:
    """JSON, which is YAML, and which needs nothing that a managed host may lack."""
    return json.dumps(data, indent=2, sort_keys=True).encode() + b"\n"


def _text(option: str, text: str) -> bytes:
    if not text.strip():
        raise BadInput(option, "it is empty", "Leave it out, or write what cloud-init shall find")
    return text.encode("utf-8", "surrogateescape")
