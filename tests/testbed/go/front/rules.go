// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package front

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
	"sort"
	"strings"
)

// Rule says what happens to calls of a method.
type Rule struct {
	Turn
	Method string `json:"method"`
	// Contains narrows it to calls with this text in them.
	Contains string `json:"contains"`
	// Do is one of
	//   fault       answer a fault; the call is not carried out
	//   drop        close the connection; the call is not carried out
	//   lose_reply  carry the call out, then close the connection without an answer
	//   hold        wait until released, or for so many seconds; then carry it out and answer
	//   hold_drop   wait the same; then close the connection; the call is not carried out
	//   hold_reply  carry the call out, then wait; then answer
	//   status      answer an HTTP status, as servers do that are just starting; the call is not carried out
	Do     string `json:"do"`
	Status int    `json:"status"`
	// Fault is the name of a vim25 fault, Text its message, Fields its own elements.
	Fault  string            `json:"fault"`
	Text   string            `json:"text"`
	Fields map[string]string `json:"fields"`
}

func (r *Rule) check() error {
	if r.Method == "" {
		return fmt.Errorf("a rule needs a method")
	}
	switch r.Do {
	case "fault":
		if r.Fault == "" {
			return fmt.Errorf("a rule that answers a fault needs the fault's name")
		}
	case "status":
		if r.Status < 100 || r.Status > 999 {
			return fmt.Errorf("%d is no HTTP status", r.Status)
		}
	case "drop", "lose_reply", "hold", "hold_drop", "hold_reply":
	default:
		return fmt.Errorf("a rule can't do %q", r.Do)
	}
	return nil
}

func (r *Rule) matches(method string, body []byte) bool {
	return r.Method == method && bytes.Contains(body, []byte(r.Contains))
}

func (r *Rule) apply(w http.ResponseWriter, carryOut func(http.ResponseWriter)) {
	switch r.Do {
	case "fault":
		writeFault(w, r.Fault, r.Text, r.Fields)
	case "status":
		http.Error(w, r.Text, r.Status)
	case "drop":
		panic(http.ErrAbortHandler)
	case "lose_reply":
		carryOut(newReply())
		panic(http.ErrAbortHandler)
	case "hold":
		r.Hold()
		carryOut(w)
	case "hold_drop":
		r.Hold()
		panic(http.ErrAbortHandler)
	case "hold_reply":
		reply := newReply()
		carryOut(reply)
		r.Hold()
		reply.deliver(w)
	}
}

// reply keeps what a handler answers.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newReply() *reply { return &reply{header: http.Header{}, status: http.StatusOK} }

func (r *reply) Header() http.Header               { return r.header }
func (r *reply) WriteHeader(status int)            { r.status = status }
func (r *reply) Write(content []byte) (int, error) { return r.body.Write(content) }

func (r *reply) deliver(w http.ResponseWriter) {
	for name, values := range r.header {
		w.Header()[name] = values
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body.Bytes())
}

// writeFault answers a vim25 fault as a SOAP server does.
func writeFault(w http.ResponseWriter, fault, text string, fields map[string]string) {
	var own strings.Builder
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(&own, "<%s>%s</%s>", name, escaped(fields[name]), name)
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>%s</faultstring><detail><%sFault xmlns="urn:vim25" xsi:type="%s">%s</%sFault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>`,
		escaped(text), fault, fault, own.String(), fault)
}

func escaped(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text))
	return out.String()
}
