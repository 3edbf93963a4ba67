// SPDX-License-Identifier: Apache-2.0

// Package wire is what the daemon and cri-monitor say to each other: packets, the
// descriptors that come with them, and the classes of errors. It holds no state.
//
// A packet is at most 64 KiB; a longer one is refused by its sender,
// and discarded by its receiver. Fields and names stay as long as a peer of
// the version before may speak them.
//
// # Protocol
//
// SOCK_SEQPACKET, one JSON object per packet (Packet), descriptors by SCM_RIGHTS
// in the order the field fds names them. The client chooses req, the answer repeats it and has err or the fields below;
// events have no req. A side speaks version N and N-1.
//
//	request       from the client             answer
//	hello         hello{version,oldest,build} hello{version,instance,exit_log,pid,build,executable}; comes first
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
//	shutdown                                  –         (refused while containers run)
//
//	event         from the monitor
//	exit          exit{seq,id,…}              a container ended; to subscribers
//	session_exit  session, exit               an exec ended; to its client
//	detached      session, reason             an attachment ended; reason: it was dropped
//	stdin_closed  id                          drop your write ends; to subscribers
package wire
