# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Properties of managed objects, many in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .session import Session


class Found(NamedTuple):
    """A managed object and those of the properties asked for that it has."""

    object: Any
    values: Mapping[str, Any]


def read(session: Session, doing: str, objects: Sequence[Any], names: Sequence[str]) -> list[Found]:
    """The named properties of objects of one kind. One that is gone is left out. Raises RemoteFailed."""
    from pyVmomi import vmodl

    if not objects:
        return []
    collector = vmodl.query.PropertyCollector
    specs = [collector.ObjectSpec(obj=item) for item in objects]
    return retrieve(session, doing, specs, {type(objects[0]): names})


def retrieve(session: Session, doing: str, specs: Sequence[Any], names: Mapping[type, Sequence[str]]) -> list[Found]:
    """The named properties of each kind of object that the object specifications lead to. Raises RemoteFailed."""
    from pyVmomi import vmodl

    kind = vmodl.query.PropertyCollector
    wanted = kind.FilterSpec(
        objectSet=list(specs),
        propSet=[kind.PropertySpec(type=of, pathSet=list(paths), all=False) for of, paths in names.items()],
        reportMissingObjectsInResults=True,
    )
    collector = session.content.propertyCollector
    page = session.ask(doing, collector.RetrievePropertiesEx, [wanted], kind.RetrieveOptions())
    found = []
    while page is not None:
        found += [Found(item.obj, {entry.name: entry.val for entry in item.propSet}) for item in page.objects]
        page = session.call(doing, collector.ContinueRetrievePropertiesEx, page.token) if page.token else None
    return found
