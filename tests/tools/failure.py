# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ends a call of make with a sentence instead of a trace."""

from __future__ import annotations


class Failure(Exception):
    """Something the user has to know or do; the message says it whole."""
