// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Annotation keys of a spec. They are the ones that gVisor, Kata Containers and NRI plugins look for under every CRI
// runtime, hence not under a name of ours.
const (
	annotationType             = "io.kubernetes.cri.container-type" // typeSandbox or typeContainer
	annotationSandboxID        = "io.kubernetes.cri.sandbox-id"
	annotationSandboxName      = "io.kubernetes.cri.sandbox-name"
	annotationSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationSandboxUID       = "io.kubernetes.cri.sandbox-uid"
	annotationSandboxLogDir    = "io.kubernetes.cri.sandbox-log-directory"
	annotationSandboxCPUPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	annotationSandboxCPUQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationSandboxCPUShares = "io.kubernetes.cri.sandbox-cpu-shares"
	annotationSandboxMemory    = "io.kubernetes.cri.sandbox-memory"
	annotationContainerName    = "io.kubernetes.cri.container-name"
	annotationImageName        = "io.kubernetes.cri.image-name"

	// crun's. Under systemd on cgroup v2 it runs a container in a cgroup below the scope unless the name here is empty, and
	// the container's cgroup is then not the one that cgroupsPath names, below which execs have theirs.
	annotationSubgroup = "run.oci.systemd.subgroup"

	typeSandbox   = "sandbox"
	typeContainer = "container"
)

// steers tells whether an annotation makes OCI runtimes do what the user of a pod has no say in: properties of systemd
// units, among them programs that systemd starts as root (CVE-2024-3154), crun's switches, CRIU's configuration file, and
// the directory of the bundle. runc and crun list them in their features as potentially unsafe.
func steers(key string) bool {
	return key == "bundle" || slices.ContainsFunc([]string{"org.systemd.property.", "run.oci.", "org.criu."},
		func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// CheckAnnotationPattern refuses a pattern of annotation keys that is none, or that could only match keys which are
// never passed to a runtime. A pattern has the syntax of path.Match; a "*" at its end spans slashes as well.
func CheckAnnotationPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
		return fmt.Errorf("annotation pattern %q: not a pattern: %w", pattern, errdefs.ErrInvalidArgument)
	}
	if steers(pattern) {
		return fmt.Errorf("annotation pattern %q: annotations of that name steer the runtime and are never passed: %w", pattern, errdefs.ErrInvalidArgument)
	}
	return nil
}

// passed returns the annotations whose key matches one of the patterns. A runtime handler that reads annotations of its
// own, such as dev.gvisor.*, asks for them; the others see none, because what a user may write on a pod must not steer
// the runtime.
func passed(annotations map[string]string, patterns []string) map[string]string {
	out := map[string]string{}
	for key, value := range annotations {
		if !steers(key) && slices.ContainsFunc(patterns, func(p string) bool { return matches(p, key) }) {
			out[key] = value
		}
	}
	return out
}

func matches(pattern, key string) bool {
	if n := len(pattern) - 1; n >= 0 && pattern[n] == '*' && len(key) >= n && key[:n] == pattern[:n] {
		return true
	}
	ok, err := path.Match(pattern, key)
	return ok && err == nil
}

func annotatePod(out map[string]string, id string, config *cri.PodSandboxConfig) {
	out[annotationSubgroup] = ""
	out[annotationSandboxID] = id
	out[annotationSandboxName] = config.GetMetadata().GetName()
	out[annotationSandboxNamespace] = config.GetMetadata().GetNamespace()
	out[annotationSandboxUID] = config.GetMetadata().GetUid()
}

// annotatePause adds what a runtime needs that sizes a virtual machine before it knows the containers.
func annotatePause(out map[string]string, config *cri.PodSandboxConfig) {
	out[annotationType] = typeSandbox
	out[annotationSandboxLogDir] = config.GetLogDirectory()
	r := config.GetLinux().GetResources()
	if r == nil {
		return
	}
	for key, value := range map[string]int64{
		annotationSandboxCPUPeriod: r.CpuPeriod, annotationSandboxCPUQuota: r.CpuQuota,
		annotationSandboxCPUShares: r.CpuShares, annotationSandboxMemory: r.MemoryLimitInBytes,
	} {
		out[key] = strconv.FormatInt(value, 10)
	}
}
