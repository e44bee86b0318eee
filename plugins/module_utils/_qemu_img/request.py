# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an info task wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .._core.errors import BadInput
from .._core.wait import check_timeout
from .model import Format
from .options import declared_options


class Request(NamedTuple):
    """What an info task looks up of each image beside its header.

    ``paths`` are as they were given, ``measure_options`` are for the measurement.
    """

    paths: tuple[str, ...]
    format: Format | None
    chain: bool
    check: bool
    map: bool
    measure: Format | None
    measure_options: Mapping[str, str]


def declared_request(params: Mapping[str, Any]) -> Request:
    """What an info task wants to know. Raises BadInput."""
    check_timeout(params["timeout"])
    if params["measure_options"] and not params["measure"]:
        raise BadInput(
            "measure_options", "they are for measure, which isn't asked for", "Add measure, or leave them out"
        )
    return Request(
        paths=tuple(params["path"]),
        format=Format(params["format"]) if params["format"] else None,
        chain=params["backing_chain"],
        check=params["check"],
        map=params["map"],
        measure=Format(params["measure"]) if params["measure"] else None,
        measure_options=declared_options(params["measure_options"]),
    )
