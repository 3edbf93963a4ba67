// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
)

// Limits of what is spoken.
const (
	Version      = 1       // N; a peer may also speak N-1
	MaxPacket    = 1 << 16 // bytes; a longer packet is answered with an error and thrown away
	maxPacketFDs = 250     // SCM_MAX_FD is 253
)

// Op names what a packet asks for or tells; the table is in the package doc.
type Op string

// What a client asks for, and below that what the monitor tells unasked.
const (
	OpHello       Op = "hello"
	OpSubscribe   Op = "subscribe"
	OpLaunch      Op = "launch"
	OpExec        Op = "exec"
	OpCancel      Op = "cancel"
	OpList        Op = "list"
	OpAdopt       Op = "adopt"
	OpAck         Op = "ack"
	OpAttach      Op = "attach"
	OpDetach      Op = "detach"
	OpDetachStdin Op = "detach_stdin"
	OpResize      Op = "resize"
	OpCloseStdin  Op = "close_stdin"
	OpReopenLog   Op = "reopen_log"
	OpSignal      Op = "signal"
	OpForget      Op = "forget"
	OpUpgrade     Op = "upgrade"
	OpShutdown    Op = "shutdown"

	OpExit        Op = "exit"         // event: a container ended
	OpSessionExit Op = "session_exit" // event: an exec session ended
	OpDetached    Op = "detached"     // event: an attachment ended
	OpStdinClosed Op = "stdin_closed" // event: drop your descriptor of the stdin pipe
)

// Packet is every message in both directions. Req is chosen by the client and
// comes back in the answer; events have none.
type Packet struct {
	Op            Op           `json:"op"`
	Req           uint64       `json:"req,omitempty"`
	Err           *Error       `json:"err,omitempty"`
	ID            string       `json:"id,omitempty"`
	Session       uint64       `json:"session,omitempty"`
	FDs           []FDKind     `json:"fds,omitempty"` // what each descriptor of this packet is
	Hello         *Hello       `json:"hello,omitempty"`
	Launch        *Launch      `json:"launch,omitempty"`
	Exec          *ExecRequest `json:"exec,omitempty"`
	Running       []Listed     `json:"running,omitempty"`
	Next          string       `json:"next,omitempty"`     // list: go on after this id
	WantFDs       bool         `json:"want_fds,omitempty"` // list: with descriptors
	AfterLaunches bool         `json:"settled,omitempty"`  // list: answer when no launch, of ID if there is one, is under way
	Exit          *Exit        `json:"exit,omitempty"`
	Seq           uint64       `json:"seq,omitempty"`
	Attach        *Attach      `json:"attach,omitempty"`
	Width         uint16       `json:"width,omitempty"`
	Height        uint16       `json:"height,omitempty"`
	Signal        int          `json:"signal,omitempty"`
	Reason        string       `json:"reason,omitempty"`
	Unused        bool         `json:"unused,omitempty"` // detach: the client had given up before it was attached
	Status        *int         `json:"status,omitempty"` // adopt: wait status the client learned
}

// Hello opens a connection; the monitor answers with the version to use.
type Hello struct {
	Version  int    `json:"version"`            // client: newest it speaks; monitor: the one chosen
	Oldest   int    `json:"oldest"`             // oldest it speaks
	Instance string `json:"instance,omitempty"` // monitor: changes with every process but not with an upgrade
	ExitLog  string `json:"exit_log,omitempty"` // monitor: changes when sequence numbers start anew
	PID      int    `json:"pid,omitempty"`
	// Build is the sender's. A client has only a version.
	Build *Build `json:"build,omitempty"`
	// Executable is the path of what the monitor executes for an upgrade; "": it is not known.
	Executable string `json:"executable,omitempty"`
}

// FDKind says what a descriptor is.
type FDKind string

// The kinds of descriptors.
const (
	Pidfd  FDKind = "pidfd"
	Stdin  FDKind = "stdin"
	Stdout FDKind = "stdout"
	Stderr FDKind = "stderr"
	TTY    FDKind = "tty" // pty master
)

// ExecRequest is an exec without its files.
type ExecRequest struct {
	Argv     []string `json:"argv"`
	Env      []string `json:"env,omitempty"`
	Dir      string   `json:"dir,omitempty"`
	PidFile  string   `json:"pid_file,omitempty"`
	Terminal bool     `json:"terminal,omitempty"`
	// OOMScoreAdj is what argv, and what it starts, begins with; nil is what a monitor gives whatever it starts.
	OOMScoreAdj *int `json:"oom_score_adj,omitempty"`
}

// Listed is one container in an answer to list; its descriptors are the next
// len(FDs) of the packet.
type Listed struct {
	Running
	Orphan bool     `json:"orphan,omitempty"` // taken over from a dead monitor: Adopt may help
	FDs    []FDKind `json:"fds,omitempty"`
}

// Launch describes a container to start: a program that starts it, stays its
// parent no longer than it has to, and exits 0 once it runs.
type Launch struct {
	ID      string   `json:"id"`
	Argv    []string `json:"argv"` // Argv[0] is an absolute path; the element "{console}" becomes the console socket's
	Env     []string `json:"env,omitempty"`
	Dir     string   `json:"dir,omitempty"`
	PidFile string   `json:"pid_file"` // written by the program: the container's first process, as a host pid

	// Wait is for containers that are no process of this machine, in place of PidFile: the argv of a program that ends when
	// the container has, and says how in one line of JSON on its standard output, as {"exitStatus":3}. That program stands
	// for the container: it is what is watched, and its pid is what is called the container's.
	Wait []string `json:"wait,omitempty"`

	LogPath string `json:"log_path,omitempty"` // CRI log; "" throws output away
	// LogDir is the pod's log directory, in which LogPath lies: below it no symbolic link is followed. "" follows those
	// that do not stand at LogPath itself.
	LogDir string `json:"log_dir,omitempty"`

	Stdio     bool `json:"stdio,omitempty"` // false: /dev/null on all three
	Terminal  bool `json:"terminal,omitempty"`
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdin_once,omitempty"`
	UID       int  `json:"uid,omitempty"` // host owner of the pipes
	GID       int  `json:"gid,omitempty"`
	// Label is the SELinux context of the pipes, "" for that of the folder they are in.
	Label string `json:"label,omitempty"`

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
	Unknown bool      `json:"unknown,omitempty"` // no monitor watched it
}

// Attach chooses the streams of an Attachment.
type Attach struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// NewName returns a name for Instance or ExitLog, which nothing had before. The
// runtime's generator is seeded by the kernel; crypto/rand would be a tenth of
// the monitor's binary.
func NewName() string { return strconv.FormatUint(rand.Uint64(), 36) }

// Negotiate picks the version both sides speak.
func Negotiate(client Hello) (int, error) {
	v := min(client.Version, Version)
	if v < client.Oldest || v < Version-1 || v < 1 {
		return 0, InvalidArgument(fmt.Errorf("agree on protocol: client speaks %d to %d, monitor %d to %d",
			client.Oldest, client.Version, Version-1, Version))
	}
	return v, nil
}

// Encode is the packet's text, at most MaxPacket bytes.
func (p *Packet) Encode() ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, InvalidArgument(fmt.Errorf("encode %s: %w", p.Op, err))
	}
	if len(b) > MaxPacket {
		return nil, InvalidArgument(fmt.Errorf("encode %s: %d bytes, at most %d fit", p.Op, len(b), MaxPacket))
	}
	return b, nil
}

// Decode is the packet of a text.
func Decode(b []byte) (*Packet, error) {
	p := new(Packet)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, InvalidArgument(fmt.Errorf("decode packet: %w", err))
	}
	return p, nil
}
