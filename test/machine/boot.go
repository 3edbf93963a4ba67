// SPDX-License-Identifier: Apache-2.0

package main

import (
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
)

//go:embed guest/run
var guestRun []byte

// kernel is what a machine boots, and the way to boot it.
type kernel interface {
	part() part
	arch() string    // of the programs that run on it, in Go's name
	needs() []string // groups of test/deps
	absent() error   // why it cannot be had here
	// boots tells whether it comes here as far as to look for a root file system, of which it gets none.
	boots(ctx context.Context, root string) error
	// command boots it on a copy of a disk.
	command(ctx context.Context, b booting) *exec.Cmd
}

// booting is a machine about to boot: its parts, the tree, and the folder for what it is told and what it leaves.
type booting struct {
	machine       machine
	kernel, image string
	root, dir     string
	shell         bool
}

func (b booting) orders() string { return filepath.Join(b.dir, "orders") }

// written is the folder for where the disk differs from its image.
func (b booting) written() string { return filepath.Join(b.dir, "written") }

// options are what each kernel is told.
func (b booting) options() []string {
	if b.machine.systemd {
		return append([]string{"rw", "init=/sbin/init", "systemd.show_status=false"}, b.machine.options...)
	}
	return append([]string{"rw", "init=/usr/sbin/machine-boot"}, b.machine.options...)
}

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
	b := booting{machine: m, kernel: kernel, image: image, root: root, dir: dir, shell: console != nil}
	defer os.RemoveAll(b.written())
	if err := os.Mkdir(b.written(), 0o700); err != nil {
		return err
	}
	cmd := m.kernel.command(ctx, b)
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
		os.Symlink(filepath.Join("/src", built(m.kernel.arch())), filepath.Join(orders, "built")),
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
