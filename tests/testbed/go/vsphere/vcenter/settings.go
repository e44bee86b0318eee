// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"vmops.example/testbed/front"
)

// settings are what a test may change at any time.
type settings struct {
	// Strict: leases as documented. Off: imports, leases and uploads are those of govmomi's simulator as it comes.
	Strict bool `json:"strict"`
	// LeaseTimeoutS is how long a lease lives without Progress, told in its info and enforced.
	LeaseTimeoutS int32 `json:"lease_timeout_s"`
	// LeaseBegins is what ImportVApp leads to: ready; error, with LeaseFault; stuck: never leaves initializing; gone:
	// the lease has vanished before anyone can look at it, and only the task tells LeaseFault.
	LeaseBegins string `json:"lease_begins"`
	// LeaseTellsInfo: its info can be read.
	LeaseTellsInfo bool `json:"lease_tells_info"`
	// LeaseDelayS is how long it takes to get there.
	LeaseDelayS float64    `json:"lease_delay_s"`
	LeaseFault  *faultSpec `json:"lease_fault"`
	// EndedLeasesVanish: a lease can't be asked any more once it has ended. (Not documented: it is seen both ways.)
	EndedLeasesVanish bool `json:"ended_leases_vanish"`
	// TaskNamesMachine: an import's task is about its machine, once that is made, as vCenter 8 is said to have it. Off:
	// about the pool, as govmomi's simulator has it.
	TaskNamesMachine bool `json:"task_names_machine"`
	// LeaseAllowsDestroy: a machine can be destroyed during its lease, which ends in error then, as vCenter 8.0.2 is said
	// to have it. Off: the lease forbids it, as others do.
	LeaseAllowsDestroy bool `json:"lease_allows_destroy"`
	// LeasesEndWithSession: a logout ends the leases of its session. (Not documented.)
	LeasesEndWithSession bool `json:"leases_end_with_session"`
	// AbortKeepsVM: the machine is left behind by an abort, as govmomi's simulator does.
	AbortKeepsVM bool `json:"abort_keeps_vm"`
	// CancelTakesS is how long an import goes on whose task was cancelled; below 0: for ever.
	CancelTakesS float64 `json:"cancel_takes_s"`
	// PutFiles: the ends of names of files that are to be created by PUT.
	PutFiles []string `json:"put_files"`
	// HostUploads: uploads go to the ESXi host, which has a port and a certificate of its own, as they do on real
	// servers. Off: they go to this server itself.
	HostUploads bool `json:"host_uploads"`
	// Hosts is to how many of them they go, by turns.
	Hosts int `json:"hosts"`
	// DeviceHost stands in the device URLs instead of host:port; an ESXi host that is asked itself says *.
	DeviceHost string `json:"device_host"`
	// Thumbprint in the device URLs: right, wrong or empty.
	Thumbprint string `json:"thumbprint"`
	// Certificate likewise: servers before vSphere 9 tell none.
	Certificate string `json:"certificate"`
	// ManifestTells which checksums of what came: all that there are; sha1 or sha256 alone, whatever was asked for; or
	// odd ones: of another kind than they say.
	ManifestTells string `json:"manifest_tells"`
	// ManifestLies: the checksums told of what came are wrong ones.
	ManifestLies bool `json:"manifest_lies"`
	// Hash: what comes is hashed. Off for measurements: there is no manifest then.
	Hash bool `json:"hash"`
	// KeepBodies is the folder in which to keep what comes, by lease and name; empty: it is not kept.
	KeepBodies string `json:"keep_bodies"`
	// RateMBS is what each upload can take in a second, in millions of bytes; 0: as it comes.
	RateMBS float64 `json:"rate_mb_s"`
	// SpecWarnings and SpecErrors are put into what CreateImportSpec answers.
	SpecWarnings []faultSpec `json:"spec_warnings"`
	SpecErrors   []faultSpec `json:"spec_errors"`
	// PullMode: the server says that it can fetch files itself.
	PullMode bool `json:"pull_mode"`
}

func defaults(esx bool) settings {
	s := settings{
		Strict: true, TaskNamesMachine: true, LeaseTellsInfo: true, ManifestTells: "all", LeaseTimeoutS: 300, LeaseBegins: "ready", PutFiles: []string{".iso", ".nvram"},
		Thumbprint: "right", Certificate: "empty", Hash: true, Hosts: 1,
	}
	if esx {
		s.DeviceHost = "*"
	}
	return s
}

func (s settings) check() error {
	if !oneOf(s.LeaseBegins, "ready", "error", "stuck", "gone") {
		return fmt.Errorf("a lease can't begin %q", s.LeaseBegins)
	}
	if !oneOf(s.ManifestTells, "all", "sha1", "sha256", "odd") {
		return fmt.Errorf("a manifest can't tell %q", s.ManifestTells)
	}
	for _, told := range []string{s.Thumbprint, s.Certificate} {
		if !oneOf(told, "right", "wrong", "empty") {
			return fmt.Errorf("a thumbprint or certificate can't be %q", told)
		}
	}
	faults := append(append([]faultSpec{}, s.SpecWarnings...), s.SpecErrors...)
	if s.LeaseFault != nil {
		faults = append(faults, *s.LeaseFault)
	}
	for _, fault := range faults {
		if _, err := fault.fault(); err != nil {
			return err
		}
	}
	return nil
}

func oneOf(value string, choices ...string) bool {
	for _, choice := range choices {
		if value == choice {
			return true
		}
	}
	return false
}

// forbidden is what a lease keeps from being done to its machine.
func (s settings) forbidden() []string {
	methods := []string{"PowerOnVM_Task", "MigrateVM_Task", "RelocateVM_Task"}
	if !s.LeaseAllowsDestroy {
		methods = append(methods, "Destroy_Task")
	}
	return methods
}

func (vc *vcenter) now() settings {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	return vc.settings
}

// faultSpec names a fault of the API, its message, and what else is in it.
type faultSpec struct {
	Fault  string          `json:"fault"`
	Text   string          `json:"text"`
	Fields json.RawMessage `json:"fields"`
}

func (s *faultSpec) fault() (*types.LocalizedMethodFault, error) {
	kind, ok := types.TypeFunc()(s.Fault)
	if !ok {
		return nil, fmt.Errorf("there is no fault %q", s.Fault)
	}
	value := reflect.New(kind).Interface()
	fault, ok := value.(types.BaseMethodFault)
	if !ok {
		return nil, fmt.Errorf("%q is no fault", s.Fault)
	}
	if len(s.Fields) > 0 {
		if err := json.Unmarshal(s.Fields, value); err != nil {
			return nil, err
		}
	}
	return &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: s.Text}, nil
}

// control adds what a test can do here:
//
//	POST   /settings         changes those that are named
//	POST   /nfc-rules        a new rule for uploads; answers its id
//	DELETE /nfc-rules/{id}   ends one, and lets go of what it holds; 0: all
//	DELETE /uploads          forgets uploads, and the leases that have ended
//	POST   /fail-leases      {"fault": …, "text": …, "fields": {…}}: all that are alive end in this error
//	POST   /expire-sessions  all logins are void
//	POST   /free-space       {"datastore": its name, "bytes": so many, "type": VMFS, vsan, …, "refreshed": so many from
//	                         RefreshDatastore on, by default no other}
func (vc *vcenter) control(c *front.Control) {
	c.Tell("settings", func() any { return vc.now() })
	c.Tell("leases", vc.tellLeases)
	c.Tell("uploads", vc.tellUploads)
	c.Tell("sessions", func() any { return vc.sessions() })
	c.On("POST /settings", func(_ *http.Request, body []byte) (any, error) { return nil, vc.set(body) })
	c.On("POST /nfc-rules", func(_ *http.Request, body []byte) (any, error) {
		id, err := vc.addRule(body)
		return map[string]int{"id": id}, err
	})
	c.On("DELETE /nfc-rules/{id}", func(r *http.Request, _ []byte) (any, error) {
		id, err := strconv.Atoi(r.PathValue("id"))
		if err == nil {
			vc.rules.End(id)
		}
		return nil, err
	})
	c.On("DELETE /uploads", func(*http.Request, []byte) (any, error) {
		vc.forget()
		return nil, nil
	})
	c.On("POST /fail-leases", func(_ *http.Request, body []byte) (any, error) { return nil, vc.failLeases(body) })
	c.On("POST /expire-sessions", func(*http.Request, []byte) (any, error) { return nil, vc.expireSessions() })
	c.On("POST /forget-tasks", func(_ *http.Request, _ []byte) (any, error) { return nil, vc.forgetTasks() })
	c.On("POST /free-space", func(_ *http.Request, body []byte) (any, error) { return nil, vc.setFreeSpace(body) })
}

func (vc *vcenter) set(body []byte) error {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	changed := vc.settings
	if err := strictly(body, &changed); err != nil {
		return err
	}
	if err := changed.check(); err != nil {
		return err
	}
	vc.settings = changed
	return nil
}

func strictly(description []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(description))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

// background is a context to change objects by that belongs to no call.
func (vc *vcenter) background() *simulator.Context {
	return &simulator.Context{
		Context: ours(),
		Map:     vc.registry,
		Session: &simulator.Session{Registry: simulator.NewRegistry(), Map: vc.registry},
	}
}

func (vc *vcenter) sessionManager() *simulator.SessionManager {
	ref := *vc.client.ServiceContent.SessionManager
	return vc.background().Session.Get(ref).(*simulator.SessionManager)
}

// sessions are the logins that have neither logged out nor expired.
func (vc *vcenter) sessions() []types.UserSession {
	return append([]types.UserSession{}, vc.sessionManager().SessionList...)
}

func (vc *vcenter) expireSessions() error {
	request := &types.TerminateSession{}
	for _, session := range vc.sessions() {
		request.SessionId = append(request.SessionId, session.Key)
	}
	if fault := vc.sessionManager().TerminateSession(vc.background(), request).Fault(); fault != nil {
		return fmt.Errorf("%s", fault.String)
	}
	return nil
}

// forget makes a server that was used in one test as good as new for another one.
func (vc *vcenter) forget() {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	vc.uploads = nil
	var kept []*HttpNfcLease
	for _, lease := range vc.leases {
		if lease.tell().Alive {
			kept = append(kept, lease)
		}
	}
	vc.leases = kept
}

func (vc *vcenter) failLeases(body []byte) error {
	asked := &faultSpec{}
	if err := strictly(body, asked); err != nil {
		return err
	}
	fault, err := asked.fault()
	if err != nil {
		return err
	}
	vc.mu.Lock()
	leases := append([]*HttpNfcLease{}, vc.leases...)
	vc.mu.Unlock()
	for _, lease := range leases {
		lease.end(vc.background(), types.HttpNfcLeaseStateError, fault)
	}
	return nil
}

// forgetTasks takes the tasks that have ended from the list of recent ones, as a server does some minutes later.
func (vc *vcenter) forgetTasks() error {
	manager := vc.registry.Get(*vc.client.ServiceContent.TaskManager).(*simulator.TaskManager)
	kept := []types.ManagedObjectReference{}
	for _, reference := range manager.RecentTask {
		task, ok := vc.registry.Get(reference).(*simulator.Task)
		if ok && (task.Info.State == types.TaskInfoStateRunning || task.Info.State == types.TaskInfoStateQueued) {
			kept = append(kept, reference)
		}
	}
	vc.registry.AtomicUpdate(vc.background(), manager, []types.PropertyChange{{Name: "recentTask", Val: kept}})
	return nil
}

func (vc *vcenter) setFreeSpace(body []byte) error {
	asked := struct {
		Datastore string `json:"datastore"`
		Bytes     int64  `json:"bytes"`
		Type      string `json:"type"`
		Refreshed *int64 `json:"refreshed"`
	}{}
	if err := strictly(body, &asked); err != nil {
		return err
	}
	if asked.Refreshed == nil {
		asked.Refreshed = &asked.Bytes
	}
	for _, entity := range vc.registry.All("Datastore") {
		store := entity.(*simulator.Datastore)
		if store.Name == asked.Datastore {
			vc.mu.Lock()
			vc.free[store.Self.Value] = *asked.Refreshed
			vc.mu.Unlock()
			vc.registry.AtomicUpdate(vc.background(), store, []types.PropertyChange{
				{Name: "summary.freeSpace", Val: asked.Bytes},
				{Name: "summary.type", Val: asked.Type},
			})
			return nil
		}
	}
	return fmt.Errorf("there is no datastore %q", asked.Datastore)
}

func serverURL(url string) *types.UpdateOptions {
	return &types.UpdateOptions{
		ChangedValue: []types.BaseOptionValue{&types.OptionValue{Key: "vcsim.server.url", Value: url}},
	}
}
