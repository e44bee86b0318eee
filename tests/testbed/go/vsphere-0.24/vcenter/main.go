// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Command vcenter is govmomi's simulator of an old version as it comes, with our front before it: TLS, rules for SOAP
// calls, and their count.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"vmops.example/testbed/front"
)

func main() {
	model := simulator.VPX()
	options := front.NewOptions(front.Inventory{
		Datacenters: &model.Datacenter, Datastores: &model.Datastore, Pods: &model.Pod, Pools: &model.Pool, Machines: &model.Machine,
	})
	flag.StringVar(&model.ServiceContent.About.ApiVersion, "api-version", "6.5", "version of the API")
	flag.Parse()
	log.SetFlags(0)
	if err := run(model, options); err != nil {
		log.Fatal(err)
	}
}

func run(model *simulator.Model, options *front.Options) error {
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}
	service := model.Service
	service.Listen = options.Unlistened()
	service.NewServer().Close()
	before := front.New(http.HandlerFunc(service.ServeMux.ServeHTTP))
	port, err := front.Serve(before, options.Certificate())
	if err != nil {
		return err
	}
	host := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	service.Listen.Scheme, service.Listen.Host = "https", host
	tellURL("https://" + host + "/sdk")
	return front.RunUntilParentEnds(front.NewControl(before), map[string]any{
		"port": port, "api_version": model.ServiceContent.About.ApiVersion,
	})
}

// tellURL makes the simulator name the front in the URLs that it gives.
func tellURL(server string) {
	for _, setting := range simulator.Map.OptionManager().Setting {
		if option := setting.GetOptionValue(); option.Key == "vcsim.server.url" {
			*option = types.OptionValue{Key: option.Key, Value: server}
		}
	}
}
