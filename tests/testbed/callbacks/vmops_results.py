# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes every task's result and the recap to the file named by VMOPS_RESULTS_FILE: no core brings such a callback."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: vmops_results
type: aggregate
short_description: Results as JSON, for the tests
description: Writes every task's result and the recap to the file named by VMOPS_RESULTS_FILE.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "vmops_results"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._tasks = []
        self._started = {}

    def _note(self, result, **flags):
        # core 2.19 gave these three names without the underscore and deprecates the old ones
        task, host, values = (
            getattr(result, name) if hasattr(result, name) else getattr(result, f"_{name}")
            for name in ("task", "host", "result")
        )
        # not by the base class's own dump, which leaves out the diff
        told = {name: value for name, value in values.items() if not name.startswith("_ansible_")}
        seconds = time.monotonic() - self._started.pop((task._uuid, host.name), time.monotonic())
        self._tasks.append({"name": task.name, "host": host.name, "seconds": seconds, "result": {**told, **flags}})

    def v2_runner_on_start(self, host, task):
        self._started[(task._uuid, host.name)] = time.monotonic()

    def v2_runner_on_ok(self, result):
        self._note(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._note(result, failed=True)

    def v2_runner_on_unreachable(self, result):
        self._note(result, unreachable=True)

    def v2_runner_on_skipped(self, result):
        self._note(result, skipped=True)

    def v2_playbook_on_stats(self, stats):
        recap = {host: stats.summarize(host) for host in stats.processed}
        Path(os.environ["VMOPS_RESULTS_FILE"]).write_text(
            json.dumps({"tasks": self._tasks, "stats": recap}, default=str)
        )
