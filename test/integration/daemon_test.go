// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestConfigurationErrors(t *testing.T) {
	t.Parallel()
	nodetest.Require(t)
	file := filepath.Join(t.TempDir(), "config.toml")
	for _, c := range []struct {
		name, text string
		mention    []string
	}{
		{"unknown key", "listen = \"/tmp/x.sock\"\n[cni]\nconf_dri = \"/x\"\n", []string{"conf_dri", "unknown key"}},
		{"unknown table", "[cny]\nconf_dir = \"/x\"\n", []string{"cny"}},
		{"wrong type", "[image]\nmax_downloads = \"three\"\n", []string{"line 2", "image.max_downloads"}},
		{"no TOML", "listen = = 3\n", []string{"line 1"}},
		{"no duration", "[image]\nprogress_timeout = \"soon\"\n", []string{"image.progress_timeout", `"soon"`}},
		{"duration without a unit", "[image]\nprogress_timeout = 90\n", []string{"image.progress_timeout", "90ns", "unit"}},
		{"relative root", "root = \"var\"\n", []string{"root", `"var"`}},
		{"root is state", "root = \"/tmp/a\"\nstate = \"/tmp/a/\"\n", []string{"root and state"}},
		{"bad level", "log_level = \"loud\"\n", []string{"loud"}},
		{"bad driver", "[cgroup]\ndriver = \"systemf\"\n", []string{"systemf"}},
		{"bad port", "[stream]\nport = 70000\n", []string{"70000"}},
		{"half of TLS", "[stream]\ncert_file = \"/x\"\n", []string{"key_file"}},
		{"no downloads", "[image]\nmax_downloads = 0\n", []string{"max_downloads"}},
		{"two faults at once", "root = \"var\"\n[stream]\nport = -1\n", []string{"root", "stream.port"}},
		{"unknown default handler", "[runtime]\ndefault = \"kata\"\n", []string{"kata"}},
		{"missing runtime", "[runtime.handlers.kata]\n", []string{"kata"}},
		{"long socket", "listen = \"/" + strings.Repeat("x", 120) + "\"\n", []string{"107"}},
		{"relative CDI directory", "[cdi]\nspec_dirs = [\"cdi\"]\n", []string{"cdi.spec_dirs"}},
		{"steering annotation", "[runtime.handlers.runc]\npod_annotations = [\"org.systemd.property.*\"]\n", []string{"runtime.handlers.runc", "org.systemd.property."}},
		{"no annotation pattern", "[runtime.handlers.runc]\ncontainer_annotations = [\"[\"]\n", []string{"runtime.handlers.runc", "not a pattern"}},
		{"validator switched off", "[nri.default_validator]\nrequired_plugins = [\"x\"]\n", []string{"nri.default_validator", "enable"}},
		{"no time for plugins", "[nri]\nplugin_request_timeout = \"0s\"\n", []string{"nri.plugin_request_timeout", "shorter"}},
		{"no idle time", "[stream]\nidle_timeout = \"-1s\"\n", []string{"stream.idle_timeout", "-1s is shorter"}},
		{"long bridge", "[cni]\nbridge = \"" + strings.Repeat("b", 16) + "\"\n", []string{"bridge"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			head := ""
			if !strings.Contains(c.text, "root =") && !strings.Contains(c.text, "cny") {
				dir := t.TempDir()
				head = "root = \"" + filepath.Join(dir, "root") + "\"\nstate = \"" + filepath.Join(dir, "state") + "\"\n"
			}
			mustWrite(t, file, head+c.text)
			if head != "" { // lines are counted from the head's end
				c.mention = shiftLine(c.mention)
			}
			out, err := nodetest.Shim(t, "--config", file)
			if err == nil {
				t.Fatalf("the daemon ran: %s", out)
			}
			contains(t, "error", out, c.mention...)
		})
	}
	out, err := nodetest.Shim(t, "--config", filepath.Join(t.TempDir(), "none.toml"))
	if err == nil || !strings.Contains(out, "none.toml") {
		t.Errorf("a missing file that was asked for: %v, %s", err, out)
	}
	if out, err := nodetest.Shim(t, "--roott", "/x"); err == nil || !strings.Contains(out, "roott") {
		t.Errorf("an unknown flag: %v, %s", err, out)
	}
}

func shiftLine(mention []string) []string {
	var out []string
	for _, m := range mention {
		switch m {
		case "line 1":
			m = "line 3"
		case "line 2":
			m = "line 4"
		}
		out = append(out, m)
	}
	return out
}

// What `cri-shim config` prints is a configuration, and it has what files and flags say.
func TestConfigIsAConfiguration(t *testing.T) {
	t.Parallel()
	nodetest.Require(t)
	file := filepath.Join(t.TempDir(), "config.toml")
	mustWrite(t, file, "[image]\nmax_downloads = 7\n[runtime.handlers.second]\npath = \"/opt/second\"\n")
	out, err := nodetest.Shim(t, "--config", file, "--root", "/tmp/elsewhere", "config")
	if err != nil {
		t.Fatal(err, out)
	}
	contains(t, "config", out, "max_downloads = 7", "/tmp/elsewhere", "/opt/second", "runtime.handlers.runc")
	mustWrite(t, file, out)
	if again, err := nodetest.Shim(t, "--config", file, "config"); err != nil || again != out {
		t.Errorf("what it prints is no fixed point: %v\n%s", err, again)
	}
}

// A second daemon on the same root says so and ends; the first does not notice.
func TestSecondDaemon(t *testing.T) {
	d := node(t)
	pod, config := quickPod(t, d, "first")
	id := d.Run(t, pod, inHostNet("app", "sleep"), config)
	out, err := nodetest.Shim(t, "--config", d.Config, "--listen", filepath.Join(d.Dir, "second.sock"), "--state", filepath.Join(d.Dir, "second"))
	if err == nil {
		t.Fatalf("the second daemon ran: %s", out)
	}
	contains(t, "error", out, "another cri-shim works on", filepath.Join(d.Dir, "root"))
	if out, err := nodetest.Shim(t, "--config", d.Config, "wipe"); err == nil {
		t.Fatalf("wipe ran beside the daemon: %s", out)
	}
	contains(t, "exec", exec(t, d, id, "echo", "fine"), "fine")
	if s := d.Status(t, id); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status %v", s)
	}
}

// Records that cannot be read are set aside: the node starts, others are
// untouched, names are free again, and nothing of the lost stays in the way.
func TestBrokenRecords(t *testing.T) {
	d := node(t)
	good, goodConfig := quickPod(t, d, "good")
	kept := d.Run(t, good, inHostNet("kept", "sleep"), goodConfig)
	lost := d.Run(t, good, inHostNet("lost", "sleep"), goodConfig)
	badConfig := d.PodConfig("bad")
	r, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: badConfig})
	if err != nil {
		t.Fatal(err)
	}
	bad := r.PodSandboxId
	inBad := d.Run(t, bad, nodetest.ContainerConfig("in-bad", "sleep"), badConfig)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	records := filepath.Join(d.Dir, "root", "records")
	mustWrite(t, filepath.Join(records, "containers", lost+".json"), "")
	truncate(t, filepath.Join(records, "pods", bad+".json"))
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"containers/" + lost, "pods/" + bad} {
		found, _ := filepath.Glob(filepath.Join(records, file+"*"))
		if len(found) != 1 || strings.HasSuffix(found[0], ".json") {
			t.Errorf("the broken record was not set aside: %v", found)
		}
	}
	contains(t, "log", d.Log(), lost, bad)
	contains(t, "exec", exec(t, d, kept, "echo", "fine"), "fine")
	_, err = d.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: lost})
	code(t, err, codes.NotFound, lost)
	d.Run(t, good, inHostNet("lost", "sleep"), goodConfig) // same name, same attempt
	d.Run(t, d.Pod(t, badConfig), nodetest.ContainerConfig("in-bad", "sleep"), badConfig)
	remove(t, d, inBad) // if it is still known at all
	for _, id := range []string{lost, bad, inBad} {
		if left := d.Remains(); strings.Contains(fmt.Sprint(left), id) {
			t.Errorf("%s left something: %v", id, left)
		}
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(data) {
		t.Fatalf("%s is no JSON to begin with", path)
	}
	mustWrite(t, path, string(data[:len(data)/2]))
}
