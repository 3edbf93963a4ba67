// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"encoding/json"
	"fmt"
	"time"
)

const (
	protocolVersion = 1       // N; a peer may also speak N-1
	maxPacket       = 1 << 16 // bytes; a longer packet is answered with an error and thrown away
	maxPacketFDs    = 250     // SCM_MAX_FD is 253
)

// op names what a packet asks for or tells; the table is in the package doc.
type op string

const (
	opHello       op = "hello"
	opSubscribe   op = "subscribe"
	opLaunch      op = "launch"
	opExec        op = "exec"
	opCancel      op = "cancel"
	opList        op = "list"
	opAdopt       op = "adopt"
	opAck         op = "ack"
	opAttach      op = "attach"
	opDetach      op = "detach"
	opDetachStdin op = "detach_stdin"
	opResize      op = "resize"
	opStdin       op = "close_stdin"
	opReopen      op = "reopen_log"
	opSignal      op = "signal"
	opForget      op = "forget"
	opUpgrade     op = "upgrade"
	opShutdown    op = "shutdown"

	opExit        op = "exit"         // event: a container ended
	opSessionExit op = "session_exit" // event: an exec session ended
	opDetached    op = "detached"     // event: an attachment ended
	opStdinClosed op = "stdin_closed" // event: drop your descriptor of the stdin pipe
)

// packet is every message in both directions. Req is chosen by the client and
// comes back in the answer; events have none.
type packet struct {
	Op      op             `json:"op"`
	Req     uint64         `json:"req,omitempty"`
	Err     *wireError     `json:"err,omitempty"`
	ID      string         `json:"id,omitempty"`
	Session uint64         `json:"session,omitempty"`
	FDs     []fdKind       `json:"fds,omitempty"` // what each descriptor of this packet is
	Hello   *hello         `json:"hello,omitempty"`
	Launch  *Launch        `json:"launch,omitempty"`
	Exec    *execRequest   `json:"exec,omitempty"`
	Running []listed       `json:"running,omitempty"`
	Next    string         `json:"next,omitempty"`     // list: go on after this id
	WantFDs bool           `json:"want_fds,omitempty"` // list: with descriptors
	Settled bool           `json:"settled,omitempty"`  // list: answer when no launch, of ID if there is one, is under way
	Exit    *Exit          `json:"exit,omitempty"`
	Seq     uint64         `json:"seq,omitempty"`
	Attach  *AttachOptions `json:"attach,omitempty"`
	Width   uint16         `json:"width,omitempty"`
	Height  uint16         `json:"height,omitempty"`
	Signal  int            `json:"signal,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Unused  bool           `json:"unused,omitempty"` // detach: the client had given up before it was attached
	Status  *int           `json:"status,omitempty"` // adopt: wait status the client learned
}

// hello opens a connection; the monitor answers with the version to use.
type hello struct {
	Version  int    `json:"version"`            // client: newest it speaks; monitor: the one chosen
	Oldest   int    `json:"oldest"`             // oldest it speaks
	Instance string `json:"instance,omitempty"` // monitor: changes with every process but not with an upgrade
	ExitLog  string `json:"exit_log,omitempty"` // monitor: changes when sequence numbers start anew
	PID      int    `json:"pid,omitempty"`
}

// fdKind says what a descriptor is.
type fdKind string

const (
	fdPidfd  fdKind = "pidfd"
	fdStdin  fdKind = "stdin"
	fdStdout fdKind = "stdout"
	fdStderr fdKind = "stderr"
	fdTTY    fdKind = "tty" // pty master
)

// execRequest is Exec without its files.
type execRequest struct {
	Argv     []string `json:"argv"`
	Env      []string `json:"env,omitempty"`
	Dir      string   `json:"dir,omitempty"`
	PidFile  string   `json:"pid_file,omitempty"`
	Terminal bool     `json:"terminal,omitempty"`
}

// listed is one container in an answer to list; its descriptors are the next
// len(FDs) of the packet.
type listed struct {
	Running
	Orphan bool     `json:"orphan,omitempty"` // taken over from a dead monitor: Adopt may help
	FDs    []fdKind `json:"fds,omitempty"`
}

// Launch describes a container to start: a program that starts it, stays its
// parent no longer than it has to, and exits 0 once it runs.
type Launch struct {
	ID      string   `json:"id"`
	Argv    []string `json:"argv"` // Argv[0] is an absolute path; the element "{console}" becomes the console socket's
	Env     []string `json:"env,omitempty"`
	Dir     string   `json:"dir,omitempty"`
	PidFile string   `json:"pid_file"` // written by the program: the container's first process, as a host pid

	// RuntimeLog is where the program reports errors. It is the caller's to read: the monitor does not.
	RuntimeLog string `json:"runtime_log,omitempty"`
	LogPath    string `json:"log_path,omitempty"` // CRI log; "" throws output away
	// LogDir is the pod's log directory, in which LogPath lies: below it no symbolic link is followed. "" follows those
	// that do not stand at LogPath itself.
	LogDir string `json:"log_dir,omitempty"`

	Stdio     bool `json:"stdio,omitempty"` // false: /dev/null on all three
	Terminal  bool `json:"terminal,omitempty"`
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdin_once,omitempty"`
	UID       int  `json:"uid,omitempty"` // host owner of the pipes
	GID       int  `json:"gid,omitempty"`

	Cgroups []string `json:"cgroups,omitempty"` // host directories: OOM counters, KillAll
	// KillAll ends what is left in Cgroups when the first process has ended (shared PID namespace).
	KillAll bool `json:"kill_all,omitempty"`
}

// Launched names the container's first process for good.
type Launched struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time,omitempty"` // clock ticks since boot; 0: it has ended already
}

// Running is a container the monitor watches.
type Running struct {
	ID string `json:"id"`
	Launched
}

// Exit is how a container ended.
type Exit struct {
	Seq     uint64    `json:"seq,omitempty"`
	ID      string    `json:"id"`
	Pid     int       `json:"pid"`
	Code    int       `json:"code"` // 128+Signal when a signal ended it; 255 when Unknown
	Signal  int       `json:"signal,omitempty"`
	OOM     bool      `json:"oom,omitempty"`
	Time    time.Time `json:"time"`
	Unknown bool      `json:"unknown,omitempty"` // nobody was there to see it
}

// AttachOptions choose the streams of an Attachment.
type AttachOptions struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// negotiate picks the version both sides speak.
func negotiate(client hello) (int, error) {
	v := min(client.Version, protocolVersion)
	if v < client.Oldest || v < protocolVersion-1 || v < 1 {
		return 0, invalidArgument{fmt.Errorf("agree on protocol: client speaks %d to %d, monitor %d to %d",
			client.Oldest, client.Version, protocolVersion-1, protocolVersion)}
	}
	return v, nil
}

func (p *packet) encode() ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, invalidArgument{fmt.Errorf("encode %s: %w", p.Op, err)}
	}
	if len(b) > maxPacket {
		return nil, invalidArgument{fmt.Errorf("encode %s: %d bytes, at most %d fit", p.Op, len(b), maxPacket)}
	}
	return b, nil
}

func decode(b []byte) (*packet, error) {
	p := new(packet)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, invalidArgument{fmt.Errorf("decode packet: %w", err)}
	}
	return p, nil
}
