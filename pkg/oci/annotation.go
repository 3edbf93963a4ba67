// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path"
	"strconv"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Annotation keys of a spec. They are the ones that gVisor, Kata Containers and NRI plugins look for under every CRI
// runtime, hence not under a name of ours.
const (
	AnnotationType             = "io.kubernetes.cri.container-type" // TypeSandbox or TypeContainer
	AnnotationSandboxID        = "io.kubernetes.cri.sandbox-id"
	AnnotationSandboxName      = "io.kubernetes.cri.sandbox-name"
	AnnotationSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	AnnotationSandboxUID       = "io.kubernetes.cri.sandbox-uid"
	AnnotationSandboxLogDir    = "io.kubernetes.cri.sandbox-log-directory"
	AnnotationSandboxCPUPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	AnnotationSandboxCPUQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	AnnotationSandboxCPUShares = "io.kubernetes.cri.sandbox-cpu-shares"
	AnnotationSandboxMemory    = "io.kubernetes.cri.sandbox-memory"
	AnnotationContainerName    = "io.kubernetes.cri.container-name"
	AnnotationImageName        = "io.kubernetes.cri.image-name"

	TypeSandbox   = "sandbox"
	TypeContainer = "container"
)

// passed returns the annotations whose key matches one of the patterns (path.Match syntax, or a prefix ending in "*",
// which here spans slashes as well). A runtime handler that reads annotations of its own, such as dev.gvisor.*, asks for
// them; the others see none, because what a user may write on a pod must not steer the runtime.
func passed(annotations map[string]string, patterns []string) map[string]string {
	out := map[string]string{}
	for key, value := range annotations {
		for _, pattern := range patterns {
			if matches(pattern, key) {
				out[key] = value
				break
			}
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
	out[AnnotationSandboxID] = id
	out[AnnotationSandboxName] = config.GetMetadata().GetName()
	out[AnnotationSandboxNamespace] = config.GetMetadata().GetNamespace()
	out[AnnotationSandboxUID] = config.GetMetadata().GetUid()
}

// annotatePause adds what a runtime needs that sizes a virtual machine before it knows the containers.
func annotatePause(out map[string]string, config *cri.PodSandboxConfig) {
	out[AnnotationType] = TypeSandbox
	out[AnnotationSandboxLogDir] = config.GetLogDirectory()
	r := config.GetLinux().GetResources()
	if r == nil {
		return
	}
	for key, value := range map[string]int64{
		AnnotationSandboxCPUPeriod: r.CpuPeriod, AnnotationSandboxCPUQuota: r.CpuQuota,
		AnnotationSandboxCPUShares: r.CpuShares, AnnotationSandboxMemory: r.MemoryLimitInBytes,
	} {
		out[key] = strconv.FormatInt(value, 10)
	}
}
