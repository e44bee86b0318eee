# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds a module's qemu-img before it starts, so that what others do meanwhile comes at exactly the chosen moment."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from .faults import until


class Gate(NamedTuple):
    """Holds the n-th qemu-img of one kind until it is let through."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": "%s:%s" % (self.folder, os.environ["PATH"])}

    def wait(self) -> None:
        """Until somebody stands at the gate."""
        until((self.folder / "here").exists, "the module to come to the gate")

    def open(self) -> None:
        with (self.folder / "go").open("w") as go:
            go.write("go\n")


def gate(folder: Path, word: str, nth: int) -> Gate:
    """Before the n-th call of this sub-command. A task goes there by the gate's `env`."""
    folder.mkdir()
    os.mkfifo(folder / "go")
    real = shutil.which("qemu-img")
    assert real is not None
    script = f"""#!/bin/sh
gate={shlex.quote(str(folder))}
if [ "$1" = {word} ]; then
    echo >> "$gate/count"
    if [ "$(wc -l < "$gate/count")" -eq {nth} ]; then
        : > "$gate/here"
        read -r _ < "$gate/go"
    fi
fi
exec {shlex.quote(real)} "$@"
"""
    (folder / "qemu-img").write_text(script)
    (folder / "qemu-img").chmod(0o755)
    return Gate(folder)
