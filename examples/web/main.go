// SPDX-License-Identifier: Apache-2.0

// Command web is what the demo runs in its pod: a web server that logs each request, and a few small tools beside it,
// since its image holds nothing else, not even a shell.
//
//	web [serve]      serve a page on port 8080
//	web get URL      print a page
//	web ps           list the processes of this PID namespace
//	web orphans N    leave N orphans to PID 1 and see what becomes of them
//	web sleep        wait for TERM
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	args := append(os.Args[1:], "serve")
	tools := map[string]func() error{
		"serve":   func() error { return serve(ctx) },
		"get":     func() error { return get(ctx, args[1]) },
		"ps":      ps,
		"orphans": func() error { return orphans(args[1]) },
		"parent":  func() error { return exec.Command("/proc/self/exe", "orphan").Start() },
		"orphan":  func() error { time.Sleep(500 * time.Millisecond); return nil },
		"sleep":   func() error { <-ctx.Done(); return nil },
	}
	tool, ok := tools[args[0]]
	if !ok {
		log.Fatalf("web: no such tool: %s", args[0])
	}
	if err := tool(); err != nil {
		log.Fatalf("web: %v", err)
	}
}

const page = "<!doctype html>\n<title>cri-shim</title>\n<h1>It runs.</h1>\n<p>Served by %s, process %d, to %s.\n"

func serve(ctx context.Context) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	s := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, page, name, os.Getpid(), from)
		fmt.Printf("%s %s for %s from %s\n", r.Method, r.URL.Path, r.Host, from)
	})}
	go func() {
		<-ctx.Done()
		_ = s.Close()
	}()
	fmt.Println("serving on port 8080")
	if err := s.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	fmt.Println("terminated")
	return nil
}

// get retries for a while: the server next door may still be starting.
func get(ctx context.Context, url string) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(req)
		if err == nil {
			defer answer.Body.Close()
			_, err = io.Copy(os.Stdout, answer.Body)
			return err
		}
		if time.Now().After(end) {
			return err
		}
	}
}

// process is a line of /proc/N/stat.
type process struct {
	pid, parent int
	name, state string
}

func processes() ([]process, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var list []process
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			continue // it ended in between
		}
		line := string(data)
		fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
		pid, _ := strconv.Atoi(line[:strings.IndexByte(line, ' ')])
		parent, _ := strconv.Atoi(fields[1])
		list = append(list, process{pid, parent, line[strings.IndexByte(line, '(')+1 : strings.LastIndexByte(line, ')')], fields[0]})
	}
	return list, nil
}

func ps() error {
	list, err := processes()
	if err != nil {
		return err
	}
	fmt.Println("  PID  PPID S NAME")
	for _, p := range list {
		fmt.Printf("%5d %5d %s %s\n", p.pid, p.parent, p.state, p.name)
	}
	return nil
}

// orphans starts N processes that each start one more and end at once. What they leave belongs to PID 1, and stays a
// zombie unless PID 1 reaps it.
func orphans(count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for range n {
		if err := exec.Command("/proc/self/exe", "parent").Run(); err != nil {
			return err
		}
	}
	most, left := 0, n
	for end := time.Now().Add(5 * time.Second); left > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		list, err := processes()
		if err != nil {
			return err
		}
		left = 0
		for _, p := range list {
			if p.parent == 1 && p.pid != os.Getpid() && (p.name == "exe" || p.state == "Z") {
				left++
			}
		}
		most = max(most, left)
	}
	fmt.Printf("%d orphans left to PID 1, up to %d at once; zombies now: %d\n", n, most, left)
	return nil
}
