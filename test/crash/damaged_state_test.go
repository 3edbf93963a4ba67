// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDamagedRecords damages the records of one pod, and of one container,
// while the daemon is away: it starts, says what it set aside, serves the rest,
// and what the lost records stood for is cleaned up as an orphan.
func TestDamagedRecords(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty":          func(path string) error { return os.Truncate(path, 0) },
		"one byte":       func(path string) error { return os.Truncate(path, 1) },
		"half":           func(path string) error { return truncate(path, 2) },
		"last byte lost": func(path string) error { return truncate(path, 1) },
		"noise":          func(path string) error { return os.WriteFile(path, []byte("\x00\xff{]"), 0o600) },
		"wrong version": func(path string) error {
			return edit(path, `"version":1`, `"version":999`)
		},
		"a directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t)
			by := newBystander(t, d)
			clean := d.Look(t)
			lost, kept := started(t, d), started(t, d)
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
			records := d.Layout().Records()
			pod, container := filepath.Join(records, "pods", lost.pod+".json"), filepath.Join(records, "containers", kept.id+".json")
			if err := errors.Join(damage(pod), damage(container)); err != nil {
				t.Fatal(err)
			}
			if err := d.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			by.check(t)
			for _, path := range []string{pod, container} {
				if !strings.Contains(d.Log(), path+".bad") {
					t.Errorf("the log does not say that %s was set aside", path)
				}
				if err := os.RemoveAll(path + ".bad"); err != nil {
					t.Error(err)
				}
			}
			r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: kept.pod})
			if err != nil || r.Status.State != cri.PodSandboxState_SANDBOX_READY {
				t.Errorf("the pod whose container's record is lost: %v, %v", r, err)
			}
			// The kubelet removes the container that it sees and the pod that it
			// knows; of the rest it knows nothing.
			if err := errors.Join(lost.remove(), lost.stopPod(), lost.removePod()); err != nil {
				t.Error(err)
			}
			kept.clear(clean)
		})
	}
}

// TestOrphanWhoseNetworkFails loses a pod's record while its plugin cannot
// detach it: nobody knows of the pod, so the daemon tries again by itself.
func TestOrphanWhoseNetworkFails(t *testing.T) {
	d := prepared(t, func(d *nodetest.Node) { slowNetwork(t, d) })
	by := newBystander(t, d)
	clean := d.Look(t)
	lost := newSubject(t, d)
	lost.must(lost.run)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(d.Layout().Records(), "pods", lost.pod+".json")
	if err := os.Truncate(record, 0); err != nil {
		t.Fatal(err)
	}
	hold(t, filepath.Join(d.Dir, "fail-DEL"))
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 10*time.Second, "the failure is told", func() bool { return strings.Contains(d.Log(), "cannot detach") })
	letGo(filepath.Join(d.Dir, "fail-DEL"))
	letGo(record + ".bad")
	by.check(t)
	d.AwaitSame(t, clean, "after the plugin works again")
}

func truncate(path string, part int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if part == 1 {
		return os.Truncate(path, info.Size()-2) // the closing brace and the end of line
	}
	return os.Truncate(path, info.Size()/part)
}

func edit(path, old, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := strings.Replace(strings.ReplaceAll(string(data), `": `, `":`), old, text, 1)
	if !strings.Contains(changed, text) {
		return fmt.Errorf("%s has no %s: %s", path, old, data)
	}
	return os.WriteFile(path, []byte(changed), 0o600)
}

// TestWrongPermissions takes every permission off records and directories.
// Root reads them all the same; the daemon must not be the one that minds.
func TestWrongPermissions(t *testing.T) {
	d := start(t)
	by := newBystander(t, d)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	filepath.Walk(d.Layout().Records(), func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Chmod(path, 0))
	})
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	by.check(t)
}

// TestDamagedImageStore damages the image store's database.
func TestDamagedImageStore(t *testing.T) {
	for _, file := range []string{"metadata.db", "layers/metadata.db"} {
		t.Run(strings.ReplaceAll(file, "/", " "), func(t *testing.T) {
			d := start(t)
			by := newBystander(t, d)
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.Layout().Images(), file)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			noise := []byte(strings.Repeat("\xde\xad", 1<<14))
			_, err = f.WriteAt(noise, 0)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if err := d.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(d.Log(), "image store is damaged") {
				t.Error("the log does not say so")
			}
			by.check(t)                         // runs on the layers that were set aside
			d.AwaitImage(t, nodetest.TestImage) // is preloaded anew
			w := started(t, d)
			w.removeAll()
		})
	}
}
