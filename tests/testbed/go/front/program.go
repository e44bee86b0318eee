// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package front

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime/debug"
)

// Inventory is what a simulator's model is to have, where it keeps that.
type Inventory struct{ Datacenters, Datastores, Pods, Pools, Machines *int }

// Options are those that all servers have on their command line.
type Options struct{ certificate, username, password *string }

// NewOptions adds them to the flags. Those of the inventory have what is there by default.
func NewOptions(has Inventory) *Options {
	flag.IntVar(has.Datacenters, "datacenters", *has.Datacenters, "how many of them")
	flag.IntVar(has.Datastores, "datastores", *has.Datastores, "how many of them")
	flag.IntVar(has.Pods, "pods", *has.Pods, "how many datastore clusters")
	flag.IntVar(has.Pools, "pools", *has.Pools, "how many resource pools below the root one")
	flag.IntVar(has.Machines, "machines", 0, "how many machines in each pool")
	return &Options{
		flag.String("certificate", "", "PEM file with certificate and key"),
		flag.String("username", "administrator@vsphere.local", "who may log in"),
		flag.String("password", "", "by which password"),
	}
}

// Certificate is the path of the server's.
func (o *Options) Certificate() string { return *o.certificate }

// Unlistened is where a simulator's own listener is, which is not wanted, only what it sets up for it; and who may log in.
func (o *Options) Unlistened() *url.URL {
	return &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(*o.username, *o.password)}
}

// RunUntilParentEnds answers control requests, tells on standard output, as one line of JSON, where the server is, and
// returns when standard input ends: whoever started us has ended, however that came.
func RunUntilParentEnds(control *Control, where map[string]any) error {
	port, err := control.serve()
	if err != nil {
		return err
	}
	where["control_port"], where["version"] = port, version("github.com/vmware/govmomi")
	line, err := json.Marshal(where)
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// version is that of a module that was built in.
func version(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Version
		}
	}
	return "unknown"
}
