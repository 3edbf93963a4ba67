// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"encoding/json"
	"strings"
)

// usage is what the kubelet's summary says of a container or pod, of what kubectl top needs.
type usage struct {
	Name string
	CPU  struct{ UsageNanoCores, UsageCoreNanoSeconds uint64 }

	Memory struct{ WorkingSetBytes uint64 }
	Rootfs struct{ UsedBytes uint64 }
	Logs   struct{ UsedBytes uint64 }
}

type summary struct {
	Node usage
	Pods []struct {
		usage
		PodRef     struct{ Name string }
		Network    struct{ RxBytes uint64 }
		Containers []usage
	}
}

func stats(c *trial) {
	c.apply(pod("stats", "head -c 3000000 /dev/zero > /big; echo busy; while :; do :; done", object{
		"nodeName": "n1", "container": object{"resources": object{"limits": object{"cpu": "200m"}}},
	}))
	c.ready("stats")
	var last string
	c.eventually("the summary has all of a busy container", func() bool {
		last = c.must("get", "--raw", "/api/v1/nodes/n1/proxy/stats/summary")
		var s summary
		if err := json.Unmarshal([]byte(last), &s); err != nil {
			c.Fatal(err)
		}
		for _, p := range s.Pods {
			if p.PodRef.Name != "stats" || len(p.Containers) != 1 {
				continue
			}
			m := p.Containers[0]
			return s.Node.CPU.UsageNanoCores > 0 && p.Network.RxBytes > 0 && m.CPU.UsageNanoCores > 50e6 && m.CPU.UsageNanoCores < 400e6 &&
				m.CPU.UsageCoreNanoSeconds > 0 && m.Memory.WorkingSetBytes > 0 && m.Rootfs.UsedBytes >= 3000000 && m.Logs.UsedBytes > 0
		}
		return false
	})
	c.eventually("its metrics have names", func() bool {
		return strings.Contains(c.must("get", "--raw", "/api/v1/nodes/n1/proxy/metrics/cadvisor"), `container_cpu_usage_seconds_total{container="main",cpu="total"`)
	})
	c.must("delete", "pod", "stats", "--wait=false")
}

func eventedPLEG(c *trial) {
	for _, m := range c.nodes {
		metrics := c.must("get", "--raw", "/api/v1/nodes/"+m.name+"/proxy/metrics")
		if !strings.Contains(metrics, "kubelet_evented_pleg_connection_success_count 1") {
			c.Errorf("the kubelet of %s does not say that it takes the runtime's events", m.name)
		}
	}
}
