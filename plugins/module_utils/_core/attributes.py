# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's file attributes (owner, group, mode, SELinux context) of a file that a module manages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class FileAttributes:
    """What the task declares of the file's owner, mode and labels; ``add_file_common_args`` gives a module those
    options.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._changes: dict[str, Any] = {}

    def dress(self, path: str, mode: int | None) -> None:
        """Give them to a new file, before anybody can see it under its final name.

        ``mode`` is what it has without a declared one. None: it replaces another, whose attributes it has by then; what
        differs from those is part of the task's diff.
        """
        declared = self._declared(path)
        # Not where another is declared: until it has that, the file would be open to whom it is to be closed.
        if mode is not None and not _is_absolute(declared.get("mode")):
            os.chmod(path, mode)
        diff = self._changes if mode is None else None
        self._module.set_fs_attributes_if_different(declared, False, diff)

    def settle(self, diff: dict[str, Any]) -> bool:
        """Give them to the managed file where they differ (in check mode: only tell); whether they differ.

        ``diff`` is completed.
        """
        if self._module.params["state"] == "absent":
            return False
        for side, attributes in self._changes.items():
            if isinstance(attributes, dict):
                diff[side].update(attributes)
        declared = self._declared(os.path.realpath(self._module.params["path"]))  # a link has none of its own
        return bool(self._module.set_fs_attributes_if_different(declared, False, diff))

    def _declared(self, path: str) -> dict[str, Any]:
        return dict(self._module.load_file_common_arguments(self._module.params, path=path))


def _is_absolute(mode: object) -> bool:
    """Whether a declared mode is a number, not changes to the one that is there."""
    try:
        return isinstance(mode, int) or int(str(mode), 8) >= 0
    except ValueError:
        return False
