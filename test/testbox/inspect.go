// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mkdir PATH
func mkdir(args []string) int {
	if err := os.Mkdir(args[0], 0o755); err != nil {
		return fail(err)
	}
	return 0
}

// deepen PATH DEPTH LENGTH: directories inside each other, with names of LENGTH bytes and a file in every hundredth.
func deepen(args []string) int {
	name := strings.Repeat("d", number(args, 2))
	err := os.Mkdir(args[0], 0o755)
	if err == nil {
		err = os.Chdir(args[0])
	}
	for i := 0; err == nil && i < number(args, 1); i++ {
		if i%100 == 0 {
			err = os.WriteFile("file", []byte("x"), 0o600)
		}
		if err == nil {
			err = unix.Mkdir(name, 0o755)
		}
		if err == nil {
			err = unix.Chdir(name) // os.Chdir asks where it is, which no path says
		}
	}
	if err != nil {
		return fail(err)
	}
	fmt.Println("deep")
	return 0
}

// files PATH NUMBER: that many empty files in a new directory.
func files(args []string) int {
	err := os.Mkdir(args[0], 0o755)
	for i := 0; err == nil && i < number(args, 1); i++ {
		err = unix.Mknod(filepath.Join(args[0], strconv.Itoa(i)), unix.S_IFREG|0o600, 0)
	}
	if err != nil {
		return fail(err)
	}
	return 0
}

// stat PATH...: owner, group, mode, and the device numbers of device nodes.
func stat(args []string) int {
	for _, path := range args {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fail(err)
		}
		fmt.Printf("%s uid=%d gid=%d mode=%o rdev=%d:%d\n", path, st.Uid, st.Gid, st.Mode&0o7777, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return 0
}

// ns: the namespaces this process is in, and its host name.
func namespaces([]string) int {
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		target, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return fail(err)
		}
		fmt.Println(target)
	}
	name, err := os.Hostname()
	if err != nil {
		return fail(err)
	}
	fmt.Println("hostname", name)
	return 0
}

// realTime is SIGRTMIN+3, as the C library counts.
const realTime = syscall.Signal(34 + 3)

// trap: waits for a signal, names it and ends with 40.
func trap([]string) int {
	all := make(chan os.Signal, 1)
	signal.Notify(all, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGHUP, unix.SIGWINCH, realTime)
	fmt.Println("trapping")
	got := (<-all).(syscall.Signal)
	name := unix.SignalName(got)
	if name == "" {
		name = strconv.Itoa(int(got))
	}
	fmt.Println("got", name)
	return 40
}

// again: opens /dev/stdout and /dev/stderr by their names, as servers do with
// their log files, and writes to them.
func again([]string) int {
	for _, path := range []string{"/dev/stdout", "/dev/stderr"} {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return fail(err)
		}
		if _, err := fmt.Fprintln(f, "again", path); err != nil {
			return fail(err)
		}
	}
	return 0
}

// dial HOST:PORT: prints the first line that is answered there.
func dial(args []string) int {
	c, err := net.DialTimeout("tcp", args[0], 5*time.Second)
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return fail(err)
	}
	fmt.Print(line)
	return 0
}
