// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
)

// part is something that machines need and that is made once: a program that makes it, given a release, the file or folder
// to make and further arguments, packages above all, and what else of ours goes into it.
type part struct {
	name, release string
	script        string
	arguments     []string
	from          []string // files below test/machine
}

func (d disk) part() part {
	if d.arch != "" {
		return part{"disk", d.release, "build/foreign", append([]string{d.arch}, d.packages...), []string{"build/foreign", "build/unpack", "guest/boot"}}
	}
	from := []string{"build/root", "build/debian", "guest/boot", "guest/machine.service"}
	if slices.Contains(d.packages, "selinux-policy-default") {
		from = append(from, "guest/machine.cil")
	}
	return part{"disk", d.release, "build/root", d.packages, from}
}

// path is where the part is kept: in the user's cache folder, so that every clone on this machine finds it, under a hash of
// what it is made from. Debian's packages are not part of the hash: the cache is emptied to have newer ones.
func (p part) path(root string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, p.release, p.arguments)
	for _, name := range p.from {
		data, err := os.ReadFile(filepath.Join(root, "test", "machine", name))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(hash, name, len(data))
		hash.Write(data)
	}
	return filepath.Join(cache, "cri-shim", "machine", fmt.Sprintf("%s-%s-%x", p.name, p.release, hash.Sum(nil)[:8])), nil
}

// make makes the part unless it is there, one at a time for all clones: the file's name appears when it is whole.
func (p part) make(ctx context.Context, root string) (string, error) {
	path, err := p.path(root)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	fmt.Printf("machine: making the %s of %s, once: %s\n", p.name, p.release, path)
	return path, command(ctx, root, append([]string{filepath.Join("test", "machine", p.script), p.release, path}, p.arguments...)...)
}

// ready makes what the machine is made of. Its error says why the machine cannot be had here.
func (m machine) ready(ctx context.Context, root string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: disks are made of packages that are installed into a folder")
	}
	if err := command(ctx, root, append([]string{"test/deps"}, m.kernel.needs()...)...); err != nil {
		return err
	}
	if err := m.kernel.absent(); err != nil {
		return err
	}
	for _, p := range []part{m.kernel.part(), m.disk.part()} {
		if _, err := p.make(ctx, root); err != nil {
			return fmt.Errorf("make the %s of %s: %w", p.name, p.release, err)
		}
	}
	if arch := m.kernel.arch(); arch != runtime.GOARCH {
		return buildProduct(ctx, root, arch)
	}
	return nil
}

// command runs a program in the tree; its error has the last that it said.
func command(ctx context.Context, root string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if filepath.Base(argv[0]) != argv[0] {
		cmd.Path = filepath.Join(root, argv[0])
	}
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", argv[0], err, bytes.TrimSpace(out[max(0, len(out)-2000):]))
	}
	return nil
}
