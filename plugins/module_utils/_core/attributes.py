# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's file attributes (owner, group, mode, SELinux context) of a file that a module manages."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from .errors import BadInput

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


_PERMISSIONS = 0o7777
_CHANGE = re.compile(r"[ugoa]*(?:[-+=][rwxXstugo]*)+")  # one of those that commas part: u=rw
_CAP_CHOWN = 1 << 0  # linux/capability.h


class FileAttributes:
    """What the task declares of the file's owner, mode and labels; ``add_file_common_args`` gives a module those
    options.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._changes: dict[str, Any] = {}

    def check(self) -> None:
        """Raise BadInput for what no file can get here, or not from this user: before any work is done.

        In check mode a user or group may be missing where the file is: an earlier task of the play would have made it.
        """
        params = self._module.params
        if params["state"] == "absent":
            return
        if params["mode"] is not None:
            _check_mode(params["mode"])
        if params["owner"] is None and params["group"] is None:
            return
        path = os.path.realpath(params["path"])
        there = os.stat(path) if os.path.exists(path) else None
        may_come = there is None and self._module.check_mode
        if params["owner"] is not None:
            owner = _user(params["owner"])
            if owner is not None:
                _check_owner(owner, there.st_uid if there else None)
            elif not may_come:
                raise _nobody("owner", "user", params["owner"])
        if params["group"] is not None:
            group = _group(params["group"])
            if group is not None:
                _check_group(group, there.st_gid if there else None)
            elif not may_come:
                raise _nobody("group", "group", params["group"])

    def dress(self, path: str, mode: int | None) -> None:
        """Give them to a new file, before anybody can see it under its final name: all but those of its file system
        (chattr), of which some would forbid that it gets that name.

        ``mode`` is what it has without a declared one. None: it replaces another, whose attributes it has by then; what
        differs from those is part of the task's diff.
        """
        declared = self._declared(path)
        # Not where another is declared: until it has that, the file would be open to whom it is to be closed.
        if mode is not None and not _is_absolute(declared.get("mode")):
            os.chmod(path, mode)
        diff = self._changes if mode is None else None
        declared["attributes"] = None
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
        self._drop_had(declared)
        return bool(self._module.set_fs_attributes_if_different(declared, False, diff))

    def _drop_had(self, declared: dict[str, Any]) -> None:
        """Ansible compares added attributes (+i) with all that there are, so on a file system with attributes of its
        own (ext4's e) each run would be a change; what is taken away it always takes for one, and so it does the same
        letters in another order than lsattr's.
        """
        change = declared["attributes"]
        if not change:
            return
        found = self._module.get_file_attributes(declared["path"], include_version=False).get("attr_flags")
        if found is None:
            return  # nobody can tell: then let Ansible say so
        named, there = set(change.lstrip("+-=")), set(found)
        if change[0] == "+":
            is_so = named <= there
        elif change[0] == "-":
            is_so = not named & there
        else:
            is_so = named == there
        if is_so:
            declared["attributes"] = None

    def _declared(self, path: str) -> dict[str, Any]:
        return dict(self._module.load_file_common_arguments(self._module.params, path=path))


def _check_mode(mode: object) -> None:
    if isinstance(mode, bool):
        raise BadInput("mode", "%s is no mode" % str(mode).lower(), 'Write one such as "0640"')
    if _is_absolute(mode):
        number = mode if isinstance(mode, int) else int(str(mode), 8)
        if number & ~_PERMISSIONS or number < 0:
            raise BadInput("mode", "%s is more than permissions" % oct(number), 'Write one such as "0640"')
    elif not all(_CHANGE.fullmatch(change) for change in str(mode).split(",")):
        raise BadInput("mode", "%r is neither octal nor symbolic" % mode, 'Write one such as "0640" or u=rw,g=r,o=')


def _user(name: str) -> int | None:
    """By name or number; None for a name that nobody has."""
    import pwd

    try:
        return int(name) if _is_number(name) else pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _group(name: str) -> int | None:
    """As for a user."""
    import grp

    try:
        return int(name) if _is_number(name) else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _nobody(option: str, what: str, name: str) -> BadInput:
    return BadInput(option, "this host has no %s %r" % (what, name), "Create it first, or correct the name")


def _check_owner(wanted: int, current: int | None) -> None:
    user = os.geteuid()
    if wanted not in (user, current) and not _may_give_away():
        raise BadInput("owner", "user %d can't give a file to user %d" % (user, wanted), _AS_ROOT)


def _check_group(wanted: int, current: int | None) -> None:
    if wanted not in (os.getegid(), *os.getgroups(), current) and not _may_give_away():
        raise BadInput("group", "user %d isn't in group %d" % (os.geteuid(), wanted), _AS_ROOT)


_AS_ROOT = "Run the task as root, such as with become: true, or leave it out"


def _may_give_away() -> bool:
    if os.geteuid() == 0:
        return True
    try:
        with open("/proc/self/status", "rb") as status:
            effective = [line.split()[1] for line in status if line.startswith(b"CapEff:")]
    except OSError:
        return False  # another system, on which only root may
    return bool(effective) and bool(int(effective[0], 16) & _CAP_CHOWN)


def _is_absolute(mode: object) -> bool:
    """Whether a declared mode is a number, not changes to the one that is there."""
    try:
        return isinstance(mode, int) or int(str(mode), 8) >= 0
    except ValueError:
        return False
