// SPDX-License-Identifier: Apache-2.0

// Command testbox is the program inside the images of the integration tests:
// one static binary with one small behaviour per argument.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "testbox: which behaviour?")
		os.Exit(2)
	}
	behaviour, ok := behaviours[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "testbox: no such behaviour:", os.Args[1])
		os.Exit(2)
	}
	os.Exit(behaviour(os.Args[2:]))
}

var behaviours = map[string]func([]string) int{
	"sleep":      sleep,
	"stubborn":   stubborn,
	"exit":       func(a []string) int { return number(a, 0) },
	"echo":       func(a []string) int { fmt.Println(strings.Join(a, " ")); return 0 },
	"err":        func(a []string) int { fmt.Fprintln(os.Stderr, strings.Join(a, " ")); return 0 },
	"lines":      lines,
	"say":        func(a []string) int { return max(lines(a[:1]), number(a, 1)) },
	"bytes":      bytes,
	"cat":        cat,
	"orphans":    orphans,
	"orphan":     orphan,
	"zombies":    zombies,
	"fds":        fds,
	"env":        func([]string) int { fmt.Println(strings.Join(os.Environ(), "\n")); return 0 },
	"id":         id,
	"ls":         ls,
	"read":       read,
	"write":      write,
	"hog":        hog,
	"serve":      serve,
	"hold":       hold,
	"tty":        tty,
	"tty-again":  ttyAgain,
	"pid1":       func([]string) int { return read([]string{"/proc/1/comm"}) },
	"tree":       tree,
	"mkdir":      mkdir,
	"deepen":     deepen,
	"files":      files,
	"stat":       stat,
	"ns":         namespaces,
	"trap":       trap,
	"again":      again,
	"dial":       dial,
	"fill":       fill,
	"count":      count,
	"wait-bytes": waitBytes,
	"self":       self,
}

func number(args []string, i int) int {
	if i >= len(args) {
		return 0
	}
	n, err := strconv.Atoi(args[i])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbox:", err)
		os.Exit(2)
	}
	return n
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "testbox:", err)
	return 1
}

// sleep [seconds [code]]: waits, for ever by default, and ends with code; TERM ends it with 0, and USR1 with 7
// when it waits for ever.
func sleep(args []string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	if len(args) == 0 {
		signal.Notify(term, unix.SIGUSR1)
	}
	fmt.Println("sleeping")
	if len(args) == 0 {
		if <-term == unix.SIGUSR1 {
			return 7
		}
		fmt.Println("terminated")
		return 0
	}
	select {
	case <-term:
		fmt.Println("terminated")
		return 0
	case <-time.After(time.Duration(number(args, 0)) * time.Second):
		return number(args, 1)
	}
}

// stubborn: counts TERM signals and lives on.
func stubborn([]string) int {
	term := make(chan os.Signal, 16)
	signal.Notify(term, unix.SIGTERM)
	fmt.Println("ready")
	for range term {
		fmt.Println("got TERM")
	}
	return 0
}

// lines N [milliseconds]: numbered lines, with a pause after each; N 0 is for ever.
func lines(args []string) int {
	out := bufio.NewWriterSize(os.Stdout, 4096)
	pause := time.Duration(number(args, 1)) * time.Millisecond
	for i := 1; number(args, 0) == 0 || i <= number(args, 0); i++ {
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			return fail(err)
		}
		if pause > 0 {
			if err := out.Flush(); err != nil {
				return fail(err)
			}
			time.Sleep(pause)
		}
	}
	if err := out.Flush(); err != nil {
		return fail(err)
	}
	return 0
}

// bytes N: N times x on stdout, without a newline.
func bytes(args []string) int {
	chunk := []byte(strings.Repeat("x", 1<<16))
	for left := number(args, 0); left > 0; left -= len(chunk) {
		if _, err := os.Stdout.Write(chunk[:min(left, len(chunk))]); err != nil {
			return fail(err)
		}
	}
	return 0
}

// cat: stdin to stdout, then "EOF".
func cat([]string) int {
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		return fail(err)
	}
	fmt.Println("EOF")
	return 0
}

// orphans N: N processes whose parent is gone before they end.
func orphans(args []string) int {
	for range number(args, 0) {
		if err := exec.Command("/proc/self/exe", "orphan", "parent").Run(); err != nil {
			return fail(err)
		}
	}
	fmt.Println("made", number(args, 0), "orphans")
	return 0
}

func orphan(args []string) int {
	if len(args) == 0 {
		time.Sleep(50 * time.Millisecond)
		return 0
	}
	if err := exec.Command("/proc/self/exe", "orphan").Start(); err != nil {
		return fail(err)
	}
	return 0
}

// zombies: how many processes of this PID namespace are zombies.
func zombies([]string) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	n := 0
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		after := string(raw[strings.LastIndexByte(string(raw), ')')+1:])
		if strings.HasPrefix(strings.TrimSpace(after), "Z") {
			n++
		}
	}
	fmt.Println(n)
	return 0
}

// fds: every open descriptor and what it is.
func fds([]string) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fail(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			fmt.Println(e.Name(), target)
		}
	}
	return 0
}

func id([]string) int {
	groups, err := os.Getgroups()
	if err != nil {
		return fail(err)
	}
	fmt.Println("uid", os.Getuid(), "gid", os.Getgid(), "groups", groups)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fail(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") || strings.HasPrefix(line, "Seccomp") {
			fmt.Print(line)
		}
	}
	return 0
}

func ls(args []string) int {
	for _, dir := range args {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fail(err)
		}
		for _, e := range entries {
			fmt.Println(e.Name())
		}
	}
	return 0
}

func read(args []string) int {
	for _, path := range args {
		data, err := os.ReadFile(path)
		if err != nil {
			return fail(err)
		}
		os.Stdout.Write(data)
	}
	return 0
}

// write FILE TEXT
func write(args []string) int {
	if err := os.WriteFile(args[0], []byte(args[1]), 0o644); err != nil {
		return fail(err)
	}
	return 0
}

// hog MiB: touches that much memory.
func hog(args []string) int {
	fmt.Println("touched", len(touched(number(args, 0))))
	return 0
}

// touched is so much memory, with each page written to.
func touched(mib int) []byte {
	memory := make([]byte, mib<<20)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	return memory
}

// serve PORT [MIB]: answers each connection with one line, then repeats what it
// gets, and meanwhile has that much memory in use.
func serve(args []string) int {
	held := touched(number(args, 1))
	defer runtime.KeepAlive(held)
	l, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		return fail(err)
	}
	fmt.Println("serving on", args[0])
	for {
		c, err := l.Accept()
		if err != nil {
			return fail(err)
		}
		go func() {
			defer c.Close()
			fmt.Fprintln(c, "hello from testbox")
			io.Copy(c, c)
		}()
	}
}

// hold SECONDS: ends at once and leaves a child that holds stdout that long.
func hold(args []string) int {
	child := exec.Command("/proc/self/exe", "sleep", args[0])
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return fail(err)
	}
	fmt.Println("held")
	return 0
}

// tree SECONDS: three generations that sleep, each in a session of its own.
func tree(args []string) int {
	if depth := number(args, 1); depth < 2 {
		child := exec.Command("/proc/self/exe", "tree", args[0], strconv.Itoa(depth+1))
		child.Stdout = os.Stdout
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			return fail(err)
		}
	}
	time.Sleep(time.Duration(number(args, 0)) * time.Second)
	return 0
}

// tty: whether stdin is a terminal, and its size, again at each change.
func tty([]string) int {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	for {
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println("no terminal")
			return 1
		}
		fmt.Printf("terminal %dx%d\n", size.Col, size.Row)
		if len(os.Args) < 3 {
			return 0
		}
		<-changed
	}
}
