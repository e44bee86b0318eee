# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import through real playbooks: a task's time limit, an async job's limit, and an ordinary run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.testbed.faults import until
from tests.testbed.importing import importing
from tests.testbed.playbooks import run_tasks

pytestmark = pytest.mark.every_core


@pytest.fixture
def bench(tmp_path):
    with importing(tmp_path) as found:
        yield found


def task(bench, **keywords):
    return {"name": "import", "vmops.lifecycle.ovf_import": bench.options(), **keywords}


def test_an_ordinary_run(bench, tmp_path):
    again = {**task(bench), "name": "again"}
    play = run_tasks(tmp_path, [task(bench), again], "--diff")
    assert play.rc == 0, play.text
    assert play.tasks["import"]["changed"]
    assert not play.tasks["again"]["changed"]
    assert bench.server.password not in play.text
    bench.assert_imported()


def never_begins(bench):
    bench.server.set(lease_begins="stuck")


def never_arrives(bench):
    bench.server.upload_rule("silent")


LIMITS = {
    "timeout, waiting": ("timeout", never_begins),
    "timeout, uploading": ("timeout", never_arrives),
    "async, uploading": ("async", never_arrives),
}
SHORTEST_S = 30
OVER_A_WHOLE_PLAY = 3
"""How many times as long as a whole play takes are the limits, so that each task has come to where it hangs by then."""


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """Plays whose task never ends by itself. They wait for their limits together."""
    with ExitStack() as benches, ThreadPoolExecutor() as plays:

        def made():
            folder = tmp_path_factory.mktemp("limited")
            return folder, benches.enter_context(importing(folder))

        folder, bench = made()
        began = time.monotonic()
        assert run_tasks(folder, [task(bench)]).rc == 0
        limit_s = int(max(SHORTEST_S, OVER_A_WHOLE_PLAY * (time.monotonic() - began)))

        def begin(limit, moment):
            folder, bench = made()
            moment(bench)
            keywords = {limit: limit_s, **({"poll": 1} if limit == "async" else {})}
            return bench, plays.submit(run_tasks, folder, [task(bench, **keywords)])

        yield {name: begin(*case) for name, case in LIMITS.items()}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_of_ansibles_own(limited, limit):
    bench, play = limited[limit]
    assert play.result().rc != 0
    assert bench.server.counts["ImportVApp"] == 1
    assert LIMITS[limit][1] is never_begins or bench.server.uploads[0]["bytes"]
    until(lambda: not bench.server.live_leases and not bench.server.sessions, "the lease and the login to end")
    bench.assert_nothing_left()
