// SPDX-License-Identifier: Apache-2.0

// Package monitor is both ends of the protocol between the daemon and
// cri-monitor, the one small process per node that parents every container: it
// holds their stdio, writes their CRI logs, reaps them and keeps their exits
// until the daemon has taken notice. The daemon may stop, crash or be replaced
// at any time; containers notice nothing.
//
// # Invariants
//
//   - The monitor runs the argv it is handed and knows nothing of OCI runtimes,
//     images or pods.
//   - Stdio are named pipes the container has open for reading and writing: when
//     nobody reads, it waits, and never sees EPIPE. A successor opens them by
//     path. Terminals come back from the client, which holds a second copy of
//     every descriptor, or from the service manager's store, where there is one
//     (fdstore.go).
//   - Reading output and writing it to the log is one step (journal.go): a
//     monitor killed anywhere loses no byte and doubles none.
//   - An exit is published after the container's last output is in its log, is
//     appended to the exit log before that, and is sent again on every
//     connection until it is acknowledged. A log whose file system does not answer
//     is waited for some seconds, and completed later.
//   - Neither a slow client nor a log that can't be written stops a container:
//     the first is dropped, the second loses what can't be written. A log that
//     hangs stops the container's writes and nothing else.
//   - Processes are signalled by pidfd, never by a bare number.
//
// It does not restart anything, keeps nothing over a reboot, and does not
// rotate logs: the kubelet does, and says ReopenLog.
//
// # Protocol
//
// SOCK_SEQPACKET, one JSON object per packet (protocol.go: packet), at most
// 64 KiB, descriptors by SCM_RIGHTS in the order the field fds names them. The
// client chooses req, the answer repeats it and has err or the fields below;
// events have no req. A side speaks version N and N-1.
//
//	request       from the client             answer
//	hello         hello{version,oldest}       hello{version,instance,exit_log,pid}; comes first
//	list          next, want_fds              running[{id,pid,start_time,orphan,fds}], next; fds
//	adopt         id, status; kept fds        –         (an orphan: its terminal, how it ended)
//	subscribe                                 –         (adoption is done; exits from here on)
//	launch        launch                      running[1]; fds pidfd stdin stdout stderr | tty
//	exec          exec; fds stdio             session, running[1]; fds pidfd, tty
//	cancel        seq: the request's number   –         (of a launch or exec under way)
//	ack           seq                         –         (all exits up to it)
//	attach        id, attach                  session; fds stdin stdout stderr
//	detach        session, unused             –
//	detach_stdin  session                     –
//	resize        id, width, height           –
//	close_stdin   id                          –
//	reopen_log    id                          –
//	signal        id, signal                  –
//	forget        id                          –
//	upgrade                                   –         (from the new image)
//
//	event         from the monitor
//	exit          exit{seq,id,…}              a container ended; to subscribers
//	session_exit  session, exit               an exec ended; to its client
//	detached      session, reason             an attachment ended; reason: it was dropped
//	stdin_closed  id                          drop your write ends; to subscribers
//
// # The monitor's directory
//
//	lock                 flock of the living monitor
//	journal              batches between pipe and log
//	exits.log            exits not acknowledged yet
//	ttyN                 console sockets, while a launch is under way
//	ID/state.json        record of a container, from before its launch to its exit
//	ID/exit.json         its exit, from before the reap to the exit log
//	ID/std{in,out,err}   named pipes, mode 0600, owned by the container's user
//	ID/tail              unfinished last lines
package monitor
