// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/sandbox"
	"github.com/cri-shim/cri-shim/pkg/stream"
)

// faults collects what is wrong with a request.
type faults []string

// unless notes a fault that is there unless ok.
func (f *faults) unless(ok bool, format string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Sprintf(format, args...))
	}
}

// err names all faults, as ErrInvalidArgument; nil when there are none.
func (f faults) err(doing string) error {
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", doing, strings.Join(f, "; "), errdefs.ErrInvalidArgument)
}

// unmet notes a fault that another package found.
func (f *faults) unmet(err error) {
	if err != nil {
		*f = append(*f, err.Error())
	}
}

func newPod(r *cri.RunPodSandboxRequest, host oci.Host) (sandbox.NewPod, error) {
	var f faults
	f.pod(r.GetConfig(), host)
	return sandbox.NewPod{Config: r.GetConfig(), Handler: r.GetRuntimeHandler()}, f.err("run pod sandbox")
}

// pod checks what does not end up in specs. Namespace and uid may be left out,
// as in the small configurations that people write by hand.
func (f *faults) pod(c *cri.PodSandboxConfig, host oci.Host) {
	if c.GetMetadata() == nil {
		f.unless(c != nil, "config is required")
		f.unless(c == nil, "config.metadata is required")
		return
	}
	f.required("config.metadata.name", c.GetMetadata().GetName())
	f.name("config.metadata.name", c.GetMetadata().GetName())
	f.name("config.metadata.namespace", c.GetMetadata().GetNamespace())
	f.name("config.metadata.uid", c.GetMetadata().GetUid())
	f.logDirectory("config.log_directory", c.GetLogDirectory())
	for i, p := range c.GetPortMappings() {
		f.port(fmt.Sprintf("config.port_mappings[%d]", i), p)
	}
	f.dns(c.GetDnsConfig())
	f.unmet(oci.ValidatePod(c, host))
}

func (f *faults) logDirectory(field, dir string) {
	f.unless(dir == "" || filepath.IsAbs(dir) && !strings.ContainsRune(dir, 0), "%s %q is not an absolute path", field, dir)
}

// dns refuses what would become a line of its own in resolv.conf.
func (f *faults) dns(c *cri.DNSConfig) {
	for field, list := range map[string][]string{"servers": c.GetServers(), "searches": c.GetSearches(), "options": c.GetOptions()} {
		for _, v := range list {
			f.unless(!strings.ContainsFunc(v, unicode.IsControl), "config.dns_config.%s %q has a control character in it", field, v)
		}
	}
}

// name refuses what can't be a part of environment variables, file names and
// CNI arguments, where a semicolon starts the next argument.
func (f *faults) name(field, name string) {
	bad := strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == '/' || r == ';' })
	f.unless(!bad, "%s %q has a slash, a semicolon or a control character in it", field, name)
}

func (f *faults) port(field string, p *cri.PortMapping) {
	inRange := func(v int32) bool { return v >= 0 && v <= math.MaxUint16 }
	f.unless(inRange(p.GetContainerPort()), "%s.container_port %d is not a port number", field, p.GetContainerPort())
	f.unless(inRange(p.GetHostPort()), "%s.host_port %d is not a port number", field, p.GetHostPort())
	f.unless(p.GetHostPort() <= 0 || p.GetContainerPort() != 0, "%s.host_port needs a container_port", field)
	f.unless(known(cri.Protocol_name, p.GetProtocol()), "%s.protocol %d is unknown", field, p.GetProtocol())
	if ip := p.GetHostIp(); ip != "" {
		_, err := netip.ParseAddr(ip)
		f.unless(err == nil, "%s.host_ip %q is not an IP address", field, ip)
	}
}

func (f *faults) required(field, value string) { f.unless(value != "", "%s is required", field) }

func known[E ~int32](names map[int32]string, value E) bool {
	_, ok := names[int32(value)]
	return ok
}

// seconds checks and converts a timeout; what does not fit is as good as for
// ever.
func (f *faults) seconds(field string, v int64) time.Duration {
	f.unless(v >= 0, "%s %d is negative", field, v)
	return time.Duration(min(max(v, 0), int64(math.MaxInt64/time.Second))) * time.Second
}

func (f *faults) image(spec *cri.ImageSpec) {
	f.unless(spec.GetImage() != "", "image is required")
}

// streams checks what exec and attach have in common.
func (f *faults) streams(x stream.Session) {
	f.unless(x.Stdin || x.Stdout || x.Stderr, "one of stdin, stdout and stderr must be set")
	f.unless(!x.TTY || !x.Stderr, "a terminal has no stderr: tty and stderr exclude each other")
}

func newExec(r *cri.ExecRequest) (stream.Session, error) {
	var f faults
	x := stream.Session{Command: r.GetCmd(), TTY: r.GetTty(), Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr()}
	f.required("container_id", r.GetContainerId())
	f.unmet(oci.ValidateCommand(r.GetCmd()))
	f.streams(x)
	return x, f.err("exec")
}

func newAttach(r *cri.AttachRequest) (stream.Session, error) {
	var f faults
	x := stream.Session{TTY: r.GetTty(), Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr()}
	f.required("container_id", r.GetContainerId())
	f.streams(x)
	return x, f.err("attach")
}

func newPortForward(r *cri.PortForwardRequest) (stream.PortForward, error) {
	var f faults
	f.required("pod_sandbox_id", r.GetPodSandboxId())
	for _, port := range r.GetPort() {
		f.unless(port > 0 && port <= math.MaxUint16, "port %d is out of range", port)
	}
	return stream.PortForward{Ports: r.GetPort()}, f.err("port-forward")
}

func execSyncTimeout(r *cri.ExecSyncRequest) (time.Duration, error) {
	var f faults
	f.required("container_id", r.GetContainerId())
	f.unmet(oci.ValidateCommand(r.GetCmd()))
	d := f.seconds("timeout", r.GetTimeout())
	return d, f.err("exec")
}

func stopGrace(r *cri.StopContainerRequest) (time.Duration, error) {
	var f faults
	f.required("container_id", r.GetContainerId())
	d := f.seconds("timeout", r.GetTimeout())
	return d, f.err("stop container")
}

// podCIDRs splits the kubelet's list, which is empty on nodes without one.
func podCIDRs(r *cri.UpdateRuntimeConfigRequest) ([]string, error) {
	var f faults
	var out []string
	for _, cidr := range strings.FieldsFunc(r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr(), func(r rune) bool { return r == ',' }) {
		_, err := netip.ParsePrefix(strings.TrimSpace(cidr))
		f.unless(err == nil, "pod_cidr %q is not a CIDR", cidr)
		out = append(out, strings.TrimSpace(cidr))
	}
	return out, f.err("update runtime config")
}
