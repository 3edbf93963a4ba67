// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed guest/run
var guestRun []byte

// boot boots the machine, with dir for what it is told and what it leaves, and waits until it is off. With a console it
// gives a shell there and does no steps.
func (m machine) boot(ctx context.Context, root, dir string, console *os.File) error {
	if err := m.hand(ctx, root, dir, console != nil); err != nil {
		return fmt.Errorf("hand orders to %s: %w", m.name, err)
	}
	kernel, err := m.kernel.part().path(root)
	if err != nil {
		return err
	}
	image, err := m.disk.part().path(root)
	if err != nil {
		return err
	}
	said, err := os.Create(filepath.Join(dir, "console.log"))
	if err != nil {
		return err
	}
	defer said.Close()
	written := filepath.Join(dir, "written") // where the disk differs from its image
	defer os.Remove(written)
	cmd := exec.CommandContext(ctx, kernel, append(m.commandLine(dir, root, console != nil), "ubd0="+written+","+image)...)
	cmd.Env = append(os.Environ(), "TMPDIR=/dev/shm") // the machine's memory
	cmd.Stdout, cmd.Stderr = io.Writer(said), io.Writer(said)
	if console != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = console, os.Stdout, os.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: console == nil}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("boot %s: %w", m.name, errors.Join(err, context.Cause(ctx)))
	}
	return nil
}

// boots tells whether the kernel comes as far as to look for a root file system, of which it has none here: user mode needs
// seccomp filters and processes that it may trace, which a sandbox may refuse.
func (k kernel) boots(ctx context.Context, root string) error {
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

// commandLine is the kernel's. `seccomp=on` is the quick way to catch system calls; the slow one needs no option.
func (m machine) commandLine(dir, root string, shell bool) []string {
	options := append([]string{
		"mem=4G", "ncpus=1", "root=/dev/ubda", "rootfstype=ext4", "rw", "seccomp=on", "panic=1", "umid=" + m.name, "uml_dir=" + dir,
		"machine.orders=" + filepath.Join(dir, "orders"), "machine.source=" + root,
	}, m.options...)
	if m.systemd {
		options = append(options, "init=/sbin/init", "systemd.show_status=false")
	} else {
		options = append(options, "init=/usr/sbin/machine-boot")
	}
	if shell {
		return append(options, "quiet", "con=null", "con0=fd:0,fd:1")
	}
	return append(options, "con=null", "con0=null,fd:1")
}

// hand writes what the machine finds below /machine.
func (m machine) hand(ctx context.Context, root, dir string, shell bool) error {
	orders := filepath.Join(dir, "orders")
	if err := os.MkdirAll(filepath.Join(orders, "out"), 0o755); err != nil {
		return err
	}
	if shell {
		if err := os.WriteFile(filepath.Join(orders, "shell"), nil, 0o644); err != nil {
			return err
		}
	}
	if m.systemd {
		if err := command(ctx, root, "make", "-s", "install", "DESTDIR="+filepath.Join(orders, "installed")); err != nil {
			return err
		}
	}
	if program := critestProgram(); program != "" {
		if err := copyFile(program, filepath.Join(orders, "critest")); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(orders, "run"), guestRun, 0o755),
		os.WriteFile(filepath.Join(orders, "steps"), []byte(m.script(orders)), 0o644))
}

// script is the steps as the machine's shell reads them. A step whose program is not there is left out.
func (m machine) script(orders string) string {
	var b strings.Builder
	for _, s := range m.steps {
		switch {
		case s.restart:
			fmt.Fprintf(&b, "restart %s\n", s.name)
		case s.has(orders):
			fmt.Fprintf(&b, "step %s '/src/%s'", s.name, s.folder)
			for _, a := range s.argv {
				fmt.Fprintf(&b, " '%s'", a)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// has tells whether what a step needs has been handed over.
func (s step) has(orders string) bool {
	if s.needs == "" {
		return true
	}
	_, err := os.Stat(filepath.Join(orders, strings.TrimPrefix(s.needs, "/machine/")))
	return err == nil
}

// critestProgram is upstream's binary, "" where there is none.
func critestProgram() string {
	name := os.Getenv("CRITEST")
	if name == "" {
		name = "critest"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
