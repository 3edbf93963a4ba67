// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// LiesIn reads /proc/PID/cgroup.
func LiesIn(raw []byte, dirs []string) bool { return liesIn(raw, dirs) }

// Confirmed finds the processes of dir as a kill does, and tells which it would
// kill. meanwhile runs after a process was found and before it is held.
func Confirmed(dir string, meanwhile func(pid int)) (map[int]bool, error) {
	confirmed := map[int]bool{}
	err := eachMembers(context.Background(), dir, func(pid int) (*sys.Process, error) {
		meanwhile(pid)
		return sys.OpenProcess(pid)
	}, func(held []member[*sys.Process]) error {
		for _, m := range held {
			confirmed[m.pid] = m.confirmed
		}
		return nil
	})
	return confirmed, err
}
