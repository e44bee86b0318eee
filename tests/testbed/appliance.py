# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An appliance in a package. In place of a guest's tools, the simulator tells the address that its property ip0 has."""

from __future__ import annotations

from tests.testbed.ovf_packages import DiskSpec, Spec

ADDRESS = "192.0.2.17"

_PRODUCT = """    <ProductSection>
      <Info>Its network</Info>
      <Property ovf:key="ip0" ovf:type="string" ovf:userConfigurable="true"><Label>Address</Label></Property>
    </ProductSection>
"""


def _with_address(descriptor: str) -> str:
    before = "    <VirtualHardwareSection"
    return descriptor.replace(before, _PRODUCT + before)


APPLIANCE = Spec(disks=(DiskSpec(), DiskSpec()), eula="Be kind", edit={".ovf": _with_address})
