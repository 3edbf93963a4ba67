// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/test/await"
)

func toJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	must(t, err)
	return string(raw)
}

func fakeNet(name, version string) string {
	return `{"cniVersion":"` + version + `","name":"` + name + `","plugins":[{"type":"` + fakePlugin + `"}]}`
}

func TestFirstValidConfigurationIsUsed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		used  string // network, "" for none
		broke string // file that is complained of
	}{
		{"none", nil, "", ""},
		{"by name", map[string]string{"20-b.conflist": fakeNet("b", "1.0.0"), "10-a.conflist": fakeNet("a", "1.0.0")}, "a", ""},
		{"single plugin", map[string]string{"10-a.conf": `{"cniVersion":"0.4.0","name":"lone","type":"` + fakePlugin + `"}`}, "lone", ""},
		{"json, no version", map[string]string{"10-a.json": `{"name":"lone","type":"` + fakePlugin + `"}`}, "lone", ""},
		{"list named conf", map[string]string{"10-a.conf": fakeNet("a", "1.0.0")}, "a", ""},
		{"broken first", map[string]string{"10-a.conflist": `{"name":`, "20-b.conflist": fakeNet("b", "1.0.0")}, "b", "10-a.conflist"},
		{"empty file first", map[string]string{"10-a.conflist": ``, "20-b.conflist": fakeNet("b", "1.0.0")}, "b", "10-a.conflist"},
		{"no plugins", map[string]string{"10-a.conflist": `{"cniVersion":"1.0.0","name":"a","plugins":[]}`}, "", "10-a.conflist"},
		{"no type", map[string]string{"10-a.conf": `{"cniVersion":"1.0.0","name":"a"}`}, "", "10-a.conf"},
		{"from the future", map[string]string{"10-a.conflist": fakeNet("a", "7.0.0")}, "", "10-a.conflist"},
		{"several versions", map[string]string{"10-a.conflist": `{"cniVersions":["1.0.0","7.0.0"],"name":"a","plugins":[{"type":"` + fakePlugin + `"}]}`}, "a", ""},
		{"bad name", map[string]string{"10-a.conflist": fakeNet("../a", "1.0.0")}, "", "10-a.conflist"},
		{"others' files", map[string]string{"10-a.conflist.bak": fakeNet("a", "1.0.0"), "README": "x"}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			for name, text := range tc.files {
				n.write(name, text)
			}
			err := n.Ready()
			_ = n.Ready()
			switch {
			case tc.used == "" && !errdefs.IsUnavailable(err):
				t.Errorf("ready: %v", err)
			case tc.used == "":
				wantErr(t, err, "no CNI configuration in "+n.conf, tc.broke)
			case err != nil:
				t.Errorf("ready: %v", err)
			case n.logged("network="+tc.used+" ") != 1:
				t.Errorf("log:\n%s", n.log)
			}
			if tc.broke != "" && n.logged(tc.broke) < 1 || n.logged("skipped") > 1 {
				t.Errorf("log:\n%s", n.log)
			}
		})
	}
}

func TestPluginsInTheNetworksFolder(t *testing.T) {
	n := newNode(t)
	must(t, os.MkdirAll(n.conf+"/net", 0o755))
	must(t, os.WriteFile(n.conf+"/net/10-x.conf", []byte(n.fake("")), 0o600))
	n.write("10-net.conflist", `{"cniVersion":"1.1.0","name":"net"}`)
	a := n.pod("p1")
	_, err := n.Add(t.Context(), a)
	must(t, err)
	must(t, os.RemoveAll(n.conf))
	must(t, n.Del(t.Context(), a))
	if got := commands(n.calls("calls")); got != "ADD DEL" {
		t.Errorf("plugin was asked %q", got)
	}
}

func TestMissingPlugin(t *testing.T) {
	n := newNode(t)
	n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"nowhere"}]}`)
	for _, err := range []error{n.Ready(), n.Status(t.Context()), func() error { _, err := n.Add(t.Context(), n.pod("p1")); return err }()} {
		wantErr(t, err, `CNI plugin "nowhere" is not in `)
		if !errdefs.IsUnavailable(err) {
			t.Errorf("class of %v", err)
		}
	}
}

// TestConfigurationComesAndGoes without a restart, while the watch runs and with use alone.
func TestConfigurationComesAndGoes(t *testing.T) {
	for _, watched := range []bool{false, true} {
		n := newNode(t, func(o *network.Options) { must(t, os.RemoveAll(o.ConfDir)) })
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		if watched {
			go func() { ended <- n.Run(ctx) }()
		}
		// With the watch the log tells; without it, asking does.
		see := func(what, line string, times int) {
			t.Helper()
			defer func() {
				if t.Failed() {
					t.Logf("watched %v, log:\n%s", watched, n.log)
				}
			}()
			await.Until(t, 10*time.Second, what, func() bool {
				if !watched {
					_ = n.Ready()
				}
				return n.logged(line) == times
			})
		}
		see("no directory", "no cni configuration", 1)
		must(t, os.MkdirAll(n.conf, 0o755))
		n.write("10-a.conflist", fakeNet("a", "1.0.0"))
		see("file moved in", "network=a ", 1)
		must(t, os.WriteFile(n.conf+"/10-a.conflist", []byte(fakeNet("rewritten", "1.0.0")), 0o600))
		see("file rewritten", "network=rewritten ", 1)
		must(t, os.RemoveAll(n.conf))
		see("directory removed", "no cni configuration", 2)
		must(t, os.MkdirAll(n.conf, 0o755))
		must(t, os.WriteFile(n.conf+"/20-c.conf", []byte(`{"cniVersion":"1.0.0","name":"c","type":"`+fakePlugin+`"}`), 0o600))
		see("directory back", "network=c ", 1)
		n.write("10-b.conflist", fakeNet("b", "1.0.0"))
		see("earlier name", "network=b ", 1)
		cancel()
		if watched {
			must(t, <-ended)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, tc := range []struct{ name, version, more, err string }{
		{"before 1.1", "1.0.0", `,"fail":"STATUS"`, ""},
		{"fine", "1.1.0", ``, ""},
		{"failing", "1.1.0", `,"fail":"STATUS","code":50`, "STATUS: refused"},
		{"hanging", "1.1.0", `,"hang":"STATUS"`, "no answer to STATUS for"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			n.write("10-net.conflist", `{"cniVersion":"`+tc.version+`","name":"net","plugins":[`+n.fake(tc.more)+`]}`)
			if !strings.Contains(tc.err, "no answer") { // the fake plugin is slow to start when built with -race
				await.Until(t, 10*time.Second, "first answer", func() bool {
					err := n.Status(t.Context())
					return err == nil || !strings.Contains(err.Error(), "no answer")
				})
			}
			start := time.Now()
			for range 3 {
				err := n.Status(t.Context())
				if tc.err == "" {
					must(t, err)
				} else {
					wantErr(t, err, tc.err)
					if !errdefs.IsUnavailable(err) {
						t.Errorf("class of %v", err)
					}
				}
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
			if got := len(n.calls("calls")); got > 1 {
				t.Errorf("asked %d times", got)
			}
			n.write("10-net.conflist", fakeNet("other", "1.1.0"))
			await.Until(t, 10*time.Second, "a new configuration is asked anew, the hanging one forgotten", func() bool { return n.Status(t.Context()) == nil })
		})
	}
}

func TestGC(t *testing.T) {
	n := newNode(t)
	n.write("10-net.conflist", `{"cniVersion":"1.1.0","name":"net","plugins":[`+n.fake("")+`]}`)
	for _, id := range []string{"stays", "goes", "torn"} {
		_, err := n.Add(t.Context(), n.pod(id))
		must(t, err)
	}
	must(t, os.WriteFile(n.cache+"/attachments/torn.json", nil, 0o600))
	must(t, n.GC(t.Context(), nil)) // all of them are of this life
	if got := commands(n.calls("calls")); got != "ADD ADD ADD GC" {
		t.Fatalf("calls %s", got)
	}
	n.restart()
	_, err := n.Add(t.Context(), n.pod("young"))
	must(t, err)
	must(t, n.GC(t.Context(), []network.Attachment{{PodID: "stays"}}))
	calls := n.calls("calls")
	if got := commands(calls[4:]); got != "ADD DEL DEL GC" {
		t.Fatalf("calls %s", got)
	}
	if calls[5].ContainerID != "goes" || calls[6].ContainerID != "torn" {
		t.Errorf("deleted %s, %s", calls[5].ContainerID, calls[6].ContainerID)
	}
	valid := toJSON(t, calls[7].Conf["cni.dev/valid-attachments"])
	for id, want := range map[string]bool{"stays": true, "young": true, "goes": false, "torn": false} {
		if strings.Contains(valid, `"`+id+`"`) != want {
			t.Errorf("valid attachments %s: %s", valid, id)
		}
	}
}

func TestGCNeedsNoPluginSupport(t *testing.T) {
	n := newNode(t)
	n.write("10-net.conflist", `{"cniVersion":"0.4.0","name":"net","plugins":[`+n.fake("")+`]}`)
	_, err := n.Add(t.Context(), n.pod("goes"))
	must(t, err)
	n.restart()
	must(t, n.GC(t.Context(), nil))
	if got := commands(n.calls("calls")); got != "ADD DEL" {
		t.Errorf("calls %s", got)
	}
	n.noLeaks()
}
