// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fill FILE [child] [stay] [pour]: writes to stdout, and to stderr where that
// is another file, until nothing more fits for a second, notes in FILE how many
// bytes each took, and ends with 7. With child, a process in a session of its
// own does it; with stay that holds the files ever after, and with pour it goes
// on writing.
func fill(args []string) int {
	if slices.Contains(args, "child") {
		rest := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "child" })
		child := exec.Command("/proc/self/exe", append([]string{"fill"}, rest...)...)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			return fail(err)
		}
		for {
			if _, err := os.Stat(args[0]); err == nil {
				return 7
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	counts := [2]int{fillOne(1), 0}
	if !sameFile(1, 2) {
		counts[1] = fillOne(2)
	}
	if err := os.WriteFile(args[0]+".new", []byte(fmt.Sprintln(counts[0], counts[1])), 0o644); err != nil {
		return fail(err)
	}
	if err := os.Rename(args[0]+".new", args[0]); err != nil {
		return fail(err)
	}
	if slices.Contains(args, "pour") {
		for {
			if _, err := os.Stdout.WriteString("more "); err != nil {
				return fail(err)
			}
		}
	}
	if slices.Contains(args, "stay") {
		time.Sleep(time.Hour)
	}
	return 7
}

// fillOne writes to fd until it has taken nothing for a second.
func fillOne(fd int) (total int) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return 0
	}
	block := []byte(strings.Repeat("x", 4096))
	for last := time.Now(); time.Since(last) < time.Second; {
		n, err := unix.Write(fd, block)
		switch {
		case n > 0:
			total, last = total+n, time.Now()
		case errors.Is(err, unix.EAGAIN):
			time.Sleep(time.Millisecond)
		default:
			return total
		}
	}
	_ = unix.SetNonblock(fd, false)
	return total
}

func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// self [sleep]: what a process has from whoever started it; then sleeps.
func self(args []string) int {
	dir, err := os.Getwd()
	if err != nil {
		return fail(err)
	}
	fmt.Println("cwd", dir)
	for _, kv := range os.Environ() {
		fmt.Println("env", kv)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fail(err)
	}
	for line := range strings.Lines(string(status)) {
		name, _, _ := strings.Cut(line, ":")
		if slices.Contains([]string{"Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Cpus_allowed_list"}, name) || strings.HasPrefix(name, "Cap") {
			fmt.Print(line)
		}
	}
	for _, file := range []string{"limits", "oom_score_adj"} {
		data, err := os.ReadFile("/proc/self/" + file)
		if err != nil {
			return fail(err)
		}
		fmt.Print(string(data))
	}
	fmt.Println("end of self")
	if len(args) > 0 {
		return sleep(nil)
	}
	return 0
}

// wait-bytes N: bytes N, once there is a line on stdin.
func waitBytes(args []string) int {
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return fail(err)
	}
	return bytes(args)
}

// count BEHAVIOUR: how many processes of this PID namespace run it.
func count(args []string) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil {
			if argv := strings.Split(string(line), "\x00"); len(argv) > 1 && argv[1] == args[0] {
				n++
			}
		}
	}
	fmt.Println(n)
	return 0
}

// ttyAgain N: says "before", closes its terminal as a daemon does, opens it again
// a moment later, and writes N lines there; ends with 5.
func ttyAgain(args []string) int {
	fmt.Println("before")
	for fd := range 3 {
		unix.Close(fd)
	}
	time.Sleep(300 * time.Millisecond) // until the other side has seen it
	terminal, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 1 // nobody could read why
	}
	for i := range number(args, 0) {
		if _, err := fmt.Fprintln(terminal, "after", i); err != nil {
			return 2
		}
	}
	return 5
}
