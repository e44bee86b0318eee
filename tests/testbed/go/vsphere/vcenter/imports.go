// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ResourcePool is the simulator's with our ImportVApp.
type ResourcePool struct {
	*simulator.ResourcePool
	vc *vcenter
}

// OvfManager is the simulator's, whose import specs also name the files that are to be created by PUT, and have what a
// package wants in the machine's extraConfig.
type OvfManager struct {
	*simulator.OvfManager
	vc *vcenter
}

// Task is an import's, and to cancel it is to abort its lease; or it is one that fetches files.
type Task struct {
	*simulator.Task
	lease *HttpNfcLease
	pulls bool
}

// Lock and Unlock keep the simulator from locking it for a call: the lease locks it when it ends.
func (t *Task) Lock() {}

// Unlock is Lock's other half.
func (t *Task) Unlock() {}

// Datastore is one of which a test has told what is free there, which is found when it is looked at anew.
type Datastore struct {
	*simulator.Datastore
	free int64
}

// RefreshDatastore would find the simulator's own idea of it.
func (d *Datastore) RefreshDatastore(*simulator.Context, *types.RefreshDatastore) soap.HasFault {
	d.Summary.FreeSpace = d.free
	return &methods.RefreshDatastoreBody{Res: &types.RefreshDatastoreResponse{}}
}

// createdItem is a file of a package that is no device's, but has a device URL all the same.
type createdItem struct{ device, target string }

// override is asked by the simulator before every call. It would ignore a handler given to it where the session or the
// inventory has one, so ours are put into the session's own registry, which comes first.
func (vc *vcenter) override(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Context.Value(mark{}) != nil || !vc.now().Strict {
		return nil, nil
	}
	if ctx.Session == nil {
		return nil, refusedWithoutSession(ctx, method)
	}
	own := ctx.Session.Registry
	switch found := ctx.Map.Get(method.This).(type) {
	case *simulator.ResourcePool:
		if method.Name == "ImportVApp" {
			own.Put(&ResourcePool{found, vc})
		}
	case *simulator.OvfManager:
		own.Put(&OvfManager{found, vc})
	case *simulator.Task:
		if method.Name != "CancelTask" {
			break
		}
		if lease := vc.leaseOfTask(found.Self); lease != nil {
			own.Put(&Task{found, lease, false})
		} else if lease := vc.leaseOfPull(found.Self); lease != nil {
			own.Put(&Task{found, lease, true})
		}
	case *simulator.SessionManager:
		if method.Name == "Logout" && vc.now().LeasesEndWithSession {
			vc.endLeasesOf(ctx.Session.Key)
		}
	case *simulator.Datastore:
		vc.mu.Lock()
		free, told := vc.free[found.Self.Value]
		vc.mu.Unlock()
		if told && method.Name == "RefreshDatastore" {
			own.Put(&Datastore{found, free})
		}
	case *simulator.VirtualMachine:
		if oneOf(method.Name, vc.now().forbidden()...) && vc.leaseOf(found.Self) != nil {
			return nil, &types.MethodDisabled{Source: "HttpNfcLease"}
		}
	}
	return nil, nil
}

// refusedWithoutSession is the fault of asking for properties by a login that has ended. The simulator answers such
// questions, since it answers them without any login too.
func refusedWithoutSession(ctx *simulator.Context, method *simulator.Method) types.BaseMethodFault {
	if method.This.Type == "PropertyCollector" && simulator.HTTPCookie(ctx) != "" {
		return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &method.This, PrivilegeId: "System.View"}}
	}
	return nil
}

// withoutFile finds disks of a package that begin empty. The simulator stumbles over them unless they name a file.
var (
	withoutFile = regexp.MustCompile(`<((?:[\w.-]+:)?Disk)(\s[^>]*)>`)
	namesFile   = regexp.MustCompile(`\bfileRef\s*=`)
)

func withFileRefs(descriptor string) string {
	return withoutFile.ReplaceAllStringFunc(descriptor, func(element string) string {
		if namesFile.MatchString(element) {
			return element
		}
		return withoutFile.ReplaceAllString(element, `<$1 fileRef=""$2>`)
	})
}

// CreateImportSpec marks the files that real servers want by PUT, and adds the one that the simulator leaves out: NVRAM.
func (m *OvfManager) CreateImportSpec(ctx *simulator.Context, req *types.CreateImportSpec) (answer soap.HasFault) {
	defer func() {
		// Else a package that the simulator stumbles over would leave the manager locked for ever.
		if trouble := recover(); trouble != nil {
			text := fmt.Sprintf("the simulator can't read this package: %v", trouble)
			answer = &methods.CreateImportSpecBody{Fault_: simulator.Fault(text, &types.SystemError{Reason: text})}
		}
	}()
	if !m.vc.now().Strict {
		return m.OvfManager.CreateImportSpec(ctx, req)
	}
	asked := *req
	asked.OvfDescriptor = withFileRefs(req.OvfDescriptor)
	answer = m.OvfManager.CreateImportSpec(ctx, &asked)
	body := answer.(*methods.CreateImportSpecBody)
	if body.Fault() == nil && body.Res != nil {
		m.addPutFiles(&body.Res.Returnval, req)
		addExtraConfig(&body.Res.Returnval, req)
		m.addFaults(&body.Res.Returnval)
	}
	return body
}

func (m *OvfManager) addPutFiles(result *types.OvfCreateImportSpecResult, req *types.CreateImportSpec) {
	wanted := m.vc.now().PutFiles
	listed := map[string]bool{}
	for i := range result.FileItem {
		item := &result.FileItem[i]
		item.Create = endsIn(item.Path, wanted)
		listed[item.Path] = true
	}
	name := req.Cisp.GetOvfCreateImportSpecParams().EntityName
	var created []createdItem
	if envelope, err := ovf.Unmarshal(strings.NewReader(req.OvfDescriptor)); err == nil {
		for _, file := range envelope.References {
			if listed[file.Href] || !endsIn(file.Href, wanted) {
				continue
			}
			item := createdItem{fmt.Sprintf("/%s/%s", name, path.Base(file.Href)), path.Base(file.Href)}
			created = append(created, item)
			result.FileItem = append(result.FileItem, types.OvfFileItem{
				DeviceId: item.device, Path: file.Href, Size: int64(file.Size), Create: true,
			})
		}
	}
	m.vc.mu.Lock()
	defer m.vc.mu.Unlock()
	m.vc.items[name] = created
}

func addExtraConfig(result *types.OvfCreateImportSpecResult, req *types.CreateImportSpec) {
	spec, ok := result.ImportSpec.(*types.VirtualMachineImportSpec)
	envelope, err := ovf.Unmarshal(strings.NewReader(req.OvfDescriptor))
	if !ok || err != nil || envelope.VirtualSystem == nil {
		return
	}
	for _, hardware := range envelope.VirtualSystem.VirtualHardware {
		for _, wanted := range hardware.ExtraConfig {
			if !strings.HasPrefix(wanted.Value, "ovf:") {
				value := &types.OptionValue{Key: wanted.Key, Value: wanted.Value}
				spec.ConfigSpec.ExtraConfig = append(spec.ConfigSpec.ExtraConfig, value)
			}
		}
	}
}

func (vc *vcenter) createdItems(name string) []createdItem {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	return vc.items[name]
}

func (m *OvfManager) addFaults(result *types.OvfCreateImportSpecResult) {
	now := m.vc.now()
	for _, spec := range now.SpecWarnings {
		if fault, err := spec.fault(); err == nil {
			result.Warning = append(result.Warning, *fault)
		}
	}
	for _, spec := range now.SpecErrors {
		if fault, err := spec.fault(); err == nil {
			result.Error = append(result.Error, *fault)
		}
	}
}

func endsIn(name string, ends []string) bool {
	for _, end := range ends {
		if strings.HasSuffix(strings.ToLower(name), end) {
			return true
		}
	}
	return false
}

// ImportVApp begins a lease and a task that ends with it.
func (p *ResourcePool) ImportVApp(ctx *simulator.Context, req *types.ImportVApp) soap.HasFault {
	spec, ok := req.Spec.(*types.VirtualMachineImportSpec)
	if !p.vc.now().Strict || !ok {
		return p.ResourcePool.ImportVApp(ctx, req)
	}
	lease := p.vc.newLease(ctx, p.ResourcePool)
	go lease.begin(req, spec)
	return &methods.ImportVAppBody{Res: &types.ImportVAppResponse{Returnval: lease.Self}}
}

// CancelTask ends the import as its own client could.
func (t *Task) CancelTask(_ *simulator.Context, _ *types.CancelTask) soap.HasFault {
	if t.pulls {
		t.lease.mu.Lock()
		t.lease.stopPull()
		t.lease.mu.Unlock()
		return &methods.CancelTaskBody{Res: &types.CancelTaskResponse{}}
	}
	canceled := &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}, LocalizedMessage: "The task was canceled by a user."}
	if t.lease.refusal(initializing, ready) != nil {
		return &methods.CancelTaskBody{Fault_: simulator.Fault("", &types.InvalidState{})}
	}
	end := func() { t.lease.end(t.lease.vc.background(), types.HttpNfcLeaseStateError, canceled) }
	switch takes := t.lease.vc.now().CancelTakesS; {
	case takes > 0:
		time.AfterFunc(time.Duration(takes*float64(time.Second)), end)
	case takes == 0:
		end()
	}
	return &methods.CancelTaskBody{Res: &types.CancelTaskResponse{}}
}

func (vc *vcenter) newLease(ctx *simulator.Context, pool *simulator.ResourcePool) *HttpNfcLease {
	lease := &HttpNfcLease{
		vc: vc, id: uuid.NewString(), session: ctx.Session, started: time.Now(), files: map[string]*file{},
	}
	lease.Self = types.ManagedObjectReference{
		Type: "HttpNfcLease", Value: fmt.Sprintf("session[%s]%s", ctx.Session.Key, lease.id),
	}
	lease.State = types.HttpNfcLeaseStateInitializing
	lease.Mode = string(types.HttpNfcLeaseModePushOrGet)
	lease.Capabilities = types.HttpNfcLeaseCapabilities{PullModeSupported: vc.now().PullMode, CorsSupported: true}
	lease.phase = lease.State
	lease.task = importTask(ctx, pool)
	vc.mu.Lock()
	vc.leases = append(vc.leases, lease)
	vc.mu.Unlock()
	ctx.Session.Put(lease)
	ctx.Map.Put(lease.task)
	return lease
}

func importTask(ctx *simulator.Context, pool *simulator.ResourcePool) *simulator.Task {
	task := simulator.CreateTask(pool, "ImportVAppLRO", nil)
	task.Self = types.ManagedObjectReference{Type: "Task", Value: "task-" + uuid.NewString()}
	task.Info.Key, task.Info.Task = task.Self.Value, task.Self
	task.Info.EntityName = pool.Name
	task.Info.Reason = &types.TaskReasonUser{UserName: ctx.Session.UserName}
	task.Info.Cancelable = true
	task.Info.State = types.TaskInfoStateRunning
	started := time.Now()
	task.Info.StartTime = &started
	return task
}

// begin makes the machine and leads the lease to where the settings say.
func (l *HttpNfcLease) begin(req *types.ImportVApp, spec *types.VirtualMachineImportSpec) {
	now := l.vc.now()
	time.Sleep(time.Duration(now.LeaseDelayS * float64(time.Second)))
	ctx := l.vc.background()
	switch now.LeaseBegins {
	case "stuck":
		l.restartClock(now.LeaseTimeoutS)
		return
	case "gone":
		l.vanish(ctx)
		fallthrough
	case "error":
		l.end(ctx, types.HttpNfcLeaseStateError, now.begunFault())
		return
	}
	machine, fault := l.makeMachine(req, spec)
	if fault != nil {
		l.end(ctx, types.HttpNfcLeaseStateError, fault)
		return
	}
	l.ready(ctx, machine, spec.ConfigSpec.Name)
}

func (s settings) begunFault() *types.LocalizedMethodFault {
	if s.LeaseFault != nil {
		if fault, err := s.LeaseFault.fault(); err == nil {
			return fault
		}
	}
	text := "the lease was to fail"
	return &types.LocalizedMethodFault{Fault: &types.SystemError{Reason: text}, LocalizedMessage: text}
}

func (l *HttpNfcLease) makeMachine(
	req *types.ImportVApp, spec *types.VirtualMachineImportSpec,
) (*simulator.VirtualMachine, *types.LocalizedMethodFault) {
	if fault := hiddenValue(spec); fault != nil {
		return nil, fault
	}
	// One at a time: of two that want the same name, one must find it taken.
	l.vc.making.Lock()
	defer l.vc.making.Unlock()
	folder := l.vc.folder(req)
	if fault := l.vc.nameTaken(folder, spec.ConfigSpec.Name); fault != nil {
		return nil, fault
	}
	config := spec.ConfigSpec
	info, fault := l.create(req, config, folder)
	for number := 1; fault != nil && isTaken(fault) && number < 10; number++ {
		info, fault = l.create(req, filedUnder(config, fmt.Sprintf("%s_%d", config.Name, number)), folder)
	}
	if fault != nil {
		return nil, fault
	}
	made := info.Result.(types.ManagedObjectReference)
	machine, ok := l.vc.registry.Get(made).(*simulator.VirtualMachine)
	if !ok { // somebody has removed it already
		gone := &types.ManagedObjectNotFound{Obj: made}
		return nil, &types.LocalizedMethodFault{Fault: gone, LocalizedMessage: "The machine was removed."}
	}
	return machine, nil
}

func (l *HttpNfcLease) create(
	req *types.ImportVApp, config types.VirtualMachineConfigSpec, folder types.ManagedObjectReference,
) (*types.TaskInfo, *types.LocalizedMethodFault) {
	task, err := object.NewFolder(l.vc.client, folder).CreateVM(
		ours(), config, object.NewResourcePool(l.vc.client, req.This), hostOf(l.vc, req))
	if err != nil {
		return nil, localized(err)
	}
	info, err := task.WaitForResult(ours(), nil)
	if err != nil {
		if info != nil && info.Error != nil {
			return nil, info.Error
		}
		return nil, localized(err)
	}
	return info, nil
}

// isTaken tells that the files of another machine, which had the name at its beginning, are in the way.
func isTaken(fault *types.LocalizedMethodFault) bool {
	_, taken := fault.Fault.(*types.FileAlreadyExists)
	return taken
}

// inFolder is a datastore with a folder, at the beginning of a path.
var inFolder = regexp.MustCompile(`^(\[[^\]]*\] )[^/]*/`)

// filedUnder has a machine's files in another folder, as real servers choose one that is free.
func filedUnder(config types.VirtualMachineConfigSpec, folder string) types.VirtualMachineConfigSpec {
	files := *config.Files
	files.VmPathName = strings.SplitAfter(files.VmPathName, "]")[0] + " " + folder + "/" + config.Name + ".vmx"
	config.Files = &files
	for _, change := range config.DeviceChange {
		device := change.GetVirtualDeviceConfigSpec().Device.GetVirtualDevice()
		if backing, ok := device.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
			backed := backing.GetVirtualDeviceFileBackingInfo()
			backed.FileName = inFolder.ReplaceAllString(backed.FileName, "${1}"+folder+"/")
		}
	}
	return config
}

func localized(err error) *types.LocalizedMethodFault {
	fault := types.BaseMethodFault(&types.SystemError{Reason: err.Error()})
	if soap.IsSoapFault(err) {
		if named, ok := soap.ToSoapFault(err).VimFault().(types.BaseMethodFault); ok {
			fault = named
		}
	}
	return &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: err.Error()}
}

// folder is the one asked for, or the datacenter's own.
func (vc *vcenter) folder(req *types.ImportVApp) types.ManagedObjectReference {
	if req.Folder != nil {
		return *req.Folder
	}
	at := vc.registry.Get(req.This).(mo.Entity)
	for at.Reference().Type != "Datacenter" {
		at = vc.registry.Get(*at.Entity().Parent).(mo.Entity)
	}
	return at.(*simulator.Datacenter).VmFolder
}

// nameTaken is the fault that is documented for it; the simulator would stumble over the files of the other one.
func (vc *vcenter) nameTaken(folder types.ManagedObjectReference, name string) *types.LocalizedMethodFault {
	children, err := object.NewFolder(vc.client, folder).Children(ours())
	if err != nil {
		return localized(err)
	}
	for _, child := range children {
		entity, ok := vc.registry.Get(child.Reference()).(mo.Entity)
		if ok && entity.Entity().Name == name {
			return &types.LocalizedMethodFault{
				Fault:            &types.DuplicateName{Name: name, Object: child.Reference()},
				LocalizedMessage: fmt.Sprintf("The name '%s' already exists.", name),
			}
		}
	}
	return nil
}

func hostOf(vc *vcenter, req *types.ImportVApp) *object.HostSystem {
	if req.Host == nil {
		return nil
	}
	return object.NewHostSystem(vc.client, *req.Host)
}

// hiddenValue is the fault of giving a value to a property that users may not set.
func hiddenValue(spec *types.VirtualMachineImportSpec) *types.LocalizedMethodFault {
	config, ok := spec.ConfigSpec.VAppConfig.(*types.VAppConfigSpec)
	if !ok {
		return nil
	}
	for _, property := range config.Property {
		info := property.Info
		settable := info == nil || info.UserConfigurable != nil && *info.UserConfigurable
		if settable || info.Value == "" || info.Value == info.DefaultValue {
			continue
		}
		return &types.LocalizedMethodFault{
			Fault: &types.NotUserConfigurableProperty{VAppPropertyFault: types.VAppPropertyFault{
				Id: info.Id, Category: info.Category, Label: info.Label, Type: info.Type, Value: info.Value,
			}},
			LocalizedMessage: fmt.Sprintf("Property '%s' is not user configurable.", info.Id),
		}
	}
	return nil
}
