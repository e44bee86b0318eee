// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package front is what stands before a simulated vCenter: TLS always, rules by which SOAP calls fail, wait or lose
// their reply, a count of the calls, and a control endpoint by which a test sets and reads all this. It knows nothing
// of the simulator behind it, so that any version of that can be put there.
package front

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Front is an http.Handler before another one.
type Front struct {
	behind  http.Handler
	started time.Time

	rules Rules[*Rule]

	mu    sync.Mutex
	calls []call
}

type call struct {
	Method string  `json:"method"`
	At     float64 `json:"at"` // seconds since the server's start
}

// New puts a front before a handler.
func New(behind http.Handler) *Front {
	return &Front{behind: behind, started: time.Now()}
}

var (
	bodyStart = regexp.MustCompile(`<(?:[\w.-]+:)?Body[^>]*>\s*<(?:[\w.-]+:)?([\w.-]+)`)
	isSOAP    = func(r *http.Request) bool {
		return r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/sdk")
	}
)

func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isSOAP(r) {
		f.behind.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client went away
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	method := ""
	if found := bodyStart.FindSubmatch(body); found != nil {
		method = string(found[1])
	}
	f.count(method)
	rule := f.rules.For(func(rule *Rule) bool { return rule.matches(method, body) })
	if rule == nil {
		f.behind.ServeHTTP(w, r)
		return
	}
	rule.apply(w, func(w http.ResponseWriter) { f.behind.ServeHTTP(w, r) })
}

func (f *Front) count(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call{method, time.Since(f.started).Seconds()})
}

// State is what a test may want to know of the front.
func (f *Front) State() map[string]any {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := map[string]int{}
	for _, call := range f.calls {
		counts[call.Method]++
	}
	rules := []map[string]any{}
	for _, rule := range f.rules.All() {
		rules = append(rules, map[string]any{
			"id": rule.ID, "method": rule.Method, "applied": rule.applied.Load(), "holding": rule.holding.Load(),
		})
	}
	return map[string]any{"counts": counts, "calls": append([]call{}, f.calls...), "rules": rules}
}

// ForgetCalls begins to count anew.
func (f *Front) ForgetCalls() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = nil
}

// AddRule puts a rule after those that are there, and answers its number.
func (f *Front) AddRule(description []byte) (int, error) {
	rule := &Rule{}
	if err := strictly(description, rule); err != nil {
		return 0, err
	}
	if err := rule.check(); err != nil {
		return 0, err
	}
	return f.rules.Add(rule), nil
}

// Release lets go of what a rule holds and ends the rule; number 0: all rules.
func (f *Front) Release(id int) { f.rules.End(id) }

func strictly(description []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(description))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

// Serve answers https on a free loopback port until the process ends; it tells the port.
func Serve(handler http.Handler, certificate string) (int, error) {
	pair, err := tls.LoadX509KeyPair(certificate, certificate)
	if err != nil {
		return 0, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	server := &http.Server{
		Handler: handler,
		// HTTP/1.1 only, as a connection that is cut must be the connection of one call
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	go func() { log.Fatal(server.ServeTLS(listener, "", "")) }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
