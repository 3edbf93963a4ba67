// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/state"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func open(t *testing.T, dir, boot string) (*state.Store, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	s, err := state.Open(state.Layout{Root: dir, State: dir + "/run"}, boot, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s, &log
}

func pod(name string) state.Pod {
	return state.Pod{ID: state.PodID(state.NewID()), CreatedAt: time.Now(), IPs: []string{"10.0.0.1"}, Config: &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "uid"},
		Annotations: map[string]string{"a": "ünï\n\"code\""},
	}}
}

func containerOf(p state.Pod, name string) state.Container {
	return state.Container{
		ID: state.ContainerID(state.NewID()), Pod: p.ID, CreatedAt: time.Now(),
		Config:    &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: name}},
		User:      &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: 7}},
		Resources: &cri.ContainerResources{Linux: &cri.LinuxContainerResources{CpuShares: 9}},
		Mounts:    []*cri.Mount{{ContainerPath: "/a", HostPath: "/b"}},
	}
}

func begin(t *testing.T, s *state.Store, p state.Pod) state.Pod {
	t.Helper()
	p, began, err := s.BeginPod(p)
	if err != nil || !began {
		t.Fatalf("begin: %v, began %v", err, began)
	}
	return p
}

func TestRecordsSurviveAReopen(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, "boot-1")
	p := begin(t, s, pod("web"))
	p, err := s.MovePod(p.ID, state.PodUp, func(p *state.Pod) { p.PausePID = 42 })
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := s.BeginContainer(containerOf(p, "app"))
	if err != nil {
		t.Fatal(err)
	}

	again, _ := open(t, dir, "boot-1")
	if again.Rebooted() {
		t.Error("same boot id counts as a reboot")
	}
	gotPod, err := again.Pod(string(p.ID))
	if err != nil || gotPod.Phase != state.PodReady || gotPod.PausePID != 42 || !proto.Equal(gotPod.Config, p.Config) {
		t.Errorf("pod after reopen: %+v, %v", gotPod, err)
	}
	got, err := again.Container(string(c.ID))
	if err != nil || got.Phase != state.Creating || !proto.Equal(got.User, c.User) || !proto.Equal(got.Mounts[0], c.Mounts[0]) ||
		!proto.Equal(got.Resources, c.Resources) {
		t.Errorf("container after reopen: %+v, %v", got, err)
	}
	if later, _ := open(t, dir, "boot-2"); !later.Rebooted() {
		t.Error("another boot id does not count as a reboot")
	}
}

func TestTheSameNameIsTheSamePod(t *testing.T) {
	s, _ := open(t, t.TempDir(), "b")
	first := begin(t, s, pod("web"))
	second, began, err := s.BeginPod(pod("web"))
	if err != nil || began || second.ID != first.ID {
		t.Errorf("second begin: %v %v %v, want the first pod", second.ID, began, err)
	}
	if err := s.DropPod(first.ID); err != nil {
		t.Fatal(err)
	}
	begin(t, s, pod("web"))
	if err := s.DropPod(first.ID); err != nil {
		t.Errorf("second drop: %v", err)
	}
}

func TestFindByPrefix(t *testing.T) {
	s, _ := open(t, t.TempDir(), "b")
	a, b := pod("a"), pod("b")
	a.ID, b.ID = state.PodID("ab1"+strings.Repeat("0", 61)), state.PodID("ab2"+strings.Repeat("0", 61))
	begin(t, s, a)
	begin(t, s, b)
	if got, err := s.Pod("ab1"); err != nil || got.ID != a.ID {
		t.Errorf("unique prefix: %v %v", got.ID, err)
	}
	if _, err := s.Pod("ab"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "ambiguous") {
		t.Errorf("ambiguous prefix: %v", err)
	}
	if _, err := s.Pod("ac"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown prefix: %v", err)
	}
	if _, err := s.Pod(""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("empty id: %v", err)
	}
}

// A record cut at any byte is set aside, named in the log, and costs only
// itself.
// TestListIsInOrderOfCreation holds lists against a model while pods come in any order, change and go, and the clock is
// set back between two lives of the store.
func TestListIsInOrderOfCreation(t *testing.T) {
	dir, random := t.TempDir(), rand.New(rand.NewPCG(1, 2))
	s, _ := open(t, dir, "boot")
	want := map[state.PodID]state.Pod{}
	check := func(when string) {
		t.Helper()
		model := slices.SortedFunc(maps.Values(want), func(a, b state.Pod) int {
			return cmp.Or(a.CreatedAt.Round(0).Compare(b.CreatedAt.Round(0)), strings.Compare(string(a.ID), string(b.ID)))
		})
		got := slices.Collect(s.Pods())
		if !slices.EqualFunc(model, got, func(a, b state.Pod) bool { return a.ID == b.ID && a.PausePID == b.PausePID }) {
			t.Fatalf("%s: %d pods, want %d in order of creation", when, len(got), len(model))
		}
		if n, _ := s.Count(); n != len(model) {
			t.Fatalf("%s: count is %d, want %d", when, n, len(model))
		}
	}
	for i := range 60 {
		p := pod(fmt.Sprint("p", i))
		p.CreatedAt = time.Now().Add(time.Duration(random.IntN(7200)-3600) * time.Second)
		want[p.ID] = begin(t, s, p)
		if i == 30 {
			s, _ = open(t, dir, "boot") // from here on some times were read from files, and some have a monotonic part
		}
		old := slices.Sorted(maps.Keys(want))[random.IntN(len(want))]
		changed, err := s.UpdatePod(old, func(p *state.Pod) { p.PausePID = i })
		if err != nil {
			t.Fatal(err)
		}
		want[old] = changed
		if i%3 == 0 {
			if err := s.DropPod(old); err != nil {
				t.Fatal(err)
			}
			delete(want, old)
		}
		check(fmt.Sprint("step ", i))
	}
	before := s.Pods()
	for id := range want {
		if err := s.DropPod(id); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(slices.Collect(before)); n != len(want) {
		t.Errorf("a list of before has %d pods, want %d", n, len(want))
	}
}

func TestTruncatedRecord(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, "b")
	hurt, sound := begin(t, s, pod("hurt")), begin(t, s, pod("sound"))
	path := filepath.Join(dir, "records/pods", string(hurt.ID)+".json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		again, log := open(t, dir, "b")
		if _, err := again.Pod(string(hurt.ID)); !errdefs.IsNotFound(err) {
			t.Fatalf("cut at %d: still there: %v", n, err)
		}
		if _, err := again.Pod(string(sound.ID)); err != nil {
			t.Fatalf("cut at %d: the other pod is lost: %v", n, err)
		}
		if !strings.Contains(log.String(), string(hurt.ID)) {
			t.Fatalf("cut at %d: not named in the log: %s", n, log)
		}
		if _, err := os.Stat(path + ".bad"); err != nil {
			t.Fatalf("cut at %d: not set aside: %v", n, err)
		}
	}
}

func TestHostileRecords(t *testing.T) {
	good := pod("x")
	for name, content := range map[string]string{
		"newer version": `{"version":99,"pod":{"id":"` + string(good.ID) + `"},"config":{"metadata":{"name":"x"}}}`,
		"other id":      `{"version":1,"pod":{"id":"` + state.NewID() + `"},"config":{"metadata":{"name":"x"}}}`,
		"path as id":    `{"version":1,"pod":{"id":"../../etc"},"config":{"metadata":{"name":"x"}}}`,
		"no metadata":   `{"version":1,"pod":{"id":"` + string(good.ID) + `"},"config":{}}`,
		"not json":      "\x00\x01",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "records/pods", string(good.ID)+".json")
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
			s, _ := open(t, dir, "b")
			if n, _ := s.Count(); n != 0 {
				t.Errorf("%d pods loaded", n)
			}
			if aside, err := os.ReadFile(path + ".bad"); err != nil || string(aside) != content {
				t.Errorf("not set aside: %q, %v", aside, err)
			}
		})
	}
}

// When the disk refuses a record, memory must not run ahead of it.
func TestMoveThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, "b")
	p := begin(t, s, pod("web"))
	if err := os.RemoveAll(filepath.Join(dir, "records/pods")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MovePod(p.ID, state.PodUp, nil); err == nil || !strings.Contains(err.Error(), string(p.ID)) {
		t.Errorf("move without a directory: %v, want an error naming the pod", err)
	}
	if got, _ := s.Pod(string(p.ID)); got.Phase != state.PodCreating {
		t.Errorf("phase is %s after a failed move", got.Phase)
	}
}

// A disk that refuses a record is found out, and so is one that takes them again.
func TestWritable(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, "b")
	p := begin(t, s, pod("web"))
	records := filepath.Join(dir, "records")
	if err := os.Rename(records, records+".away"); err != nil {
		t.Fatal(err)
	}
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("before anything was written: %v", err)
	}
	if _, err := s.MovePod(p.ID, state.PodUp, nil); err == nil {
		t.Error("moved without a directory")
	}
	for range 2 {
		if err := s.Writable(t.Context()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after a record was refused: %v", err)
		}
	}
	if err := os.Rename(records+".away", records); err != nil {
		t.Fatal(err)
	}
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("once it can be written: %v", err)
	}
}

func TestUpdateCannotMove(t *testing.T) {
	s, _ := open(t, t.TempDir(), "b")
	p := begin(t, s, pod("web"))
	got, err := s.UpdatePod(p.ID, func(p *state.Pod) { p.Phase, p.Reason = state.PodReady, "x" })
	if err != nil || got.Phase != state.PodCreating || got.Reason != "x" {
		t.Errorf("update: %+v %v", got, err)
	}
}

func TestFeedIsInOrderAndWhole(t *testing.T) {
	s, _ := open(t, t.TempDir(), "b")
	f := s.Watch()
	defer f.Close()
	p := begin(t, s, pod("web"))
	c, _, err := s.BeginContainer(containerOf(p, "app"))
	if err != nil {
		t.Fatal(err)
	}
	moves := []func() error{
		func() error { _, err := s.MovePod(p.ID, state.PodUp, nil); return err },
		func() error { _, err := s.MoveContainer(c.ID, state.Prepared, nil); return err },
		func() error { _, err := s.MoveContainer(c.ID, state.Launch, nil); return err },
		func() error { _, err := s.MoveContainer(c.ID, state.Run, nil); return err },
		func() error { _, err := s.MoveContainer(c.ID, state.Exit, nil); return err },
		func() error { return s.DropContainer(c.ID) },
		func() error { _, err := s.MovePod(p.ID, state.PodDown, nil); return err },
		func() error { return s.DropPod(p.ID) },
	}
	for i, move := range moves {
		if err := move(); err != nil {
			t.Fatalf("move %d: %v", i, err)
		}
	}
	want := []struct {
		kind state.ChangeKind
		id   string
	}{
		{state.ChangeCreated, string(p.ID)},
		{state.ChangeStarted, string(p.ID)},
		{state.ChangeCreated, string(c.ID)},
		{state.ChangeStarted, string(c.ID)},
		{state.ChangeStopped, string(c.ID)},
		{state.ChangeDeleted, string(c.ID)},
		{state.ChangeStopped, string(p.ID)},
		{state.ChangeDeleted, string(p.ID)},
	}
	for i, w := range want {
		got, err := f.Next(t.Context())
		if err != nil || got.Kind != w.kind || got.ID != w.id || got.Pod.ID != p.ID {
			t.Fatalf("change %d: %+v %v, want %v of pod %s", i, got, err, w, p.ID)
		}
	}
}

func TestSlowReaderIsToldOfTheGap(t *testing.T) {
	s, _ := open(t, t.TempDir(), "b")
	f := s.Watch()
	defer f.Close()
	p := begin(t, s, pod("web"))
	state.Flood(s, p, state.FeedLimit+10)
	for range state.FeedLimit {
		if _, err := f.Next(t.Context()); err != nil {
			t.Fatalf("a change before the gap: %v", err)
		}
	}
	if _, err := f.Next(t.Context()); !errdefs.IsResourceExhausted(err) {
		t.Errorf("at the gap: %v, want ResourceExhausted", err)
	}
}

func TestConcurrentMovesAgree(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, "b")
	p := begin(t, s, pod("web"))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.UpdatePod(p.ID, func(p *state.Pod) { p.IPs = append(slices.Clip(p.IPs), "x") }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again, _ := open(t, dir, "b")
	got, err := again.Pod(string(p.ID))
	if err != nil || len(got.IPs) != 21 {
		t.Errorf("%d addresses on disk, want 21: an update was lost (%v)", len(got.IPs), err)
	}
}

// A container is launched in a ready pod only, and the pod's phase cannot change
// between the look and the launch: whoever takes the pod down sees every launch
// that was not refused.
func TestNoLaunchIntoAPodThatIsDown(t *testing.T) {
	s, _ := open(t, t.TempDir(), "b")
	created := func(p state.Pod, name string) state.ContainerID {
		t.Helper()
		c, _, err := s.BeginContainer(containerOf(p, name))
		if err == nil {
			_, err = s.MoveContainer(c.ID, state.Prepared, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c.ID
	}
	up := func(name string) state.Pod {
		t.Helper()
		p, err := s.MovePod(begin(t, s, pod(name)).ID, state.PodUp, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, e := range []state.PodEvent{state.PodDown, state.PodRemove} {
		p := up(string(e))
		c := created(p, "app")
		if _, err := s.MovePod(p.ID, e, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.MoveContainer(c, state.Launch, nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), string(p.ID)) {
			t.Errorf("launch after %s: %v, want a failed precondition that names the pod", e, err)
		}
	}
	for i := range 300 {
		p := up(fmt.Sprint("race-", i))
		c := created(p, "app")
		launched := make(chan error, 1)
		go func() { _, err := s.MoveContainer(c, state.Launch, nil); launched <- err }()
		if _, err := s.MovePod(p.ID, state.PodDown, nil); err != nil {
			t.Fatal(err)
		}
		seen := s.ContainersOf(p.ID)[0].Phase
		if err := <-launched; err == nil && seen != state.Starting {
			t.Fatalf("round %d: launched, and whoever took the pod down saw a container that is %s", i, seen)
		}
	}
}

// The containers of a pod are those, oldest first, whatever comes, changes and
// goes, and for a store that was read from disk.
func TestContainersOf(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, "b")
	pods := []state.Pod{begin(t, s, pod("a")), begin(t, s, pod("b")), begin(t, s, pod("c"))}
	var all []state.Container
	check := func(s *state.Store) {
		t.Helper()
		for _, p := range pods {
			var want, got []state.ContainerID
			for c := range s.Containers() {
				if c.Pod == p.ID {
					want = append(want, c.ID)
				}
			}
			for _, c := range s.ContainersOf(p.ID) {
				got = append(got, c.ID)
				if now, err := s.Container(string(c.ID)); err != nil || now.Phase != c.Phase {
					t.Errorf("container %s is %s in its pod, and %s, %v", c.ID, c.Phase, now.Phase, err)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("pod %s has %v, want %v", p.ID, got, want)
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		switch n := random.IntN(4); {
		case n < 2 || len(all) == 0:
			c := containerOf(pods[random.IntN(len(pods))], fmt.Sprint(i))
			c.CreatedAt = time.Now().Add(-time.Duration(random.IntN(1000)) * time.Second)
			c, _, err := s.BeginContainer(c)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		case n == 2:
			c := all[random.IntN(len(all))]
			if _, err := s.MoveContainer(c.ID, state.Remove, nil); err != nil {
				t.Fatal(err)
			}
		default:
			at := random.IntN(len(all))
			if err := s.DropContainer(all[at].ID); err != nil {
				t.Fatal(err)
			}
			all = slices.Delete(all, at, at+1)
		}
		check(s)
	}
	again, _ := open(t, dir, "b")
	check(again)
}

// What a pod's containers cost to find does not grow with the node.
func TestContainersOfCostNothingToNeighbours(t *testing.T) {
	cost := func(neighbours int) time.Duration {
		s, _ := open(t, t.TempDir(), "b")
		mine := pod("mine")
		state.Hold(s, containerOf(mine, "mine"))
		for range neighbours {
			state.Hold(s, containerOf(pod("other"), "other"))
		}
		best := time.Hour
		for range 50 {
			began := time.Now()
			for range 20 {
				if len(s.ContainersOf(mine.ID)) != 1 {
					t.Fatal("the container is not found")
				}
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	if few, many := cost(20), cost(4000); many > 20*few {
		t.Errorf("%v beside 4000 other containers, %v beside 20", many, few)
	}
}
