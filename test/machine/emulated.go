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
	"strings"
	"time"
)

// emulated is a kernel as a release of Debian has it for an architecture, booted by an emulator of a processor. All is 10
// to 20 times slower than outside, and like a node's down to the boot.
type emulated struct {
	release   string
	processor processor
}

// processor is one that QEMU emulates, and what else of the computer around it differs from that of others.
type processor struct {
	arch     string // as Debian and Go call it
	emulator string
	console  string
	computer []string
}

var (
	amd64 = processor{"amd64", "qemu-system-x86_64", "ttyS0", []string{"-cpu", "max"}}
	arm64 = processor{"arm64", "qemu-system-aarch64", "ttyAMA0", []string{"-machine", "virt", "-cpu", "cortex-a72"}}
)

func (k emulated) part() part {
	return part{
		"kernel", k.release, "build/stock",
		[]string{k.processor.arch, "linux-image-" + k.processor.arch},
		[]string{"build/stock", "build/unpack", "guest/init"},
	}
}

func (k emulated) arch() string { return k.processor.arch }

func (k emulated) needs() []string { return []string{"machine", "emulated-" + k.processor.arch} }

func (k emulated) absent() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("needs amd64 as the machine that builds: this one is %s", runtime.GOARCH)
	}
	if _, err := exec.LookPath(k.processor.emulator); err != nil {
		return fmt.Errorf("find the emulator of %s: %w", k.processor.arch, err)
	}
	return nil
}

// boots starts it without a disk, which guest/init then misses.
func (k emulated) boots(ctx context.Context, root string) error {
	kernel, err := k.part().path(root)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := k.emulator(ctx, kernel)
	cmd.Args = append(cmd.Args, "-serial", "stdio", "-no-reboot")
	said, err := cmd.CombinedOutput()
	if !bytes.Contains(said, []byte("init: cannot mount the disk")) {
		return fmt.Errorf("the kernel of %s for %s does not boot here: %w: %s", k.release, k.processor.arch, err, bytes.TrimSpace(said[max(0, len(said)-300):]))
	}
	return nil
}

// command boots it. What the emulator writes where the disk differs from its image goes where temporary files go.
func (k emulated) command(ctx context.Context, b booting) *exec.Cmd {
	options := append([]string{"systemd.mask=serial-getty@" + k.processor.console + ".service"}, b.options()...)
	cmd := k.emulator(ctx, b.kernel, options...)
	cmd.Args = append(cmd.Args, "-drive", "if=virtio,format=raw,snapshot=on,file="+b.image)
	cmd.Args = append(cmd.Args, share("modules", filepath.Join(b.kernel, "modules")+",readonly=on")...)
	cmd.Args = append(cmd.Args, share("source", b.root)...)
	cmd.Args = append(cmd.Args, share("orders", b.orders())...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.written())
	if b.shell {
		cmd.Args = append(cmd.Args, "-serial", "mon:stdio") // ^C is for the machine
	} else {
		cmd.Args = append(cmd.Args, "-serial", "stdio")
	}
	return cmd
}

// emulator is a computer with the kernel and no disk. It starts again when the kernel panics, and guest/run goes on with
// the step after the one that brought that about.
func (k emulated) emulator(ctx context.Context, kernel string, options ...string) *exec.Cmd {
	argv := append([]string{
		"-accel", "tcg", "-smp", "1", "-m", "4G", "-nodefaults", "-display", "none",
		"-kernel", filepath.Join(kernel, "linux"), "-initrd", filepath.Join(kernel, "initrd"),
		"-append", strings.Join(append([]string{"console=" + k.processor.console, "panic=-1", "quiet"}, options...), " "),
	}, k.processor.computer...)
	return exec.CommandContext(ctx, k.processor.emulator, argv...)
}

// share is a folder of the host as the machine finds it: root there is root here.
func share(name, folder string) []string {
	return []string{"-virtfs", "local,mount_tag=" + name + ",security_model=passthrough,multidevs=remap,path=" + folder}
}
