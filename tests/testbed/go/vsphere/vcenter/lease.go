// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// HttpNfcLease is a lease as VMware documents it. It has to bear this name: references are made of it.
type HttpNfcLease struct {
	mo.HttpNfcLease

	vc      *vcenter
	id      string // its name in device URLs
	session *simulator.Session
	task    *simulator.Task
	started time.Time

	mu       sync.Mutex // comes after the one of the whole server, where both are taken
	phase    types.HttpNfcLeaseState
	failure  *types.LocalizedMethodFault
	machine  *simulator.VirtualMachine
	gone     bool             // somebody took it away
	files    map[string]*file // by their name in device URLs
	percents []int32
	clock    *time.Timer
	timeout  time.Duration
	pull     *simulator.Task    // by which the server fetches files itself
	stopPull context.CancelFunc // nil as long as it doesn't
}

// ready hands the lease with its device URLs to the client, unless it has ended meanwhile.
func (l *HttpNfcLease) ready(ctx *simulator.Context, machine *simulator.VirtualMachine, name string) {
	now := l.vc.now()
	created := l.vc.createdItems(name)
	l.mu.Lock()
	if l.phase != types.HttpNfcLeaseStateInitializing {
		l.mu.Unlock()
		l.vc.destroy(machine)
		return
	}
	l.machine = machine
	info := &types.HttpNfcLeaseInfo{
		Lease: l.Self, Entity: machine.Self, LeaseTimeout: now.LeaseTimeoutS, DeviceUrl: l.deviceURLs(name, created, now),
	}
	for _, device := range machine.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			info.TotalDiskCapacityInKB += disk.CapacityInKB
		}
	}
	l.phase = types.HttpNfcLeaseStateReady
	l.mu.Unlock()
	l.vc.block(ctx, machine, true)
	if now.TaskNamesMachine {
		l.vc.registry.AtomicUpdate(l.vc.background(), l.task, []types.PropertyChange{
			{Name: "info.entity", Val: &machine.Self}, {Name: "info.entityName", Val: machine.Name},
		})
	}
	if now.LeaseTellsInfo {
		ctx.Map.AtomicUpdate(ctx, l, []types.PropertyChange{{Name: "info", Val: info}})
	}
	ctx.Map.AtomicUpdate(ctx, l, []types.PropertyChange{
		{Name: "initializeProgress", Val: int32(100)},
		{Name: "state", Val: types.HttpNfcLeaseStateReady},
	})
	l.restartClock(now.LeaseTimeoutS)
}

// deviceURLs are where each file goes. Their keys are made as the simulator makes those of its import specs.
func (l *HttpNfcLease) deviceURLs(name string, created []createdItem, now settings) []types.HttpNfcLeaseDeviceUrl {
	devices := object.VirtualDeviceList(l.machine.Config.Hardware.Device)
	counts := map[string]int{}
	var urls []types.HttpNfcLeaseDeviceUrl
	for _, device := range devices {
		backing, ok := device.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo)
		if !ok {
			continue
		}
		var at object.DatastorePath
		at.FromString(backing.GetVirtualDeviceFileBackingInfo().FileName)
		_, disk := device.(*types.VirtualDisk)
		key := fmt.Sprintf("%s:%d", devices.Type(device), counts[devices.Type(device)])
		counts[devices.Type(device)]++
		urls = append(urls, l.deviceURL(now, key, fmt.Sprintf("/%s/%s", name, key), path.Base(at.Path), disk))
	}
	for _, item := range created {
		urls = append(urls, l.deviceURL(now, path.Base(item.device), item.device, item.target, false))
	}
	return urls
}

func (l *HttpNfcLease) deviceURL(now settings, key, importKey, target string, disk bool) types.HttpNfcLeaseDeviceUrl {
	to := l.vc.itself
	if now.HostUploads {
		to = l.vc.hosts[len(l.files)%max(1, min(now.Hosts, len(l.vc.hosts)))]
	}
	host := now.DeviceHost
	if host == "" {
		host = to.address()
	}
	url := types.HttpNfcLeaseDeviceUrl{
		Key:            fmt.Sprintf("/%s/%s", l.machine.Self.Value, key),
		ImportKey:      importKey,
		Url:            fmt.Sprintf("https://%s%s%s/%s", host, nfcPath, l.id, target),
		SslThumbprint:  told(now.Thumbprint, to.thumbprint, colons([20]byte{1, 2, 3})),
		SslCertificate: told(now.Certificate, to.certificate, l.vc.stranger(to).certificate),
		Disk:           types.NewBool(disk),
		TargetId:       target,
	}
	l.files[target] = &file{
		key: url.Key, importKey: importKey, byPUT: endsIn(target, now.PutFiles), disk: disk,
	}
	return url
}

func told(how, right, wrong string) string {
	return map[string]string{"right": right, "wrong": wrong}[how]
}

// stranger is another server than this one.
func (vc *vcenter) stranger(than endpoint) endpoint {
	if than == vc.itself {
		return vc.hosts[0]
	}
	return vc.itself
}

// restartClock gives the lease its full time from now on.
func (l *HttpNfcLease) restartClock(seconds int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hasEnded() {
		return
	}
	l.timeout = time.Duration(seconds) * time.Second
	if l.clock != nil {
		l.clock.Stop()
	}
	l.clock = time.AfterFunc(l.timeout, l.expire)
}

func (l *HttpNfcLease) hasEnded() bool {
	return l.phase == types.HttpNfcLeaseStateDone || l.phase == types.HttpNfcLeaseStateError
}

// lost ends the lease of a machine that somebody has taken away.
func (vc *vcenter) lost(machine types.ManagedObjectReference) {
	lease := vc.leaseOf(machine)
	if lease == nil {
		return
	}
	lease.mu.Lock()
	lease.gone = true
	lease.mu.Unlock()
	lease.end(vc.background(), types.HttpNfcLeaseStateError, &types.LocalizedMethodFault{
		Fault: &types.ManagedObjectNotFound{Obj: machine}, LocalizedMessage: "The machine was removed.",
	})
}

func (l *HttpNfcLease) expire() {
	l.end(l.vc.background(), types.HttpNfcLeaseStateError,
		&types.LocalizedMethodFault{Fault: &types.Timedout{}, LocalizedMessage: "The lease timed out."})
}

// end is the one way out of every lease; false: it had ended before.
func (l *HttpNfcLease) end(
	ctx *simulator.Context, phase types.HttpNfcLeaseState, fault *types.LocalizedMethodFault,
) bool {
	l.mu.Lock()
	if l.hasEnded() {
		l.mu.Unlock()
		return false
	}
	l.phase, l.failure = phase, fault
	machine := l.machine
	if l.gone {
		machine = nil
	}
	if l.clock != nil {
		l.clock.Stop()
	}
	if l.stopPull != nil {
		l.stopPull()
	}
	l.mu.Unlock()
	changes := []types.PropertyChange{{Name: "state", Val: phase}}
	if fault != nil {
		changes = append(changes, types.PropertyChange{Name: "error", Val: fault})
	}
	ctx.Map.AtomicUpdate(ctx, l, changes)
	if machine != nil {
		l.vc.block(l.vc.background(), machine, false)
	}
	now := l.vc.now()
	if machine != nil && fault != nil && !now.AbortKeepsVM {
		l.vc.destroy(machine)
	}
	l.vc.endTask(l.task, fault)
	if now.EndedLeasesVanish {
		l.vanish(ctx)
	}
	return true
}

func (vc *vcenter) endTask(task *simulator.Task, fault *types.LocalizedMethodFault) {
	changes := []types.PropertyChange{{Name: "info.completeTime", Val: time.Now()}}
	if fault == nil {
		changes = append(changes, types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
	} else {
		changes = append(changes,
			types.PropertyChange{Name: "info.error", Val: *fault},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
	}
	vc.registry.AtomicUpdate(vc.background(), task, changes)
}

// vanish makes it unknown to everyone.
func (l *HttpNfcLease) vanish(ctx *simulator.Context) { l.session.Registry.Remove(ctx, l.Self) }

// refusal is the fault of calls that need a lease that is held; nil: go on.
func (l *HttpNfcLease) refusal(needed ...types.HttpNfcLeaseState) *soap.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, phase := range needed {
		if l.phase == phase {
			return nil
		}
	}
	if l.failure != nil {
		if _, timedOut := l.failure.Fault.(*types.Timedout); timedOut {
			return simulator.Fault("The lease timed out.", &types.Timedout{})
		}
	}
	return simulator.Fault("The lease is "+string(l.phase)+".", &types.InvalidState{})
}

const (
	initializing = types.HttpNfcLeaseStateInitializing
	ready        = types.HttpNfcLeaseStateReady
)

// HttpNfcLeaseComplete is the good end.
func (l *HttpNfcLease) HttpNfcLeaseComplete(ctx *simulator.Context, _ *types.HttpNfcLeaseComplete) soap.HasFault {
	fault := l.refusal(ready)
	if fault == nil && !l.end(ctx, types.HttpNfcLeaseStateDone, nil) {
		fault = l.refusal()
	}
	if fault != nil {
		return &methods.HttpNfcLeaseCompleteBody{Fault_: fault}
	}
	return &methods.HttpNfcLeaseCompleteBody{Res: &types.HttpNfcLeaseCompleteResponse{}}
}

// HttpNfcLeaseAbort is the other one. It may come while the lease is still initializing.
func (l *HttpNfcLease) HttpNfcLeaseAbort(ctx *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	why := req.Fault
	if why == nil {
		why = &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}, LocalizedMessage: "The lease was aborted."}
	}
	fault := l.refusal(initializing, ready)
	if fault == nil && !l.end(ctx, types.HttpNfcLeaseStateError, why) {
		fault = l.refusal()
	}
	if fault != nil {
		return &methods.HttpNfcLeaseAbortBody{Fault_: fault}
	}
	return &methods.HttpNfcLeaseAbortBody{Res: &types.HttpNfcLeaseAbortResponse{}}
}

// HttpNfcLeaseProgress keeps it alive, and shows the percentage in the import's task.
func (l *HttpNfcLease) HttpNfcLeaseProgress(ctx *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	fault := l.refusal(initializing, ready)
	if fault == nil && (req.Percent < 0 || req.Percent > 100) {
		fault = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "percent"})
	}
	if fault != nil {
		return &methods.HttpNfcLeaseProgressBody{Fault_: fault}
	}
	l.mu.Lock()
	l.percents = append(l.percents, req.Percent)
	l.mu.Unlock()
	l.restartClock(l.vc.now().LeaseTimeoutS)
	ctx.Update(l, []types.PropertyChange{{Name: "transferProgress", Val: req.Percent}})
	l.vc.registry.AtomicUpdate(l.vc.background(), l.task, []types.PropertyChange{
		{Name: "info.progress", Val: req.Percent},
	})
	return &methods.HttpNfcLeaseProgressBody{Res: &types.HttpNfcLeaseProgressResponse{}}
}

// HttpNfcLeaseSetManifestChecksumType asks for SHA-1 or SHA-256 of some files.
func (l *HttpNfcLease) HttpNfcLeaseSetManifestChecksumType(
	_ *simulator.Context, req *types.HttpNfcLeaseSetManifestChecksumType,
) soap.HasFault {
	body := &methods.HttpNfcLeaseSetManifestChecksumTypeBody{Fault_: l.refusal(initializing, ready)}
	if body.Fault_ != nil {
		return body
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, asked := range req.DeviceUrlsToChecksumTypes {
		file := l.fileOf(asked.Key)
		if file == nil || !oneOf(asked.Value, "sha1", "sha256") {
			body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "deviceUrlsToChecksumTypes"})
			return body
		}
		file.checksum = asked.Value
	}
	body.Res = &types.HttpNfcLeaseSetManifestChecksumTypeResponse{}
	return body
}

func (l *HttpNfcLease) fileOf(key string) *file {
	for _, file := range l.files {
		if file.key == key {
			return file
		}
	}
	return nil
}

// HttpNfcLeaseGetManifest tells the checksums of what came.
func (l *HttpNfcLease) HttpNfcLeaseGetManifest(
	_ *simulator.Context, _ *types.HttpNfcLeaseGetManifest,
) soap.HasFault {
	if fault := l.refusal(ready); fault != nil {
		return &methods.HttpNfcLeaseGetManifestBody{Fault_: fault}
	}
	now := l.vc.now()
	entries := []types.HttpNfcLeaseManifestEntry{}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, file := range l.files {
		if file.sha1 != "" {
			entries = append(entries, file.entry(now))
		}
	}
	return &methods.HttpNfcLeaseGetManifestBody{Res: &types.HttpNfcLeaseGetManifestResponse{Returnval: entries}}
}

// block keeps a machine from what is forbidden while it is leased, or allows it again.
func (vc *vcenter) block(ctx *simulator.Context, machine *simulator.VirtualMachine, blocked bool) {
	methods := []string{}
	if blocked {
		methods = vc.now().forbidden()
	}
	ctx.Map.AtomicUpdate(ctx, machine, []types.PropertyChange{{Name: "disabledMethod", Val: methods}})
}

// destroy takes away the machine of a failed import.
func (vc *vcenter) destroy(machine *simulator.VirtualMachine) {
	vc.making.Lock()
	defer vc.making.Unlock()
	task, err := object.NewVirtualMachine(vc.client, machine.Self).Destroy(ours())
	if err == nil {
		_ = task.Wait(ours())
	}
}

// leaseOf is the lease that is held of a machine, nil without one.
func (vc *vcenter) leaseOf(machine types.ManagedObjectReference) *HttpNfcLease {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	for _, lease := range vc.leases {
		lease.mu.Lock()
		held := !lease.hasEnded() && lease.machine != nil && lease.machine.Self == machine
		lease.mu.Unlock()
		if held {
			return lease
		}
	}
	return nil
}

func (vc *vcenter) leaseOfTask(task types.ManagedObjectReference) *HttpNfcLease {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	for _, lease := range vc.leases {
		if lease.task.Self == task {
			return lease
		}
	}
	return nil
}

func (vc *vcenter) leaseOfPull(task types.ManagedObjectReference) *HttpNfcLease {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	for _, lease := range vc.leases {
		lease.mu.Lock()
		found := lease.pull != nil && lease.pull.Self == task
		lease.mu.Unlock()
		if found {
			return lease
		}
	}
	return nil
}

func (vc *vcenter) endLeasesOf(session string) {
	vc.mu.Lock()
	leases := append([]*HttpNfcLease{}, vc.leases...)
	vc.mu.Unlock()
	for _, lease := range leases {
		if lease.session.Key == session {
			lease.end(vc.background(), types.HttpNfcLeaseStateError,
				&types.LocalizedMethodFault{Fault: &types.NotAuthenticated{}, LocalizedMessage: "The session has ended."})
		}
	}
}

type leaseState struct {
	Lease      string                  `json:"lease"`
	State      types.HttpNfcLeaseState `json:"state"`
	Alive      bool                    `json:"alive"`
	Session    string                  `json:"session"`
	User       string                  `json:"user"`
	Entity     string                  `json:"entity"`
	EntityName string                  `json:"entity_name"`
	Task       string                  `json:"task"`
	Percents   []int32                 `json:"percents"`
	Fault      string                  `json:"fault"`
	Text       string                  `json:"text"`
	AgeS       float64                 `json:"age_s"`
	Pull       types.TaskInfoState     `json:"pull"` // of the task that fetches files, empty without one
}

func (vc *vcenter) tellLeases() any {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	told := []leaseState{}
	for _, lease := range vc.leases {
		told = append(told, lease.tell())
	}
	return told
}

func (l *HttpNfcLease) tell() leaseState {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := leaseState{
		Lease: l.Self.Value, State: l.phase, Alive: !l.hasEnded(), Session: l.session.Key, User: l.session.UserName,
		Task:     l.task.Self.Value,
		Percents: append([]int32{}, l.percents...), AgeS: time.Since(l.started).Seconds(),
	}
	if l.machine != nil {
		state.Entity, state.EntityName = l.machine.Self.Value, l.machine.Name
	}
	if l.pull != nil {
		state.Pull = l.pull.Info.State
	}
	if l.failure != nil {
		state.Fault = fmt.Sprintf("%T", l.failure.Fault)[len("*types."):]
		state.Text = l.failure.LocalizedMessage
	}
	return state
}
