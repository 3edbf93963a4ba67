// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	fakePlugin = "cri-fake-plugin" // a link of this name to the test binary is a CNI plugin that does as its configuration says
	hostEnv    = "CRI_TEST_HOST"
	crashEnv   = "CRI_TEST_CRASH"
)

// TestMain plays three parts: the fake plugin, the run that is to be killed, and the tests, which have a "host" of their
// own: a network and a mount namespace, so that the machine's network is never touched.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == fakePlugin:
		os.Exit(playPlugin())
	case os.Geteuid() != 0:
		fmt.Println("network tests need root")
		os.Exit(0)
	case os.Getenv(hostEnv) == "":
		os.Exit(rerunOnOwnHost())
	}
	if err := furnishHost(); err != nil {
		fmt.Println("furnish host:", err)
		os.Exit(1)
	}
	if dir := os.Getenv(crashEnv); dir != "" {
		os.Exit(playCrasher(dir))
	}
	os.Exit(m.Run())
}

func rerunOnOwnHost() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), hostEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// furnishHost gives the "host" its loopback and an uplink with a default route.
func furnishHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if _, err := netlink.LinkByName("uplink"); err == nil {
		return nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	up := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "uplink-far"}
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(up), netlink.AddrAdd(up, addr), netlink.LinkSetUp(up),
		netlink.RouteAdd(&netlink.Route{LinkIndex: up.Index, Gw: []byte{192, 0, 2, 254}}))
}

// call is one run of the fake plugin, as it writes it down.
type call struct {
	Command, ContainerID, NetNS, IfName, Args string
	Conf                                      map[string]any
}

// playPlugin: "log": file to write calls to; "result": the answer to ADD; "fail": commands that fail, with "code"; "hang": commands that hang with a
// child that holds their output open too; "slow": commands that take a second, talk, and say at last that they are done;
// "alone": a directory that must not be there when a command begins, and is while it runs.
func playPlugin() int {
	raw, _ := io.ReadAll(os.Stdin)
	c := call{os.Getenv("CNI_COMMAND"), os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_NETNS"), os.Getenv("CNI_IFNAME"), os.Getenv("CNI_ARGS"), nil}
	_ = json.Unmarshal(raw, &c.Conf)
	if name, _ := c.Conf["log"].(string); name != "" {
		line, _ := json.Marshal(c)
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintf(f, "%s\n", line)
			f.Close()
		}
	}
	listed := func(key string) bool {
		s, _ := c.Conf[key].(string)
		return slices.Contains(strings.Fields(s), c.Command)
	}
	if dir, _ := c.Conf["alone"].(string); dir != "" {
		if err := os.Mkdir(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 4
		}
		defer os.Remove(dir)
		time.Sleep(20 * time.Millisecond)
	}
	if listed("slow") {
		time.Sleep(time.Second)
		for range 100 { // to whom it may concern
			fmt.Fprintln(os.Stderr, strings.Repeat("x", 1000))
		}
		name, _ := c.Conf["log"].(string)
		_ = os.WriteFile(name+".done", nil, 0o600)
	}
	switch {
	case listed("hang"):
		child := exec.Command("sleep", "600")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return 3
		}
		name, _ := c.Conf["log"].(string)
		_ = os.WriteFile(name+".child", []byte(strconv.Itoa(child.Process.Pid)), 0o600)
		time.Sleep(10 * time.Minute)
	case listed("crash"):
		fmt.Fprintln(os.Stderr, "panic: oh no")
		return 2
	case listed("fail"):
		code, _ := c.Conf["code"].(float64)
		fmt.Printf(`{"cniVersion":"1.0.0","code":%d,"msg":"refused","details":"by the test"}`, int(code))
		return 1
	case c.Command == "ADD":
		if own, ok := c.Conf["result"]; ok {
			_ = json.NewEncoder(os.Stdout).Encode(own)
		} else if prev, ok := c.Conf["prevResult"]; ok {
			_ = json.NewEncoder(os.Stdout).Encode(prev)
		} else {
			fmt.Print(`{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.7/24"}]}`)
		}
	}
	return 0
}
