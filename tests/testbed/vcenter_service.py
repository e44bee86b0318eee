# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for a vCenter server with an appliance's package beside it, for Molecule: `vcenter_service FOLDER`.

How to reach them is in FOLDER/service.json as soon as it answers. It ends by SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.tools import gotools

from .appliance import APPLIANCE
from .ovf_packages import make_package
from .vcenter import NEWEST, vcenter


def main(folder: Path) -> None:
    told = folder / "service.json"
    told.unlink(missing_ok=True)
    # blocked from here on, so that none is missed; the server's process ends with this one, however it ends
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    package = make_package(folder / "package", APPLIANCE)
    with vcenter(folder) as server:
        service = {
            "pid": os.getpid(),
            "options": server.options,
            "cafile": str(server.cafile),
            "package": str(package),
            "govc": str(gotools.built(NEWEST) / "govc"),
            "environ": {name: value for name, value in server.govc_environ().items() if name.startswith("GOVC_")},
        }
        whole = told.with_suffix(".new")
        whole.write_text(json.dumps(service))
        whole.rename(told)
        signal.sigwait([signal.SIGTERM])
    told.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
