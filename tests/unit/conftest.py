# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every unit test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# By itself hypothesis calls an example that takes longer than 0.2 s a failure, and so it does where a second is over
# before it has made ten of them: on a busy machine any may.
settings.register_profile("any pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any pace")
