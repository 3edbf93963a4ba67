// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Attachment is one pod's place in the network. Del and GC need PodID only.
type Attachment struct {
	PodID           string // the container id that plugins see
	Namespace, Name string
	UID             string
	NetNS           string // path of the pinned network namespace
	CgroupPath      string // the pod's cgroup parent
	PortMappings    []*cri.PortMapping
	DNS             *cri.DNSConfig
	Annotations     map[string]string // the pod's; the bandwidth annotations among them are obeyed
}

// Result is what an ADD gave.
type Result struct {
	IPs []string // of eth0, each once, primary first; without prefix length
}

// Bandwidth annotations, in bits per second with a unit such as 10M.
const (
	ingressBandwidth = "kubernetes.io/ingress-bandwidth"
	egressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// runtime is the part of a plugin's input that is about the pod. Capability names are those that Kubernetes' plugins
// know; libcni hands each plugin only those that it asks for.
func (s *Service) runtime(a Attachment) (*libcni.RuntimeConf, error) {
	if err := utils.ValidateContainerID(a.PodID); err != nil {
		return nil, fmt.Errorf("pod id %q: %w: %w", a.PodID, err, errdefs.ErrInvalidArgument)
	}
	caps := map[string]any{}
	if ports := portMappings(a.PortMappings); len(ports) > 0 {
		caps["portMappings"] = ports
	}
	if d := a.DNS; d != nil {
		caps["dns"] = map[string]any{"servers": d.GetServers(), "searches": d.GetSearches(), "options": d.GetOptions()}
	}
	if a.CgroupPath != "" {
		caps["cgroupPath"] = a.CgroupPath
	}
	if len(a.Annotations) > 0 {
		caps["io.kubernetes.cri.pod-annotations"] = a.Annotations
	}
	if ranges := ipRanges(s.PodCIDRs()); len(ranges) > 0 {
		caps["ipRanges"] = ranges
	}
	bw, err := bandwidth(a.Annotations)
	if err != nil {
		return nil, err
	}
	if bw != nil {
		caps["bandwidth"] = bw
	}
	return &libcni.RuntimeConf{
		ContainerID: a.PodID, NetNS: a.NetNS, IfName: ifName, CapabilityArgs: caps,
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, // older plugins refuse arguments that they don't know otherwise
			{"K8S_POD_NAMESPACE", a.Namespace},
			{"K8S_POD_NAME", a.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", a.PodID},
			{"K8S_POD_UID", a.UID},
		},
	}, nil
}

type portMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// portMappings leaves out those without a host port: for the CRI 0 means none, not any.
func portMappings(in []*cri.PortMapping) []portMapping {
	var out []portMapping
	for _, p := range in {
		if p.GetHostPort() > 0 {
			out = append(out, portMapping{p.GetHostPort(), p.GetContainerPort(), strings.ToLower(p.GetProtocol().String()), p.GetHostIp()})
		}
	}
	return out
}

func ipRanges(cidrs []string) [][]map[string]string {
	var sets [][]map[string]string
	for _, c := range cidrs {
		sets = append(sets, []map[string]string{{"subnet": c}})
	}
	return sets
}

func bandwidth(annotations map[string]string) (map[string]uint64, error) {
	out := map[string]uint64{}
	for key, name := range map[string]string{ingressBandwidth: "ingress", egressBandwidth: "egress"} {
		text, ok := annotations[key]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Sign() <= 0 {
			return nil, fmt.Errorf("annotation %s: %q is not a bandwidth: %w", key, text, errdefs.ErrInvalidArgument)
		}
		// A shaper wants a burst as well; the annotation knows none, so allow what the plugins take at most.
		out[name+"Rate"], out[name+"Burst"] = uint64(q.Value()), math.MaxUint32
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// result reads the plugins' answer. A pod without an address is of no use to the kubelet, so that is an error. What the
// plugins say of DNS is not used: the kubelet says what a pod resolves with.
func result(res types.Result) (Result, error) {
	r, err := current.NewResultFromResult(res)
	if err != nil {
		return Result{}, fmt.Errorf("read result: %w", err)
	}
	var own, other []netip.Addr
	for _, ip := range r.IPs {
		if ip == nil {
			return Result{}, errors.New("read result: null in place of an address")
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return Result{}, fmt.Errorf("read result: bad address %q", ip.Address.IP)
		}
		if onPodInterface(r, ip) {
			own = append(own, addr.Unmap())
		} else {
			other = append(other, addr.Unmap())
		}
	}
	if len(own) == 0 { // some plugins name the interface otherwise
		own = other
	}
	ips := reported(own)
	if len(ips) == 0 {
		return Result{}, fmt.Errorf("read result: no IP address for %s", ifName)
	}
	return Result{IPs: ips}, nil
}

// reported are the addresses that others can reach the pod at, in the plugins' order, each once. The kubelet takes the
// first one of each family for the pod's: a link-local address must not be it, and is reported only where there is no
// other.
func reported(addrs []netip.Addr) []string {
	var global, local []string
	for _, a := range addrs {
		switch text := a.String(); {
		case a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
		case a.IsLinkLocalUnicast() && !slices.Contains(local, text):
			local = append(local, text)
		case !a.IsLinkLocalUnicast() && !slices.Contains(global, text):
			global = append(global, text)
		}
	}
	if len(global) == 0 {
		return local
	}
	return global
}

// onPodInterface takes an address that names no interface for one of eth0.
func onPodInterface(r *current.Result, ip *current.IPConfig) bool {
	if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(r.Interfaces) {
		return true
	}
	i := r.Interfaces[*ip.Interface]
	return i == nil || i.Name == ifName && i.Sandbox != ""
}
