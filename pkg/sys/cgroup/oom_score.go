// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MoveOOMScoreAdj gives the processes in the given cgroup directories, and below
// them, the oom_score_adj to in place of from. A process that has another has
// chosen it, and keeps it. One that may not be given the new one, which without
// CAP_SYS_RESOURCE may be one lower than its lowest so far, keeps the old and
// makes an error, after the others were served.
func MoveOOMScoreAdj(ctx context.Context, dirs []string, from, to int) error {
	var errs []error
	for moved := from != to; moved; { // what was forked meanwhile may have the old one
		moved, errs = false, nil
		for _, dir := range dirs {
			errs = append(errs, eachMembers(ctx, dir, openOOMScore, func(processes []member[oomScore]) error {
				var errs []error
				for _, p := range processes {
					if !p.confirmed {
						continue
					}
					done, err := p.handle.move(from, to)
					moved = moved || done
					if err != nil {
						errs = append(errs, fmt.Errorf("set oom_score_adj of process %d to %d: %w", p.pid, to, err))
					}
				}
				return errors.Join(errs...)
			}))
		}
	}
	return errors.Join(errs...)
}

// oomScore is the oom_score_adj of one process, whoever has its number later.
type oomScore struct{ *os.File }

func openOOMScore(pid int) (oomScore, error) {
	f, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", os.O_RDWR, 0)
	return oomScore{f}, err
}

func (s oomScore) move(from, to int) (done bool, err error) {
	raw := make([]byte, 16)
	n, _ := s.ReadAt(raw, 0) // nothing when it has ended
	if string(bytes.TrimSpace(raw[:n])) != strconv.Itoa(from) {
		return false, nil
	}
	_, err = s.WriteAt([]byte(strconv.Itoa(to)), 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil // it has ended
	}
	return err == nil, err
}
