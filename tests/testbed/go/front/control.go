// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package front

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
)

// Control is the endpoint by which a test rules the server: JSON over plain http on a loopback port of its own.
type Control struct {
	mux    *http.ServeMux
	states map[string]func() any
}

// NewControl has what the front can do:
//
//	GET    /state      all there is to know
//	POST   /rules      a new Rule; answers its id
//	DELETE /rules/{id} ends one, and lets go of what it holds; 0: all
//	DELETE /calls      begins to count anew
func NewControl(f *Front) *Control {
	c := &Control{mux: http.NewServeMux(), states: map[string]func() any{}}
	c.mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		state := f.State()
		for name, tell := range c.states {
			state[name] = tell()
		}
		answer(w, state)
	})
	c.On("POST /rules", func(_ *http.Request, body []byte) (any, error) {
		id, err := f.AddRule(body)
		return map[string]int{"id": id}, err
	})
	c.On("DELETE /rules/{id}", func(r *http.Request, _ []byte) (any, error) {
		id, err := strconv.Atoi(r.PathValue("id"))
		if err == nil {
			f.Release(id)
		}
		return nil, err
	})
	c.On("DELETE /calls", func(*http.Request, []byte) (any, error) {
		f.ForgetCalls()
		return nil, nil
	})
	return c
}

// Tell adds something to the state.
func (c *Control) Tell(name string, tell func() any) { c.states[name] = tell }

// On adds a request; an error of it is answered as the client's fault.
func (c *Control) On(pattern string, do func(*http.Request, []byte) (any, error)) {
	c.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		result, err := do(r, body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, result)
	})
}

func answer(w http.ResponseWriter, content any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(content)
}

// serve answers on a free loopback port until the process ends; it tells the port.
func (c *Control) serve() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	go func() { log.Fatal(http.Serve(listener, c.mux)) }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
