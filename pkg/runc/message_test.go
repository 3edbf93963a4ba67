// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

// TestMessages: what runc 1.5 and crun 1.28 said of what users get wrong, in logs of
// either form, is found and has a class.
func TestMessages(t *testing.T) {
	for log, want := range map[string]struct {
		message string
		class   error
	}{
		`{"level":"error","msg":"runc run failed: unable to start container process: error during container init: exec: \"nope\": executable file not found in $PATH","time":"2026"}`: {"runc run failed: unable to start container process: error during container init: exec: \"nope\": executable file not found in $PATH", errdefs.ErrInvalidArgument},
		"{\"level\":\"warning\",\"msg\":\"x\"}\n{\"level\":\"error\",\"msg\":\"exec failed: unable to start container process: exec: \\\"/dir\\\": is a directory\"}\n":               {"exec failed: unable to start container process: exec: \"/dir\": is a directory", errdefs.ErrInvalidArgument},
		`{"level":"error","msg":"exec failed: unable to start container process: chdir to cwd (\"/x\") set in config.json failed: not a directory"}`:                                  {"exec failed: unable to start container process: chdir to cwd (\"/x\") set in config.json failed: not a directory", errdefs.ErrInvalidArgument},
		"exec /bin/garbage: exec format error":        {"exec /bin/garbage: exec format error", errdefs.ErrInvalidArgument},
		"exec /bin/script: no such file or directory": {"exec /bin/script: no such file or directory", errdefs.ErrInvalidArgument},
		"{\n  \"msg\": \"executable file `nope` not found in $PATH: No such file or directory\",\n  \"level\": \"error\",\n  \"time\": \"2026\"\n}\n":                                              {"executable file `nope` not found in $PATH: No such file or directory", errdefs.ErrInvalidArgument},
		"{\n  \"msg\": \"the path `\\/dir` is not a regular file: Operation not permitted\",\n  \"level\": \"error\"\n}\n":                                                                         {"the path `/dir` is not a regular file: Operation not permitted", errdefs.ErrInvalidArgument},
		"{\n  \"msg\": \"the path `\\/x` exists but it is not executable: Operation not permitted\",\n  \"level\": \"error\"\n}":                                                                   {"the path `/x` exists but it is not executable: Operation not permitted", errdefs.ErrInvalidArgument},
		"{\n  \"msg\": \"chdir to `\\/x`: Not a directory\",\n  \"level\": \"error\"\n}":                                                                                                           {"chdir to `/x`: Not a directory", errdefs.ErrInvalidArgument},
		"{\n  \"msg\": \"the container `t2` is not running\",\n  \"level\": \"error\"\n}":                                                                                                          {"the container `t2` is not running", errdefs.ErrFailedPrecondition},
		"{\n  \"msg\": \"container `x` does not exist: open `\\/run\\/x\\/status`: No such file or directory\",\n  \"level\": \"error\"\n}":                                                        {"container `x` does not exist: open `/run/x/status`: No such file or directory", errdefs.ErrNotFound},
		`{"level":"error","msg":"container does not exist"}`:                                                                                                                                       {"container does not exist", errdefs.ErrNotFound},
		`{"level":"error","msg":"runc run failed: unable to start container process: unable to apply cgroup configuration: mkdir /sys/fs/cgroup/x: read-only file system"}`:                        {"runc run failed: unable to start container process: unable to apply cgroup configuration: mkdir /sys/fs/cgroup/x: read-only file system", nil},
		`{"level":"error","msg":"runc run failed: unable to start container process: unable to set unit properties: read unix @->/run/dbus/system_bus_socket: recvmsg: connection reset by peer"}`: {"runc run failed: unable to start container process: unable to set unit properties: read unix @->/run/dbus/system_bus_socket: recvmsg: connection reset by peer", errdefs.ErrUnavailable},
		`{"level":"error","msg":"sd-bus call: Connection reset by peer"}`:                                                                                                                          {"sd-bus call: Connection reset by peer", errdefs.ErrUnavailable},
		`{"level":"info","msg":"fine"}`: {"", nil},
		"{ not JSON\nlast line\n\n":     {"last line", nil},
		"":                              {"", nil},
	} {
		message := lastMessage([]byte(log))
		if message != want.message {
			t.Errorf("%s: message is %q", log, message)
		}
		if class := classOf(message); !errors.Is(class, want.class) || (class == nil) != (want.class == nil) {
			t.Errorf("%s: class is %v, want %v", log, class, want.class)
		}
	}
}
