// SPDX-License-Identifier: Apache-2.0

//go:build faults

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// faultDir names the variable with the directory that holds the plan of faults
// and the record of every place operations passed.
const faultDir = "CRI_SHIM_FAULTS"

// plannedFault strikes once, where an operation whose name begins with
// Operation passes Step for the Skip+1st time.
type plannedFault struct {
	Operation string `json:"operation"`
	Step      string `json:"step"`
	Moment    string `json:"moment"`
	Action    string `json:"action"` // "error" or "kill"
	Skip      int    `json:"skip"`
}

// faults reads DIR/plan at every step, so that a test changes it while the
// daemon runs, and writes every step to DIR/passed.
type faults struct {
	dir string
	mu  sync.Mutex // guards the two files against this process's own goroutines
}

func injectFaults(o *state.Ops) {
	if dir := os.Getenv(faultDir); dir != "" {
		f := &faults{dir: dir}
		o.InjectFaults(f.strike)
	}
}

func (f *faults) strike(operation, step string, m state.Moment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed(fmt.Sprintf("%s\t%s\t%s\n", operation, step, m))
	plan := f.plan()
	for i := range plan {
		p := &plan[i]
		if !strings.HasPrefix(operation, p.Operation) || p.Step != step || p.Moment != string(m) {
			continue
		}
		if p.Skip > 0 {
			p.Skip--
			f.store(plan)
			continue
		}
		action := p.Action
		f.store(append(plan[:i:i], plan[i+1:]...))
		f.passed(fmt.Sprintf("struck\t%s\t%s\n", action, step))
		if action == "kill" {
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			if err != nil {
				panic(err)
			}
			select {}
		}
		return errors.New("injected fault")
	}
	return nil
}

func (f *faults) plan() []plannedFault {
	var plan []plannedFault
	data, err := os.ReadFile(filepath.Join(f.dir, "plan"))
	if err == nil {
		err = json.Unmarshal(data, &plan)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	return plan
}

func (f *faults) store(plan []plannedFault) {
	data, err := json.Marshal(plan)
	if err == nil {
		err = os.WriteFile(filepath.Join(f.dir, "plan"), data, 0o600)
	}
	if err != nil {
		panic(err)
	}
}

func (f *faults) passed(line string) {
	out, err := os.OpenFile(filepath.Join(f.dir, "passed"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer out.Close()
	if _, err := out.WriteString(line); err != nil {
		panic(err)
	}
}
