// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// completer gives objects what the simulator leaves empty or wrong, and pyVmomi can't read: states that are none of the
// values there are, and tasks of objects that are no managed entities. And it ends the leases of machines that go.
type completer struct{ vc *vcenter }

// Reference is what the simulator knows it by.
func (completer) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Completer", Value: "completer"}
}

// PutObject is called for each new object.
func (c completer) PutObject(_ *simulator.Context, object mo.Reference) {
	switch found := object.(type) {
	case *simulator.VirtualMachine:
		completeRuntime(&found.Runtime)
		completeRuntime(&found.Summary.Runtime)
	case *simulator.Task:
		if entity := found.Info.Entity; entity != nil && strings.HasSuffix(entity.Type, "Manager") {
			root := c.vc.client.ServiceContent.RootFolder
			found.Info.Entity = &root
		}
	}
}

func completeRuntime(runtime *types.VirtualMachineRuntimeInfo) {
	runtime.FaultToleranceState = types.VirtualMachineFaultToleranceStateNotConfigured
	runtime.RecordReplayState = types.VirtualMachineRecordReplayStateInactive
}

// UpdateObject has nothing to do.
func (completer) UpdateObject(*simulator.Context, mo.Reference, []types.PropertyChange) {}

// RemoveObject is called for each object that goes, while it is locked.
func (c completer) RemoveObject(_ *simulator.Context, object types.ManagedObjectReference) {
	if object.Type == "VirtualMachine" {
		c.vc.lost(object)
	}
}
