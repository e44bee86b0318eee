# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a package is signed, and what that is worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .._core.errors import BadInput, CommandFailed, ToolMissing
from .certificate import Verdict, check, parse
from .model import Problem

if TYPE_CHECKING:
    from .package import Package

_ANEW = "Get the package anew, or one that was signed anew"


class Signed(NamedTuple):
    """What the certificate's file ``name`` says. Without a ``verdict`` it is ``broken``, or ``unjudged`` because of
    something on this host.
    """

    name: str
    verdict: Verdict | None = None
    broken: Problem | None = None
    unjudged: str = ""


def signed(package: Package) -> Signed | None:
    """Look at the package's certificate; None without one. Raises what reading raises, TimedOut."""
    text, name = package.certificate, package.certificate_name or ""
    if text is None:
        return None
    manifest = package.manifest_text
    try:
        if manifest is None:
            raise BadInput(name, "there is no manifest that it could have signed", "Get the package anew")
        return Signed(name, check(parse(text, name), name, manifest, package.manifest_name or "", package.deadline))
    except BadInput as error:
        return Signed(name, broken=Problem(error.option, error.problem, error.expected))
    except (ToolMissing, CommandFailed) as error:
        return Signed(name, unjudged=str(error))


def problems(found: Signed, strictly: bool) -> Iterator[Problem]:
    """A signature that is wrong is always one; ``strictly``, so is one that nobody vouches for."""
    verdict = found.verdict
    if found.broken is not None:
        yield found.broken
    if verdict is not None and not verdict.verifies:
        yield Problem(found.name, "its signature isn't that of this manifest by %s" % verdict.signed_by, _ANEW)
    if not strictly:
        return
    if found.unjudged:
        yield Problem(found.name, "the signature can't be verified here: %s" % found.unjudged, "See there")
    if verdict is not None and not verdict.is_in_dates:
        told = "the certificate of %s is for %s to %s" % (verdict.signed_by, verdict.not_before, verdict.not_after)
        yield Problem(found.name, told, _ANEW)
    elif verdict is not None and not verdict.is_trusted:
        told = "%s, who signed it, isn't trusted by this host: %s" % (verdict.signed_by, verdict.doubt)
        yield Problem(found.name, told, "Let the host trust who vouches for him, or say verify: required")
