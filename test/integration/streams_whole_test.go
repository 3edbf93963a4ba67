// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// paused is a client's output that takes nothing until it is let go on.
type paused struct {
	goOn  chan struct{}
	taken atomic.Int64
}

func newPaused() *paused { return &paused{goOn: make(chan struct{})} }

func (p *paused) Write(b []byte) (int, error) {
	<-p.goOn
	p.taken.Add(int64(len(b)))
	return len(b), nil
}

// A command's output that was written before its end reaches a client that
// pauses then for longer than anything of ours waits, whoever wrote it and
// whoever holds the streams ever after.
func TestExecOutputArrivesWhole(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "whole")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	var files atomic.Int32
	for _, c := range clients {
		for name, mode := range map[string][]string{"own": nil, "child": {"child"}, "child that stays": {"child", "stay"}, "child that goes on": {"child", "pour"}} {
			for _, tty := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/terminal=%t", c.name, name, tty), func(t *testing.T) {
					t.Parallel()
					file := fmt.Sprintf("/counts-%d", files.Add(1))
					r, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{
						ContainerId: id, Cmd: append([]string{tb, "fill", file}, mode...), Tty: tty, Stdout: true, Stderr: !tty,
					})
					if err != nil {
						t.Fatal(err)
					}
					out, errs := newPaused(), newPaused()
					o := remotecommand.StreamOptions{Stdout: out, Tty: tty}
					if !tty {
						o.Stderr = errs
					}
					ended := make(chan error, 1)
					go func() { ended <- session(t, c.execute, r.Url, o) }()
					counts := ""
					nodetest.Eventually(t, 2*patience, "the streams are full", func() bool {
						counts, _, _ = d.Exec(t, id, tb, "read", file)
						return counts != ""
					})
					time.Sleep(3 * time.Second) // of the client
					close(out.goOn)
					close(errs.goOn)
					err = <-ended
					more := name == "child that goes on" // and is cut off, which the client is told
					var exit utilexec.CodeExitError
					if (!errors.As(err, &exit) || exit.Code != 7) && (!more || err == nil || !strings.Contains(err.Error(), "truncated")) {
						t.Errorf("error %v, want exit code 7", err)
					}
					var wantOut, wantErrs int64
					fmt.Sscan(counts, &wantOut, &wantErrs)
					if n := out.taken.Load(); n != wantOut && (!more || n <= wantOut) {
						t.Errorf("stdout has %d bytes of %d", n, wantOut)
					}
					if n := errs.taken.Load(); n != wantErrs {
						t.Errorf("stderr has %d bytes of %d", n, wantErrs)
					}
				})
			}
		}
	}
}

// A container that ends while its client pauses: all that it wrote, then success.
func TestAttachOutputArrivesWhole(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "ends")
	const size = 1 << 20
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cc := inHostNet("ends-"+c.name, "wait-bytes", fmt.Sprint(size))
			cc.Stdin, cc.StdinOnce = true, true
			id := d.Run(t, pod, cc, p)
			out := newPaused()
			ended := make(chan error, 1)
			go func() {
				ended <- session(t, c.execute, attach(t, d, id, false, true), remotecommand.StreamOptions{Stdin: strings.NewReader("go\n"), Stdout: out, Stderr: io.Discard})
			}()
			d.AwaitExit(t, id)
			time.Sleep(3 * time.Second) // of the client
			close(out.goOn)
			err := <-ended
			if n := out.taken.Load(); n != size || err != nil {
				t.Errorf("%d bytes of %d, %v", n, size, err)
			}
		})
	}
}

// The daemon's orderly end is told to every client that it ends something for.
func TestStopTellsSessions(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "told")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	results := map[string]chan error{}
	began := func(name string, f func() error) {
		c := make(chan error, 1)
		results[name] = c
		go func() { c <- f() }()
	}
	for _, c := range clients {
		r, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{tb, "sleep", "20", "9"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		up, screen := io.Pipe()
		began(c.name+" exec", func() error {
			return session(t, c.execute, r.Url, remotecommand.StreamOptions{Stdout: screen})
		})
		if _, err := up.Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, up)
		u := attach(t, d, id, false, false)
		began(c.name+" attach", func() error {
			return session(t, c.execute, u, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
		})
	}
	began("sync", func() error {
		_, err := d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{tb, "sleep", "20"}})
		return err
	})
	nodetest.Eventually(t, patience, "all sessions are there", func() bool {
		out, _, _ := d.Exec(t, id, tb, "count", "sleep")
		return strings.TrimSpace(out) == fmt.Sprint(1+len(clients)+1)
	})
	if err := syscall.Kill(d.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for name, c := range results {
		err := <-c
		if name == "sync" {
			code(t, err, codes.Unavailable)
		} else if err == nil || !strings.Contains(err.Error(), "stopping") && !strings.Contains(err.Error(), "connection lost") && !strings.Contains(err.Error(), "connection to the monitor lost") {
			t.Errorf("%s: the client is told %v", name, err)
		}
	}
	if err := d.AwaitEnd(2 * patience); err != nil {
		t.Error(err)
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := d.Exec(t, id, tb, "count", "sleep"); strings.TrimSpace(out) != "1" {
		t.Errorf("commands without a client run on: %s", out)
	}
}

// What a command has from whoever started it is what the container's own
// process has, whatever that is.
func TestExecIsLikeTheContainer(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "alike")
	for name, change := range map[string]func(c *cri.ContainerConfig){
		"plain": func(*cri.ContainerConfig) {},
		"user": func(c *cri.ContainerConfig) {
			sc := c.Linux.SecurityContext
			sc.RunAsUser, sc.RunAsGroup, sc.SupplementalGroups = &cri.Int64Value{Value: 1234}, &cri.Int64Value{Value: 4321}, []int64{7, 8}
			sc.NoNewPrivs = true
			sc.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN"}, AddAmbientCapabilities: []string{"CHOWN"}}
			c.WorkingDir = "/bin"
			c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("b c\nd")}, {Key: "PATH", Value: []byte("/bin")}}
			c.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: 500, CpusetCpus: "0"}
		},
		"privileged": func(c *cri.ContainerConfig) { c.Linux.SecurityContext.Privileged = true },
	} {
		t.Run(name, func(t *testing.T) {
			pod, p := pod, p
			cc := inHostNet("alike-"+name, "self", "sleep")
			change(cc)
			if cc.Linux.SecurityContext.Privileged {
				config := hostNet(d.PodConfig("privileged"))
				config.Linux.SecurityContext.Privileged = true
				pod, p = d.Pod(t, config), config
			}
			id := d.Run(t, pod, cc, p)
			d.AwaitLog(t, "alike-"+name, "end of self")
			var own bytes.Buffer
			for line := range strings.Lines(d.LogOf(t, "alike-"+name)) {
				if own.WriteString(line); strings.Contains(line, "end of self") {
					break
				}
			}
			if got := exec(t, d, id, "self"); got != own.String() {
				t.Errorf("the container has\n%s\nthe command has\n%s", own.String(), got)
			}
		})
	}
}

// Programs for terminals need to know of which kind it is.
func TestExecTerminalHasAKind(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "term")
	plain := d.Run(t, pod, inHostNet("plain", "sleep"), p)
	cc := inHostNet("dumb", "sleep")
	cc.Envs = []*cri.KeyValue{{Key: "TERM", Value: []byte("dumb")}}
	dumb := d.Run(t, pod, cc, p)
	for _, c := range clients {
		for _, tt := range []struct {
			id   string
			tty  bool
			want string
		}{{plain, true, "TERM=xterm"}, {plain, false, ""}, {dumb, true, "TERM=dumb"}, {dumb, false, "TERM=dumb"}} {
			r, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: tt.id, Cmd: []string{tb, "env"}, Tty: tt.tty, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := session(t, c.execute, r.Url, remotecommand.StreamOptions{Stdout: &out, Tty: tt.tty}); err != nil {
				t.Error(err)
			}
			got := ""
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "TERM=") {
					got += strings.TrimSpace(line)
				}
			}
			if got != tt.want {
				t.Errorf("%s, terminal %t: %q, want %q", c.name, tt.tty, got, tt.want)
			}
		}
	}
}

func TestExecRefusesWhatIsNoCommand(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "refuses")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	for _, cmd := range [][]string{nil, {""}, {"", "x"}, {tb, "a\x00b"}} {
		_, err := d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd})
		code(t, err, codes.InvalidArgument, "cmd")
		_, err = d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: cmd, Stdout: true})
		code(t, err, codes.InvalidArgument, "cmd")
	}
}

// A client that never reads keeps no session: not one whose view of a container
// was cut, and not for long one of a container that has ended.
func TestClientThatNeverReads(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "never")
	id := d.Run(t, pod, inHostNet("app", "lines", "0"), p)
	for _, c := range clients {
		r, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{tb, "lines", "0"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range []string{r.Url, attach(t, d, id, false, false)} {
			out, ended := newPaused(), make(chan struct{})
			go func() {
				defer close(ended)
				if err := session(t, c.execute, u, remotecommand.StreamOptions{Stdout: out, Stderr: io.Discard}); err == nil {
					t.Errorf("%s: success is told", u)
				}
			}()
			defer func() { close(out.goOn); <-ended }()
		}
	}
	ended := func(kind string) func() bool {
		return func() bool { return strings.Count(d.Log(), kind+" session ended") == len(clients) }
	}
	nodetest.Eventually(t, patience, "cut views end", ended("attach"))
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 3*patience, "sessions of an ended container end", ended("exec"))
}
