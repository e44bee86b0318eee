// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"vmops.example/testbed/front"
)

const nfcPath = "/nfc/"

// file is one that a lease takes.
type file struct {
	key       string
	importKey string
	byPUT     bool // real servers answer 405 to a POST of such
	disk      bool
	checksum  string // the kind asked for
	sha1      string // of what came last, whole
	sha256    string
	size      int64
}

func (f *file) entry(now settings) types.HttpNfcLeaseManifestEntry {
	told := func(digest string) string {
		if now.ManifestLies {
			return strings.Repeat("0", len(digest))
		}
		return digest
	}
	entry := types.HttpNfcLeaseManifestEntry{Key: f.key, Sha1: told(f.sha1), Size: f.size, Disk: f.disk}
	checksum := f.checksum
	if oneOf(now.ManifestTells, "sha1", "sha256") {
		checksum = now.ManifestTells
	}
	switch checksum {
	case "sha1":
		entry.ChecksumType, entry.Checksum = checksum, told(f.sha1)
	case "sha256":
		entry.ChecksumType, entry.Checksum = checksum, told(f.sha256)
	}
	switch now.ManifestTells {
	case "sha256":
		entry.Sha1 = ""
	case "odd":
		entry.Sha1, entry.ChecksumType, entry.Checksum = told(f.sha256), "sha256", told(f.sha1)
	}
	return entry
}

// upload is one request that brought a file, or was to.
type upload struct {
	Lease   string      `json:"lease"`
	Target  string      `json:"target"`
	Method  string      `json:"method"`
	Port    int         `json:"port"` // to which it came, 0 where the server fetched it
	Headers http.Header `json:"headers"`
	// Length is what the client said, -1 where it said nothing; Bytes are those that came.
	Length int64  `json:"length"`
	Bytes  int64  `json:"bytes"`
	SHA1   string `json:"sha1"`
	SHA256 string `json:"sha256"`
	// Status that was answered, 0 where none was (yet); Trouble is why not all of it came.
	Status  int    `json:"status"`
	Trouble string `json:"trouble"`
	Kept    string `json:"kept"`
}

func (vc *vcenter) tellUploads() any {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	told := []upload{}
	for _, upload := range vc.uploads {
		told = append(told, *upload)
	}
	return told
}

// ServeHTTP receives files; all else is the simulator's.
func (vc *vcenter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, nfcPath) || !vc.now().Strict {
		vc.service.ServeMux.ServeHTTP(w, r)
		return
	}
	vc.serveNFC(w, r)
}

func (vc *vcenter) serveNFC(w http.ResponseWriter, r *http.Request) {
	id, target := path.Split(strings.TrimPrefix(r.URL.Path, nfcPath))
	lease, found := vc.open(strings.TrimSuffix(id, "/"), target)
	switch {
	case found == nil:
		http.Error(w, "no such lease or file", http.StatusNotFound)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		w.WriteHeader(http.StatusOK)
	case r.Method == http.MethodPost && found.byPUT:
		http.Error(w, "POST is not for files that are created", http.StatusMethodNotAllowed)
	case r.Method == http.MethodPost || r.Method == http.MethodPut:
		vc.receive(w, r, lease, target, found)
	default:
		http.Error(w, "", http.StatusMethodNotAllowed)
	}
}

// open finds the file that a URL is for, nil where there is no such one any more.
func (vc *vcenter) open(id, target string) (*HttpNfcLease, *file) {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	for _, lease := range vc.leases {
		if lease.id != id {
			continue
		}
		lease.mu.Lock()
		defer lease.mu.Unlock()
		if lease.phase != types.HttpNfcLeaseStateReady {
			return lease, nil
		}
		return lease, lease.files[target]
	}
	return nil, nil
}

func (vc *vcenter) receive(w http.ResponseWriter, r *http.Request, lease *HttpNfcLease, target string, into *file) {
	now := vc.now()
	came := &upload{
		Lease: lease.Self.Value, Target: target, Method: r.Method, Headers: r.Header, Length: r.ContentLength,
		Port: r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr).Port,
	}
	vc.mu.Lock()
	vc.uploads = append(vc.uploads, came)
	vc.mu.Unlock()
	rule := vc.rules.For(func(rule *nfcRule) bool { return rule.matches(target) })
	sink, err := newSink(now, lease.id, target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer sink.close()
	limit := int64(-1)
	if rule != nil {
		limit = rule.limit()
	}
	whole, err := vc.take(sink, r.Body, came, limit, now.RateMBS)
	if err == nil && !whole && rule.Do == "pause" {
		rule.Hold()
		whole, err = vc.take(sink, r.Body, came, -1, now.RateMBS)
	}
	if err != nil {
		vc.note(func() { came.Trouble = err.Error() })
		panic(http.ErrAbortHandler)
	}
	if rule != nil && !rule.apply(w, func(status int) { vc.note(func() { came.Status = status }) }) {
		return
	}
	if !whole {
		return
	}
	sink.finish(came, into, lease, vc)
	w.WriteHeader(http.StatusOK)
}

// note changes what is told of an upload.
func (vc *vcenter) note(what func()) {
	vc.mu.Lock()
	defer vc.mu.Unlock()
	what()
}

// take reads the body, or what is left of it, up to a limit if there is one (-1: none); it tells whether all of it came.
func (vc *vcenter) take(into io.Writer, body io.Reader, came *upload, limit int64, rate float64) (bool, error) {
	started := time.Now()
	buffer := make([]byte, 256<<10)
	before := came.Bytes
	total := int64(0)
	for {
		piece := buffer
		if limit >= 0 && limit-total < int64(len(piece)) {
			piece = piece[:limit-total]
		}
		if len(piece) == 0 {
			return false, nil
		}
		n, err := body.Read(piece)
		total += int64(n)
		if _, trouble := into.Write(piece[:n]); trouble != nil {
			return false, trouble
		}
		vc.note(func() { came.Bytes = before + total })
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if rate > 0 {
			due := time.Duration(float64(total) / (rate * 1e6) * float64(time.Second))
			time.Sleep(due - time.Since(started))
		}
	}
}

// sink hashes what comes, and keeps it where the settings say so.
type sink struct {
	io.Writer
	sha1, sha256 hash.Hash
	kept         *os.File
}

func newSink(now settings, id, target string) (*sink, error) {
	s := &sink{}
	writers := []io.Writer{}
	if now.Hash {
		s.sha1, s.sha256 = sha1.New(), sha256.New()
		writers = append(writers, s.sha1, s.sha256)
	}
	if now.KeepBodies != "" {
		folder := filepath.Join(now.KeepBodies, id)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		kept, err := os.Create(filepath.Join(folder, filepath.Base(target)))
		if err != nil {
			return nil, err
		}
		s.kept = kept
		writers = append(writers, kept)
	}
	s.Writer = io.MultiWriter(writers...)
	return s, nil
}

func (s *sink) close() {
	if s.kept != nil {
		_ = s.kept.Close()
	}
}

// finish makes what came the file's content.
func (s *sink) finish(came *upload, into *file, lease *HttpNfcLease, vc *vcenter) {
	vc.mu.Lock()
	came.Status = http.StatusOK
	if s.sha1 != nil {
		came.SHA1, came.SHA256 = hex.EncodeToString(s.sha1.Sum(nil)), hex.EncodeToString(s.sha256.Sum(nil))
	}
	if s.kept != nil {
		came.Kept = s.kept.Name()
	}
	vc.mu.Unlock()
	lease.mu.Lock()
	defer lease.mu.Unlock()
	into.sha1, into.sha256, into.size = came.SHA1, came.SHA256, came.Bytes
}

// nfcRule says what happens to uploads.
type nfcRule struct {
	front.Turn
	// Target is a pattern of the file's name in the device URL, such as disk-0.vmdk or *.
	Target string `json:"target"`
	// Do is one of
	//   status   answer this status; after so many bytes, or after all of them
	//   reset    after so many bytes reset the connection
	//   stall    after so many bytes read no more, until released or for so many seconds; then reset
	//   pause    after so many bytes read no more, until released or for so many seconds; then read the rest
	//   silent   read all, then answer nothing, until released or for so many seconds; then answer as if nothing was
	Do string `json:"do"`
	// AfterBytes: -1, which is the default, is all.
	AfterBytes *int64 `json:"after_bytes"`
	Status     int    `json:"status"`
	Text       string `json:"text"`
}

func (vc *vcenter) addRule(description []byte) (int, error) {
	rule := &nfcRule{Target: "*"}
	if err := strictly(description, rule); err != nil {
		return 0, err
	}
	if _, err := path.Match(rule.Target, ""); err != nil {
		return 0, err
	}
	if !oneOf(rule.Do, "status", "reset", "stall", "pause", "silent") || rule.Do == "status" && rule.Status == 0 {
		return 0, fmt.Errorf("a rule for uploads can't do %q with status %d", rule.Do, rule.Status)
	}
	return vc.rules.Add(rule), nil
}

func (r *nfcRule) matches(target string) bool {
	matches, _ := path.Match(r.Target, target)
	return matches
}

func (r *nfcRule) limit() int64 {
	if r.AfterBytes == nil || r.Do == "silent" {
		return -1
	}
	return *r.AfterBytes
}

// apply does it, after the bytes came; true: go on as if nothing was.
func (r *nfcRule) apply(w http.ResponseWriter, answered func(int)) bool {
	switch r.Do {
	case "status":
		answered(r.Status)
		w.Header().Set("Connection", "close")
		http.Error(w, r.Text, r.Status)
		return false
	case "stall":
		r.Hold()
		reset(w)
		return false
	case "silent":
		r.Hold()
		return true
	case "pause": // which it did when so many bytes had come
		return true
	}
	reset(w)
	return false
}

// reset ends a connection without a goodbye.
func reset(w http.ResponseWriter) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if secured, ok := connection.(*tls.Conn); ok {
		connection = secured.NetConn()
	}
	if plain, ok := connection.(*net.TCPConn); ok {
		_ = plain.SetLinger(0)
	}
	_ = connection.Close()
}
