// SPDX-License-Identifier: Apache-2.0

//go:build integration

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/kubelet"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

const (
	nodeName = "cri-e2e"
	api      = "https://127.0.0.1:10250"
)

// process is a real kubelet without an API server: its pods are manifests in a folder.
type process struct {
	dir, manifests string
	cgroup         *kubelet.Cgroup
	gates          map[string]bool
	log            *os.File
	cmd            *exec.Cmd
	ended          chan struct{}
	http           *http.Client
}

// newCgroup names a cgroup and removes it at the end of the test: call it before the runtime starts, so that the
// runtime, whose pods are in it, has ended by then.
func newCgroup(t *testing.T) *kubelet.Cgroup {
	c := &kubelet.Cgroup{Name: fmt.Sprintf("/crie2e%d", os.Getpid())}
	t.Cleanup(func() {
		if err := c.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func kubeletProgram(t *testing.T) string { return filepath.Join(nodetest.Root(t), ".cache", "kubelet") }

// startKubelet runs a kubelet on d for the length of the test, with feature
// gates besides those that are on by default.
func startKubelet(t *testing.T, d *nodetest.Node, c *kubelet.Cgroup, gates ...string) *process {
	t.Helper()
	k := &process{
		cgroup: c, gates: map[string]bool{}, dir: filepath.Join(d.Dir, "kubelet"), manifests: filepath.Join(d.Dir, "manifests"), ended: make(chan struct{}),
		http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}},
	}
	for _, dir := range []string{k.dir, k.manifests} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, gate := range gates {
		k.gates[gate] = true
	}
	if err := c.Make(t.Context(), d.Runtime); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("kubelet log:\n%s", k.tail(t))
		}
	})
	if err := k.start(t, d); err != nil {
		t.Fatal(err)
	}
	k.await(t, patience, "kubelet serves", func([]pod) bool { return true })
	return k
}

func (k *process) start(t *testing.T, d *nodetest.Node) (err error) {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"staticPodPath": k.manifests, "fileCheckFrequency": "1s", "syncFrequency": "2s",
		"containerRuntimeEndpoint": "unix://" + d.Socket, "address": "127.0.0.1",
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":  map[string]any{"mode": "AlwaysAllow"},
		"cgroupRoot":     k.cgroup.Name, "failCgroupV1": false, "failSwapOn": false, // the driver is the runtime's to say
		"enforceNodeAllocatable": []string{}, "evictionHard": map[string]string{}, "imageGCHighThresholdPercent": 100,
		"makeIPTablesUtilChains": false, "podLogsDir": filepath.Join(k.dir, "pods-logs"),
		"volumePluginDir": filepath.Join(k.dir, "volume-plugins"), "resolvConf": "",
		"featureGates": k.gates,
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	file := filepath.Join(k.dir, "config.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	if k.log, err = os.Create(filepath.Join(k.dir, "kubelet.log")); err != nil {
		return err
	}
	k.cmd = exec.Command(kubeletProgram(t), "--config", file, "--root-dir", filepath.Join(k.dir, "root"),
		"--cert-dir", filepath.Join(k.dir, "pki"), "--hostname-override", nodeName, "--v", "2")
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		return err
	}
	go func() { // ends with the kubelet
		_ = k.cmd.Wait()
		close(k.ended)
	}()
	return nil
}

// stop ends the kubelet; its pods run on. It may be repeated.
func (k *process) stop() error {
	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-k.ended:
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("kubelet does not stop"), k.cmd.Process.Kill())
	}
	return k.log.Close()
}

func (k *process) tail(t *testing.T) []byte {
	data, err := os.ReadFile(k.log.Name())
	if err != nil {
		t.Log(err)
	}
	return data[max(0, len(data)-20000):]
}

// pod is what a test asks of a pod in the kubelet's answer.
type pod struct {
	Metadata struct{ Name, UID string }
	Status   struct {
		Phase, PodIP      string
		Conditions        []struct{ Type, Status string }
		ContainerStatuses []struct {
			Name, ContainerID string
			RestartCount      int
			Ready             bool
			LastState         struct{ Terminated *struct{ ExitCode int } }
		}
	}
}

func (p pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// named finds a static pod by its manifest's name.
func named(pods []pod, name string) (pod, bool) {
	for _, p := range pods {
		if p.Metadata.Name == name+"-"+nodeName {
			return p, true
		}
	}
	return pod{}, false
}

// add writes a pod's manifest.
func (k *process) add(t *testing.T, name string, container map[string]any, init ...map[string]any) {
	t.Helper()
	for _, c := range append(init, container) {
		c["image"], c["imagePullPolicy"] = nodetest.TestImage, "Never"
	}
	data, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "namespace": "default"},
		"spec": map[string]any{"terminationGracePeriodSeconds": 2, "containers": []any{container}, "initContainers": init},
	})
	if err == nil {
		err = os.WriteFile(k.manifest(name), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (k *process) manifest(name string) string { return filepath.Join(k.manifests, name+".json") }

func (k *process) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, api+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := k.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %s", path, answer.Status, bytes.TrimSpace(body))
	}
	return body, err
}

// await asks for the pods until ok is content with them.
func (k *process) await(t *testing.T, limit time.Duration, what string, ok func([]pod) bool) {
	t.Helper()
	var last error
	var body []byte
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var list struct{ Items []pod }
		if body, last = k.get(t.Context(), "/pods"); last == nil {
			last = json.Unmarshal(body, &list)
		}
		if last == nil && ok(list.Items) {
			return
		}
		select {
		case <-k.ended:
			t.Fatalf("%s: the kubelet has ended", what)
		default:
		}
	}
	t.Fatalf("not within %s: %s (%v)\n%s", limit, what, last, body)
}
