// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestReadFacts(t *testing.T) {
	f, err := sys.ReadFacts()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", f)
	if f.CPUs < 1 || f.OOMScoreAdjMin < -1000 || f.OOMScoreAdjMin > 1000 || len(f.RlimitMax) == 0 {
		t.Errorf("facts %+v", f)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); (err == nil) != f.CgroupV2 {
		t.Errorf("cgroup v2 %v, but its file: %v", f.CgroupV2, err)
	}
	for _, size := range f.HugepageSizes {
		if !strings.HasSuffix(size, "B") {
			t.Errorf("page size %s", size)
		}
	}
}

func TestBoundingSet(t *testing.T) {
	bounding, err := sys.BoundingSet()
	if err != nil {
		t.Fatal(err)
	}
	effective, err := sys.EffectiveSet()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range slices.Concat(bounding, effective) {
		if !slices.Contains(sys.CapabilityNames(), c) {
			t.Errorf("unknown capability %s", c)
		}
	}
	if os.Geteuid() == 0 && !slices.Contains(effective, "CAP_CHOWN") {
		t.Errorf("root without CAP_CHOWN: %v", effective)
	}
	names := sys.CapabilityNames()
	if names[0] != "CAP_CHOWN" || names[21] != "CAP_SYS_ADMIN" || names[40] != "CAP_CHECKPOINT_RESTORE" || len(names) != 41 {
		t.Errorf("numbers of the capabilities are off: %v", names)
	}
}

func TestHugepageName(t *testing.T) {
	for bytes, want := range map[uint64]string{64 << 10: "64KB", 2 << 20: "2MB", 32 << 20: "32MB", 1 << 30: "1GB", 16 << 30: "16GB"} {
		if got := sys.HugepageName(bytes); got != want {
			t.Errorf("%d is %s, want %s", bytes, got, want)
		}
	}
}

func TestDevices(t *testing.T) {
	null, err := sys.Devices("/dev/null")
	if err != nil || len(null) != 1 || null[0].Type != "c" || null[0].Major != 1 || null[0].Minor != 3 || null[0].Mode&0o600 != 0o600 {
		t.Errorf("got %+v, %v", null, err)
	}
	link := filepath.Join(t.TempDir(), "zero")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	if d, err := sys.Devices(link); err != nil || d[0].Minor != 5 || d[0].Path != link {
		t.Errorf("through a link: %+v, %v", d, err)
	}
	all, err := sys.Devices("/dev")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(d sys.Device) bool { return d.Path == "/dev/null" }) {
		t.Errorf("no /dev/null among %d devices", len(all))
	}
	for _, d := range all {
		if strings.HasPrefix(d.Path, "/dev/pts/") || d.Path == "/dev/console" {
			t.Errorf("%s belongs to the host alone", d.Path)
		}
	}
	if _, err := sys.Devices("/dev/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := sys.Devices("/proc/self/status"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a file: %v", err)
	}
	if none, err := sys.Devices(t.TempDir()); err != nil || len(none) != 0 {
		t.Errorf("empty directory: %v, %v", none, err)
	}
}

func TestSignalNumber(t *testing.T) {
	for name, want := range map[string]int{
		"SIGTERM": 15, "term": 15, " 9 ": 9, "SIGRTMIN": 34, "RTMIN+1": 35, "sigrtmax": 64, "SIGRTMAX-14": 50, "CLD": 17, "SIGPOLL": 29,
		"": 0, "0": 0, "65": 0, "-1": 0, "SIGNOPE": 0, "RTMIN+31": 0, "RTMAX-31": 0, "RTMIN+": 0, "RTMIN+-1": 0,
	} {
		got, ok := sys.SignalNumber(name)
		if ok != (want != 0) || ok && got != want {
			t.Errorf("%q: %d %v, want %d", name, got, ok, want)
		}
	}
}
