// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// defaultInterface is the one CNI is told to make.
const defaultInterface = "eth0"

type nic struct {
	name   string
	rx, tx counters
}

type counters struct{ bytes, packets, errors, dropped uint64 }

// interfaces reads the counters of a pod's interfaces, the loopback left out. A process in the namespace is the cheap
// way in; without one a thread of ours goes there.
func (s *Service) interfaces(r *reader, p Pod) []nic {
	if p.NetNS == "" {
		return nil
	}
	if p.PID > 0 {
		if raw := r.file(fmt.Sprintf("/proc/%d/net", p.PID), "dev"); raw != nil {
			return parseInterfaces(raw)
		}
	}
	var nics []nic
	err := netns.In(p.NetNS, func() error {
		nics = parseInterfaces(r.file("/proc/thread-self/net", "dev"))
		return nil
	})
	if err != nil {
		s.log.Debug("network statistics unavailable", "pod", p.ID, "err", err)
	}
	return nics
}

// parseInterfaces reads /proc/net/dev: two lines of header, then "name: 8 receive columns, 8 transmit columns". A pod
// may name its interfaces in bytes that are no UTF-8, and one such name in an answer would fail it for all pods.
func parseInterfaces(raw []byte) []nic {
	var out []nic
	for line := range bytes.Lines(raw) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		f := bytes.Fields(rest)
		if !ok || len(f) < 16 {
			continue
		}
		name = bytes.ToValidUTF8(bytes.TrimSpace(name), []byte("\uFFFD"))
		n := nic{name: string(name), rx: parseCounters(f[0:4]), tx: parseCounters(f[8:12])}
		if n.name != "lo" {
			out = append(out, n)
		}
	}
	return out
}

func parseCounters(f [][]byte) counters {
	var v [4]uint64
	for i := range v {
		v[i], _ = strconv.ParseUint(string(f[i]), 10, 64)
	}
	return counters{bytes: v[0], packets: v[1], errors: v[2], dropped: v[3]}
}

// networkUsage lists all interfaces, the default one too. The CRI's comment would have it left out, but the kubelet copies
// the list into its summary as "all interfaces found", which is what cAdvisor gave and clients read.
func networkUsage(nics []nic, now time.Time) *cri.NetworkUsage {
	if len(nics) == 0 {
		return nil
	}
	out := &cri.NetworkUsage{Timestamp: now.UnixNano()}
	for _, n := range nics {
		u := &cri.NetworkInterfaceUsage{
			Name:    n.name,
			RxBytes: number(n.rx.bytes), RxErrors: number(n.rx.errors),
			TxBytes: number(n.tx.bytes), TxErrors: number(n.tx.errors),
		}
		if n.name == defaultInterface {
			out.DefaultInterface = u
		}
		out.Interfaces = append(out.Interfaces, u)
	}
	if out.DefaultInterface == nil {
		out.DefaultInterface = out.Interfaces[0] // of plugins that name it otherwise
	}
	return out
}
