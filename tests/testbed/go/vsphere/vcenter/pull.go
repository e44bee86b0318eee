// Copyright: (c) 2026, vmops.lifecycle contributors
// GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"archive/tar"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// HttpNfcLeaseProbeUrls tells of each source whether the server can read it.
func (l *HttpNfcLease) HttpNfcLeaseProbeUrls(
	_ *simulator.Context, req *types.HttpNfcLeaseProbeUrls,
) soap.HasFault {
	body := &methods.HttpNfcLeaseProbeUrlsBody{Fault_: l.pullRefusal()}
	if body.Fault_ != nil {
		return body
	}
	body.Res = &types.HttpNfcLeaseProbeUrlsResponse{}
	for _, source := range req.Files {
		result := types.HttpNfcLeaseProbeResult{}
		timeout := time.Duration(max(req.Timeout, 1)) * time.Second
		answer, err := ask(context.Background(), http.MethodHead, source, timeout)
		if err == nil {
			_ = answer.Body.Close()
			result.ServerAccessible = answer.StatusCode < http.StatusBadRequest
		}
		body.Res.Returnval = append(body.Res.Returnval, result)
	}
	return body
}

// HttpNfcLeasePullFromUrlsTask makes the server fetch files itself. While it does the lease stays alive, which the
// documentation leaves open; a source that fails ends the task, not the lease. The lease's end ends the task, and so does
// who cancels it.
func (l *HttpNfcLease) HttpNfcLeasePullFromUrlsTask(
	ctx *simulator.Context, req *types.HttpNfcLeasePullFromUrls_Task,
) soap.HasFault {
	body := &methods.HttpNfcLeasePullFromUrls_TaskBody{Fault_: l.pullRefusal()}
	if body.Fault_ != nil {
		return body
	}
	// the task's own entity is the machine: the lease would be locked as long as the task runs
	task := simulator.CreateTask(l.machine, "pullFromUrls", nil)
	task.Self = types.ManagedObjectReference{Type: "Task", Value: "task-pull-" + uuid.NewString()}
	task.Info.Key, task.Info.Task, task.Info.State = task.Self.Value, task.Self, types.TaskInfoStateRunning
	task.Info.Cancelable = true
	ctx.Map.Put(task)
	ctx.Update(l, []types.PropertyChange{{Name: "mode", Val: string(types.HttpNfcLeaseModePull)}})
	until, stop := context.WithCancel(context.Background())
	l.mu.Lock()
	l.pull, l.stopPull = task, stop
	l.mu.Unlock()
	go l.pullAll(until, task, req.Files)
	body.Res = &types.HttpNfcLeasePullFromUrls_TaskResponse{Returnval: task.Self}
	return body
}

func (l *HttpNfcLease) pullRefusal() *soap.Fault {
	if !l.vc.now().PullMode {
		return simulator.Fault("", &types.NotSupported{})
	}
	return l.refusal(ready)
}

func (l *HttpNfcLease) pullAll(until context.Context, task *simulator.Task, sources []types.HttpNfcLeaseSourceFile) {
	var fault *types.LocalizedMethodFault
	for number, source := range sources {
		if fault = l.pullOne(until, source); fault != nil {
			break
		}
		percent := int32(100 * (number + 1) / len(sources))
		l.vc.registry.AtomicUpdate(l.vc.background(), l, []types.PropertyChange{
			{Name: "transferProgress", Val: percent},
		})
		l.vc.registry.AtomicUpdate(l.vc.background(), task, []types.PropertyChange{
			{Name: "info.progress", Val: percent},
		})
	}
	if fault != nil && until.Err() != nil {
		fault = &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}, LocalizedMessage: "The task was canceled."}
	}
	l.vc.endTask(task, fault)
}

func (l *HttpNfcLease) pullOne(
	until context.Context, source types.HttpNfcLeaseSourceFile,
) *types.LocalizedMethodFault {
	target, into := l.fileByImportKey(source.TargetDeviceId)
	if into == nil || into.byPUT != source.Create {
		return &types.LocalizedMethodFault{
			Fault: &types.InvalidArgument{InvalidProperty: "files"}, LocalizedMessage: source.TargetDeviceId,
		}
	}
	answer, err := ask(until, http.MethodGet, source, 0)
	if err != nil {
		return unread(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return &types.LocalizedMethodFault{
			Fault:            &types.HttpFault{StatusCode: int32(answer.StatusCode), StatusMessage: answer.Status},
			LocalizedMessage: answer.Status,
		}
	}
	if err := l.store(target, into, answer, source.MemberName); err != nil {
		return &types.LocalizedMethodFault{Fault: &types.SystemError{Reason: err.Error()}, LocalizedMessage: err.Error()}
	}
	return nil
}

func (l *HttpNfcLease) fileByImportKey(key string) (string, *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for target, file := range l.files {
		if file.importKey == key {
			return target, file
		}
	}
	return "", nil
}

// store takes what a source sends, or the member of it that is asked for.
func (l *HttpNfcLease) store(target string, into *file, answer *http.Response, member string) error {
	now := l.vc.now()
	came := &upload{Lease: l.Self.Value, Target: target, Method: "PULL", Headers: answer.Request.Header, Length: answer.ContentLength}
	l.vc.note(func() { l.vc.uploads = append(l.vc.uploads, came) })
	content := io.Reader(answer.Body)
	if member != "" {
		archive := tar.NewReader(answer.Body)
		if err := seek(archive, member); err != nil {
			return err
		}
		content = archive
	}
	sink, err := newSink(now, l.id, target)
	if err != nil {
		return err
	}
	defer sink.close()
	if _, err := l.vc.take(sink, content, came, -1, now.RateMBS); err != nil {
		l.vc.note(func() { came.Trouble = err.Error() })
		return err
	}
	sink.finish(came, into, l, l.vc)
	return nil
}

func seek(archive *tar.Reader, member string) error {
	for {
		header, err := archive.Next()
		if err != nil {
			return fmt.Errorf("no member %q: %w", member, err)
		}
		if path.Clean(header.Name) == member {
			return nil
		}
	}
}

// unread is the fault of a source that gave no answer.
func unread(err error) *types.LocalizedMethodFault {
	text := err.Error()
	var stranger *strangerError
	if errors.As(err, &stranger) {
		return &types.LocalizedMethodFault{
			Fault: &types.SSLVerifyFault{Thumbprint: stranger.thumbprint}, LocalizedMessage: text,
		}
	}
	return &types.LocalizedMethodFault{Fault: &types.HttpFault{StatusMessage: text}, LocalizedMessage: text}
}

// strangerError is that of a certificate that nobody vouches for.
type strangerError struct{ thumbprint, wanted string }

func (e *strangerError) Error() string {
	return fmt.Sprintf("the certificate's thumbprint is %s, not %q", e.thumbprint, e.wanted)
}

// ask sends a request for a source, with its headers. A host has no authorities: it trusts the certificate that the
// thumbprint names, and without one none.
func ask(
	until context.Context, method string, source types.HttpNfcLeaseSourceFile, timeout time.Duration,
) (*http.Response, error) {
	request, err := http.NewRequestWithContext(until, method, source.Url, nil)
	if err != nil {
		return nil, err
	}
	for _, header := range source.HttpHeaders {
		request.Header.Set(header.Key, header.Value)
	}
	client := &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{TLSClientConfig: pinned(source.SslThumbprint), DisableKeepAlives: true},
	}
	return client.Do(request)
}

func pinned(thumbprint string) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, // what follows takes its place
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if found := colons(sha1.Sum(raw[0])); !strings.EqualFold(found, thumbprint) {
				return &strangerError{found, thumbprint}
			}
			return nil
		},
	}
}
