// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestOOMVictimTold(t *testing.T) {
	v := sys.OOMVictim{Cgroups: []string{"/sys/fs/cgroup/system.slice/cri-15ab.scope"}, PID: 2309, Start: 92000}
	const kill = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/system.slice/cri-15ab.scope,"
	for _, tt := range []struct {
		name, record string
		want         bool
	}{
		{"its cgroup", "6,812,921673460,-;" + kill + "task_memcg=/system.slice/cri-15ab.scope,task=testbox,pid=9,uid=0\n", true},
		{"below its cgroup", "6,812,921673460,-;" + kill + "task_memcg=/system.slice/cri-15ab.scope/init,task=x,pid=9,uid=0\n", true},
		{"another's, in its limit", "6,812,921673460,-;" + kill + "task_memcg=/system.slice/cri-15ab.scope2,task=x,pid=9,uid=0\n", false},
		{"its process", "3,813,921674361,-;Memory cgroup out of memory: Killed process 2309 (testbox) total-vm:1kB\n", true},
		{"its process, without cgroups", "3,813,921674361,-;Out of memory: Killed process 2309 (testbox) total-vm:1kB\n", true},
		{"one with its id, before it", "3,813,919674361,-;Out of memory: Killed process 2309 (testbox) total-vm:1kB\n", false},
		{"another process", "3,813,921674361,-;Out of memory: Killed process 23090 (testbox) total-vm:1kB\n", false},
		{"something else", "6,1,5,-;Linux version 6.1 cri-15ab.scope\n SUBSYSTEM=x\n", false},
		{"nothing", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := v.Told([]byte(tt.record)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestLoggedOOMKillReadsToTheEnd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: reads the kernel's log")
	}
	v := sys.OOMVictim{Cgroups: []string{"/sys/fs/cgroup/no-such-cgroup"}, PID: os.Getpid(), Start: 1 << 40}
	if got, err := sys.LoggedOOMKill(v); got || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
