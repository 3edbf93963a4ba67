// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostPort is where the machine reaches the pod's port 8080.
const hostPort = 18080

// demo is the pod that is shown.
type demo struct {
	*node.Node
	config       *cri.PodSandboxConfig
	pod, ip, web string
}

// show runs the pod through its life.
func show(ctx context.Context, n *node.Node, keep bool) error {
	empty, err := node.Memory()
	if err != nil {
		return err
	}
	d := &demo{Node: n, config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "demo", Namespace: "default", Uid: "demo"}, Hostname: "demo",
		LogDirectory: filepath.Join(n.Dir, "logs"),
		PortMappings: []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 8080, HostPort: hostPort}},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_POD},
		}},
	}}
	if err := os.MkdirAll(d.config.GetLogDirectory(), 0o755); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"image imported from its folder", d.awaitImage},
		{"RunPodSandbox: network and the pause process", d.runPod},
		{"Create and StartContainer: web", d.startWeb},
		{"page over the pod's address", func(ctx context.Context) (string, error) { return fetch(ctx, d.ip+":8080") }},
		{"page over the host's port", func(ctx context.Context) (string, error) { return fetch(ctx, fmt.Sprintf("127.0.0.1:%d", hostPort)) }},
		{"a neighbour container: the page over localhost", d.runNeighbour},
		{"exec: the pod's processes", d.ps},
		{"exec: orphans, which pause adopts and reaps", d.orphans},
		{"the web server's log", d.log},
	}
	for _, s := range steps {
		if err := step(s.name, func() (string, error) { return s.do(ctx) }); err != nil {
			return err
		}
	}
	if err := memory(empty); err != nil {
		return err
	}
	if keep {
		fmt.Printf("\ncrictl --runtime-endpoint unix://%s ps\ncurl http://127.0.0.1:%d/\nEnter takes everything down.\n", n.Socket, hostPort)
		_, _ = fmt.Scanln()
	}
	return errors.Join(
		step("StopPodSandbox", func() (string, error) {
			_, err := d.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: d.pod})
			return "TERM, the exit, CNI DEL", err
		}),
		step("RemovePodSandbox", func() (string, error) {
			_, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: d.pod})
			return "containers, root filesystems, records", err
		}))
}

// awaitImage waits for the import, which goes on while the daemon serves.
func (d *demo) awaitImage(ctx context.Context) (string, error) {
	for {
		r, err := d.Images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: imageName}})
		if err != nil {
			return "", err
		}
		if i := r.GetImage(); i != nil {
			return fmt.Sprintf("%s, %.1f MB", imageName, float64(i.GetSize())/1e6), nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (d *demo) runPod(ctx context.Context) (string, error) {
	r, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: d.config})
	if err != nil {
		return "", err
	}
	d.pod = r.GetPodSandboxId()
	s, err := d.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: d.pod})
	if err != nil {
		return "", err
	}
	d.ip = s.GetStatus().GetNetwork().GetIp()
	return d.pod[:12] + " has " + d.ip, nil
}

// start creates and starts a container of the demo's image.
func (d *demo) start(ctx context.Context, name string, args ...string) (string, error) {
	c, err := d.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: d.pod, SandboxConfig: d.config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: imageName}, Args: args, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}, ReadonlyRootfs: true,
		}},
	}})
	if err != nil {
		return "", err
	}
	_, err = d.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.GetContainerId()})
	return c.GetContainerId(), err
}

func (d *demo) startWeb(ctx context.Context) (said string, err error) {
	d.web, err = d.start(ctx, "web")
	return d.web[:min(12, len(d.web))], err
}

func fetch(ctx context.Context, address string) (string, error) {
	url := "http://" + address + "/"
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return "", err
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil && time.Now().Before(end) {
			continue // it has only just been started
		}
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		page, err := io.ReadAll(answer.Body)
		return url + ": " + lastLine(string(page)), err
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// runNeighbour runs a container to its end: it shares the pod's network and processes.
func (d *demo) runNeighbour(ctx context.Context) (string, error) {
	id, err := d.start(ctx, "neighbour", "get", "http://localhost:8080/from-next-door")
	if err != nil {
		return "", err
	}
	for {
		s, err := d.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return "", err
		}
		if s.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED {
			text, err := os.ReadFile(filepath.Join(d.config.GetLogDirectory(), "neighbour.log"))
			return fmt.Sprintf("exit code %d, %s", s.GetStatus().GetExitCode(), plain(lastLine(string(text)))), err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// plain takes the time and the stream off a line of a container's log.
func plain(line string) string {
	if f := strings.SplitN(line, " ", 4); len(f) == 4 {
		return f[3]
	}
	return line
}

func (d *demo) exec(ctx context.Context, args ...string) (string, error) {
	r, err := d.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: d.web, Cmd: append([]string{"/web"}, args...), Timeout: 30})
	if err != nil {
		return "", err
	}
	if r.GetExitCode() != 0 {
		return "", fmt.Errorf("exit code %d: %s", r.GetExitCode(), r.GetStderr())
	}
	return strings.TrimSpace(string(r.GetStdout())), nil
}

func (d *demo) ps(ctx context.Context) (string, error) {
	out, err := d.exec(ctx, "ps")
	return "\n" + indent(out), err
}

func indent(text string) string {
	return "             " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n             ")
}

func (d *demo) orphans(ctx context.Context) (string, error) {
	out, err := d.exec(ctx, "orphans", "100")
	if err == nil && !strings.HasSuffix(out, "zombies now: 0") {
		err = fmt.Errorf("pause left zombies: %s", out)
	}
	return "\n" + indent(out), err
}

func (d *demo) log(context.Context) (string, error) {
	text, err := os.ReadFile(filepath.Join(d.config.GetLogDirectory(), "web.log"))
	if err == nil && strings.Count(string(text), "\n") < 4 {
		err = fmt.Errorf("web.log has not four lines: %q", text)
	}
	return "\n" + indent(string(text)), err
}

// memory prints what the runtime spends, and what of it came with the pod.
func memory(empty map[string]int64) error {
	now, err := node.Memory()
	if err != nil {
		return err
	}
	fmt.Println("\n             memory (PSS)    without pods    with this pod")
	var before, after int64
	for _, name := range slices.Sorted(maps.Keys(now)) {
		fmt.Printf("             %-12s %8d KiB %12d KiB\n", name, empty[name]>>10, now[name]>>10)
		before, after = before+empty[name], after+now[name]
	}
	fmt.Printf("             %-12s %8d KiB %12d KiB\n\n", "together", before>>10, after>>10)
	return nil
}
