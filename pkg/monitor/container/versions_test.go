// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestReadsEarlierVersions starts on what a monitor of an earlier version left when it
// was killed; testdata has a folder for each version that wrote something else than
// the one before. Of its containers one had ended and was not published yet, with an
// unfinished line; one had been read and the batch not logged; of none is a process
// left.
func TestReadsEarlierVersions(t *testing.T) {
	versions, err := filepath.Glob("testdata/*/exits.log")
	if err != nil || len(versions) == 0 {
		t.Fatalf("no versions: %v", err)
	}
	for _, log := range versions {
		from := filepath.Dir(log)
		t.Run(filepath.Base(from), func(t *testing.T) {
			n := monitornode.StartOn(t, func(n *monitornode.Node) { lay(t, n, from) })
			want := map[string]monitor.Exit{
				"fast": {Code: 7, Pid: 5167}, "killed": {Code: 137, Signal: 9, OOM: true, Pid: 5169}, // from the exit log
				"ended":  {Code: 40, Pid: 4194303}, // from its own file
				"reader": {Code: 255, Unknown: true, Pid: 4194303}, "c": {Code: 255, Unknown: true, Pid: 4194303},
			}
			for range len(want) {
				e := n.Next()
				w, ok := want[e.ID]
				if !ok || e.Code != w.Code || e.Signal != w.Signal || e.OOM != w.OOM || e.Unknown != w.Unknown || e.Pid != w.Pid || e.Time.IsZero() {
					t.Errorf("exit %+v", e)
				}
				if e.ID == "fast" && e.Seq != 2 || e.ID == "killed" && e.Seq != 4 || w.Pid == 4194303 && e.Seq < 5 {
					t.Errorf("number of %+v", e)
				}
				delete(want, e.ID)
			}
			if got := monitornode.ReadLog(t, n.LogPath("ended")); len(got) != 1 || got[0].Tag != "P" || got[0].Text != "unfinished" {
				t.Errorf("unfinished line: %+v", got)
			}
			if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"); got != "read by the one before\nand begun" {
				t.Errorf("batch of the journal: %q", got)
			}
		})
	}
}

// lay copies a version's files to where the monitor looks.
func lay(t *testing.T, n *monitornode.Node, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(n.Dir, "m", strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".json" {
			b = []byte(strings.ReplaceAll(string(b), "LOGS", n.Dir))
		}
		return os.WriteFile(to, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"reader", "ended", "c"} {
		for _, pipe := range []string{"stdin", "stdout", "stderr"} {
			if err := sys.MakeFIFO(filepath.Join(n.Dir, "m", id, pipe), os.Geteuid(), os.Getegid()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
