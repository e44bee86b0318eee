// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Command vcenter stands in for a vCenter server, which can't be had for tests: a simulator's simulator.
//
// Inventory, sessions, property collector, tasks and import specs are those of govmomi's real simulator. Ours is what
// that one lacks, after VMware's documentation of HttpNfcLease, OvfFile and DeviceUrl in the vSphere Web Services API:
// a lease that runs out, that blocks its machine, and whose end ends the import's task and takes the machine away or
// leaves it (lease.go, imports.go); files that are received, hashed, counted, and refused where the method is wrong
// (nfc.go); and what a test does to all this (settings.go, and package front). Where the documentation is silent, what
// we chose is said in a comment and is a setting.
package main

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"

	"vmops.example/testbed/front"
)

// vcenter is the one server of this process.
type vcenter struct {
	service  *simulator.Service
	registry *simulator.Registry
	client   *vim25.Client // in the same process, with a session of its own
	itself   endpoint
	hosts    []endpoint // the ESXi hosts that take uploads
	rules    front.Rules[*nfcRule]
	making   sync.Mutex // held while a machine is made or taken away, which the simulator can't do side by side

	mu       sync.Mutex
	settings settings
	leases   []*HttpNfcLease
	items    map[string][]createdItem // by the name of the machine to be
	uploads  []*upload
	free     map[string]int64 // in bytes, by the id of a datastore of which a test has told it
}

// endpoint is a port with a certificate.
type endpoint struct {
	port        int
	thumbprint  string
	certificate string // PEM
}

func main() {
	model := modelOf(os.Args[1:])
	options := front.NewOptions(front.Inventory{
		Datacenters: &model.Datacenter, Datastores: &model.Datastore, Pods: &model.Pod, Pools: &model.Pool, Machines: &model.Machine,
	})
	hosts := flag.String("host-certificates", "", "the same of each ESXi host that takes uploads, with commas between")
	about := &model.ServiceContent.About
	flag.Bool("esx", false, "an ESXi host instead of a vCenter")
	flag.StringVar(&about.ApiVersion, "api-version", "8.0.3.0", "version of the API")
	flag.Parse()
	log.SetFlags(0)
	about.Version = strings.Join(strings.SplitN(about.ApiVersion, ".", 4)[:3], ".")
	about.FullName = about.Name + " " + about.Version
	if err := run(model, options, strings.Split(*hosts, ",")); err != nil {
		log.Fatal(err)
	}
}

// modelOf is asked before the other flags are read, as they change it.
func modelOf(arguments []string) *simulator.Model {
	for _, argument := range arguments {
		if argument == "-esx" {
			return simulator.ESX()
		}
	}
	return simulator.VPX()
}

func run(model *simulator.Model, options *front.Options, hostCertificates []string) error {
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}
	vc, err := newVcenter(model.Service)
	if err != nil {
		return err
	}
	vc.service.Listen = options.Unlistened()
	vc.service.NewServer().Close()

	before := front.New(vc)
	if vc.itself, err = serve(before, options.Certificate()); err != nil {
		return err
	}
	hostPorts := []int{}
	for _, its := range hostCertificates {
		host, err := serve(http.HandlerFunc(vc.serveNFC), its)
		if err != nil {
			return err
		}
		vc.hosts, hostPorts = append(vc.hosts, host), append(hostPorts, host.port)
	}
	vc.service.Listen.Scheme, vc.service.Listen.Host = "https", vc.itself.address()
	vc.registry.OptionManager().UpdateOptions(serverURL("https://" + vc.itself.address() + vim25.Path))
	control := front.NewControl(before)
	vc.control(control)
	return front.RunUntilParentEnds(control, map[string]any{
		"port": vc.itself.port, "host_ports": hostPorts, "api_version": model.ServiceContent.About.ApiVersion,
	})
}

func newVcenter(service *simulator.Service) (*vcenter, error) {
	vc := &vcenter{
		service:  service,
		registry: service.Context.Map,
		settings: defaults(service.Context.Map.IsESX()),
		items:    map[string][]createdItem{},
		free:     map[string]int64{},
	}
	// Calls of our own are marked, since they are not subject to what a lease forbids.
	var err error
	if vc.client, err = vim25.NewClient(ours(), service); err != nil {
		return nil, err
	}
	vc.registry.Handler = vc.override
	completes := completer{vc}
	for _, object := range vc.registry.AllReference("") {
		completes.PutObject(nil, object)
	}
	vc.registry.AddHandler(completes)
	return vc, nil
}

type mark struct{}

// ours is the context of calls by the stand-in itself.
func ours() context.Context { return context.WithValue(context.Background(), mark{}, true) }

func serve(handler http.Handler, certificate string) (endpoint, error) {
	pair, err := tls.LoadX509KeyPair(certificate, certificate)
	if err != nil {
		return endpoint{}, err
	}
	port, err := front.Serve(handler, certificate)
	own := pair.Certificate[0]
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own})
	return endpoint{port, colons(sha1.Sum(own)), string(inPEM)}, err
}

func (e endpoint) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(e.port)) }

func colons(digest [sha1.Size]byte) string {
	pairs := make([]string, len(digest))
	for i, value := range digest {
		pairs[i] = strings.ToUpper(hex.EncodeToString([]byte{value}))
	}
	return strings.Join(pairs, ":")
}
