// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// userMode is a kernel that runs as a process of this machine, made of the newest source of a release of Debian.
type userMode struct{ release string }

func (k userMode) part() part {
	return part{"kernel", k.release, "build/kernel", nil, []string{"build/kernel", "build/debian", "build/kernel.config"}}
}

func (userMode) arch() string { return runtime.GOARCH }

func (userMode) needs() []string { return []string{"machine"} }

func (userMode) absent() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("needs amd64: Linux has no user mode for %s", runtime.GOARCH)
	}
	return nil
}

// boots starts it without a disk: user mode needs seccomp filters and processes that it may trace, which a sandbox may
// refuse.
func (k userMode) boots(ctx context.Context, root string) error {
	program, err := k.part().path(root)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cri-boot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "mem=64M", "seccomp=on", "panic=1", "uml_dir="+dir, "umid=boots", "con=null", "con0=null,fd:1")
	cmd.Env = append(os.Environ(), "TMPDIR=/dev/shm")
	said, err := cmd.CombinedOutput() // its end is a panic
	if !bytes.Contains(said, []byte("Unable to mount root fs")) {
		return fmt.Errorf("the kernel of %s does not boot here: %w: %s", k.release, err, bytes.TrimSpace(said[max(0, len(said)-300):]))
	}
	return nil
}

// command boots it. `seccomp=on` is the quick way to catch system calls; the slow one needs no option.
func (userMode) command(ctx context.Context, b booting) *exec.Cmd {
	options := append([]string{
		"mem=4G", "ncpus=1", "root=/dev/ubda", "rootfstype=ext4", "seccomp=on", "panic=1", "umid=" + b.machine.name, "uml_dir=" + b.dir,
		"machine.orders=" + b.orders(), "machine.source=" + b.root, "ubd0=" + filepath.Join(b.written(), "disk") + "," + b.image, "con=null",
	}, b.options()...)
	if b.shell {
		options = append(options, "quiet", "con0=fd:0,fd:1")
	} else {
		options = append(options, "con0=null,fd:1")
	}
	cmd := exec.CommandContext(ctx, b.kernel, options...)
	cmd.Env = append(os.Environ(), "TMPDIR=/dev/shm") // the machine's memory
	return cmd
}
