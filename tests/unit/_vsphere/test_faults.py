# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vSphere's faults mean to whoever reads them: real ones of pyVmomi's."""

from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl

from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.faults import ADVICE, remote_failed, told


def test_a_missing_privilege_is_told_with_what_it_is_missing_on():
    fault = vim.fault.NoPermission(
        msg="Permission to perform this operation was denied.",
        privilegeId="VApp.Import",
        object=vim.Folder("group-v3"),
    )
    assert told(fault) == (
        "Permission to perform this operation was denied; privilegeId: VApp.Import; object: Folder group-v3 "
        "(NoPermission)"
    )


def test_several_missing_privileges():
    missing = [
        vim.fault.NoPermission.EntityPrivileges(entity=vim.Folder("group-v3"), privilegeIds=["VApp.Import", "b"]),
        vim.fault.NoPermission.EntityPrivileges(entity=vim.Datastore("datastore-9"), privilegeIds=["c"]),
    ]
    fault = vim.fault.NoPermission(missingPrivileges=missing)
    assert told(fault) == "VApp.Import, b on Folder group-v3; c on Datastore datastore-9 (NoPermission)"


@pytest.mark.parametrize("name", ADVICE)
def test_each_fault_with_an_advice_is_one_that_there_is(name):
    kind = getattr(vim.fault, name, None) or getattr(vmodl.fault, name)
    failed = remote_failed(kind(), "importing web1", "vc:443")
    assert str(failed).endswith(ADVICE[name] + ".")
    assert failed.facts["fault"] == name
