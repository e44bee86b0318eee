# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images as they are, for `qemu_img_info`: read only, and never further than the file that was named unless asked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from .._core.capabilities import Capability, missing_protections
from .._core.errors import BadInput, LifecycleError, Refused, TimedOut, ToolMissing, describe
from .._core.names import absolute
from .._core.wait import Deadline
from . import record as records
from .declare import declared_path
from .examine import check, read_map
from .found import Holder
from .header import inspect_path
from .image import describe_image
from .model import Format, ImageInfo, Record, is_protocol, known_format
from .parse import parse_measure
from .request import Request
from .tool import Node, QemuImg, option_list
from .usage import holders

TASK_FAULTS = (ToolMissing, TimedOut)  # what hinders the whole task, not one image
CHAIN_LIMIT = 64  # QEMU itself opens longer chains, but nobody runs a machine on one


class Images:
    """What an info task looks at: one entry for each path, in order; a missing or unreadable image is an entry too."""

    def __init__(self, wanted: Request, deadline: Deadline) -> None:
        self._wanted = wanted
        self._qemu_img = QemuImg(deadline)

    def observe(self) -> list[dict[str, object]]:
        """See Observed."""
        return [self._entry(path) for path in self._wanted.paths]

    def _entry(self, given: str) -> dict[str, object]:
        try:
            path = declared_path(given, "path")
        except BadInput as error:
            return {
                "path": given,
                "exists": os.path.lexists(given) if "\0" not in given else False,
                "error": str(error),
            }
        if not os.path.exists(path):
            return {"path": path, "exists": False}
        try:
            return self._existing(path)
        except TASK_FAULTS:
            raise
        except (LifecycleError, OSError) as error:
            entry: dict[str, object] = {"path": path, "exists": True, "error": _fault(path, error)}
            if isinstance(error, Refused) and "references" in error.facts:
                entry["references"] = error.facts["references"]
            return entry

    def _existing(self, path: str) -> dict[str, object]:
        if not os.path.isfile(path):
            raise BadInput("path", "%s is no regular file" % path, "Name an image file")
        record = records.read(os.path.realpath(path))  # its file, where it is one, lies beside the image itself
        node = Node(path, self._format(path, record))
        info = self._qemu_img.info(node)
        entry = describe_image(path, info)
        entry["references"] = list(inspect_path(path).references) if node.format is not Format.RAW else []
        entry["in_use_by"] = [_holder(holder) for holder in holders(path)]
        entry["made_from"] = record.source.location if record and record.source else None
        try:
            for name, found in self._on_request(node, info):
                entry[name] = found
        except TASK_FAULTS:
            raise
        except (LifecycleError, OSError) as error:  # what was read before is told all the same
            entry["error"] = _fault(path, error)
        return entry

    def _format(self, path: str, record: Record | None) -> Format:
        if self._wanted.format is not None:
            return self._wanted.format
        if record is not None:
            return record.format
        return _header_format(path)

    def _on_request(self, node: Node, info: ImageInfo) -> Iterator[tuple[str, object]]:
        wanted = self._wanted
        reads_below = wanted.map or wanted.measure is not None
        chain = self._chain(node.path, info) if wanted.chain or reads_below else []
        if wanted.chain:
            yield "backing_chain", chain
        if wanted.check:
            result = check(node, self._qemu_img)
            yield "check", result._asdict() if result else None
        if reads_below:
            _refuse_unreadable(node.path, chain)
        if wanted.map:
            yield "map", read_map(node, self._qemu_img).summary
        if wanted.measure is not None:
            words = ["measure", "-U", "--output=json", "-O", wanted.measure.value, *option_list(wanted.measure_options)]
            done = self._qemu_img.run([*words, *node.arguments()], "measuring %s" % node.path)
            yield "required_size", parse_measure(done.stdout)

    def _chain(self, path: str, info: ImageInfo) -> list[dict[str, object]]:
        """The files below, top first. Names that QEMU would take for a protocol end it: they are no files."""
        chain: list[dict[str, object]] = []
        seen = {os.path.realpath(path)}
        while info.backing_file is not None:
            name = info.backing_file
            if len(chain) == CHAIN_LIMIT:
                chain.append({"path": name, "error": "the chain is longer than %d files" % CHAIN_LIMIT})
                break
            if is_protocol(name):
                chain.append({"path": name, "exists": False, "error": "a protocol of QEMU's, no file; not followed"})
                break
            path = absolute(name, os.path.dirname(path))
            if os.path.realpath(path) in seen:
                chain.append({"path": path, "exists": True, "error": "the chain leads back to this file"})
                break
            seen.add(os.path.realpath(path))
            if not os.path.isfile(path):
                chain.append({"path": path, "exists": False, "error": "the backing file is not there"})
                break
            try:
                info = self._qemu_img.info(Node(path, _backing_format(path, info)))
            except TASK_FAULTS:
                raise
            except (LifecycleError, OSError) as error:
                chain.append({"path": path, "exists": True, "error": _fault(path, error)})
                break
            chain.append(describe_image(path, info))
        return chain

    def result(self, seen: list[dict[str, object]]) -> Mapping[str, object]:
        """See Observed."""
        return {"images": seen}

    def extras(self) -> Mapping[str, object]:
        """See Observed."""
        return {"commands": self._qemu_img.commands}

    def warnings(self) -> Sequence[str]:
        """See Observed."""
        return missing_protections((Capability.OFD_LOCKS, Capability.PROC, Capability.USER_XATTRS))


def _refuse_unreadable(path: str, chain: Sequence[Mapping[str, object]]) -> None:
    for below in chain:
        if "error" in below:
            raise Refused(
                "map or measure %s" % path,
                "both read what is below it, and of %s is to say: %s" % (below["path"], below["error"]),
                "Leave map and measure out, or mend the chain",
            )


def _fault(path: str, error: Exception) -> str:
    return "%s can't be read: %s." % (path, describe(error)) if isinstance(error, OSError) else str(error)


def _holder(holder: Holder) -> dict[str, object]:
    return {"pid": holder.pid or None, "name": holder.name, "writes": holder.writes}


def _header_format(path: str) -> Format:
    header = inspect_path(path)
    if header.unfit:
        raise BadInput("path", "%s is %s" % (path, header.unfit), "Unpack or convert it, or say format: raw")
    return header.format or Format.RAW


def _backing_format(path: str, above: ImageInfo) -> Format:
    """As the overlay says; only an overlay that says nothing leaves it to the header."""
    return known_format(above.backing_format) or _header_format(path)
