# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where guests run: the directory below which each has its own, and who may write there."""

from __future__ import annotations

import os
import stat

from .._core.errors import BadInput, Refused
from .places import NAME, Places, below
from .process import pidfile_owner
from .qmp import SOCKET_PATH_BYTES


def places(name: str, run_dir: str | None) -> Places:
    """The places of the guest ``name`` below ``run_dir`` (None: the user's own default). Raises BadInput."""
    if not NAME.match(name):
        raise BadInput(
            "name",
            "%r can't name a guest" % name,
            "Use 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first",
        )
    base = _own_base(name) if run_dir is None else run_dir
    if not os.path.isabs(base) or "%" in base or "\n" in base:  # QEMU takes a % in a log file's name for a placeholder
        raise BadInput(
            "run_dir", "%r can't be used" % base, "Name a directory by its absolute path, without % and line breaks"
        )
    if not _leads_nowhere(base):
        base = os.path.realpath(base)  # one guest has one place, by whatever way it is reached
    found = below(base, name)
    length = len(os.fsencode(found.agent_socket))
    if length > SOCKET_PATH_BYTES:
        raise BadInput(
            "run_dir",
            "the socket %s would have a path of %d bytes, and the system allows %d"
            % (found.agent_socket, length, SOCKET_PATH_BYTES),
            "Choose a directory with a shorter path, such as %s" % default_base(),
        )
    return found


def default_base() -> str:
    """The directory below which guests run if no other is declared: a restart of the host empties it."""
    bases = default_bases()
    return next((base for base in bases if os.path.isdir(os.path.dirname(base))), bases[-1])


def default_bases() -> tuple[str, ...]:
    """All that it may be, the best first: sessions of one user differ, with logind or without, or by cron."""
    user = os.geteuid()
    if user == 0:
        return ("/run/vmops",)
    # In /tmp it may be somebody else's: that prepare_base() finds.
    found = [os.environ.get("XDG_RUNTIME_DIR"), "/run/user/%d" % user]
    return (*(os.path.join(folder, "vmops") for folder in found if folder), "/tmp/vmops-%d" % user)


def _own_base(name: str) -> str:
    """The default one, or where an earlier session of this user started the guest, if it runs there."""
    for base in default_bases():
        if _is_ours(base) and pidfile_owner(os.path.join(base, name, "qemu.pid")) is not None:
            return base
    return default_base()


def _is_ours(folder: str) -> bool:
    try:
        seen = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid()


def prepare_base(base: str) -> None:
    """Make the directory below which guests run, if need be. Raises what check_base raises."""
    check_base(base)
    os.makedirs(base, 0o700, exist_ok=True)
    check_base(base)


def check_base(base: str) -> None:
    """Make sure that no stranger can put others' files where guests run, or that such a place can be made.

    Raises Refused.
    """
    instead = "Choose another run_dir"
    if _leads_nowhere(base):
        raise Refused("use %s" % base, "it is a link that leads nowhere", instead)
    there = base
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    seen = os.stat(there)
    if not stat.S_ISDIR(seen.st_mode):
        raise Refused("use %s" % base, "%s is no directory" % there, instead)
    if there != base:
        return
    open_to_all = bool(seen.st_mode & stat.S_IWOTH) and not seen.st_mode & stat.S_ISVTX
    if seen.st_uid not in (os.geteuid(), 0) or open_to_all:
        raise Refused(
            "use %s" % base,
            "others may replace what lies in it (owner %d, mode %04o)" % (seen.st_uid, stat.S_IMODE(seen.st_mode)),
            "Choose a run_dir that belongs to the task's own user",
        )


def _leads_nowhere(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def prepare_folder(folder: str) -> None:
    """Make one guest's directory for this user alone, or make sure that it is so. Raises Refused."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    check_folder(folder)


def check_folder(folder: str) -> None:
    """Make sure that a guest's directory, if there is one, is this user's alone. Raises Refused."""
    try:
        seen = os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    private = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and not seen.st_mode & 0o077
    if not private:
        raise Refused(
            "run a guest in %s" % folder,
            "it isn't a directory of this user alone (owner %d, mode %04o)" % (seen.st_uid, stat.S_IMODE(seen.st_mode)),
            "Who can write there can take the place of the guest's sockets: remove it or choose another run_dir",
        )
