// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

// SeccompField is the field of a security context that says what system calls are allowed.
const SeccompField = "linux.security_context.seccomp"

// Seccomp is what this machine has of seccomp.
type Seccomp struct {
	Enabled bool
	Root    string // where relative localhost profiles are looked up; "" = they are refused
	// ReadFile returns a localhost profile. nil: there is no way to read one.
	ReadFile func(path string) ([]byte, error)
}

// Filter builds the filter of a profile, nil for none, against the capabilities in the spec.
func (s Seccomp) Filter(p *cri.SecurityProfile, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	if p == nil || p.GetProfileType() == cri.SecurityProfile_Unconfined {
		return nil, nil
	}
	if !s.Enabled {
		return nil, refusal.Unmet(SeccompField, "this kernel has no seccomp filters")
	}
	if p.GetProfileType() == cri.SecurityProfile_RuntimeDefault {
		return defaultFilter(spec)
	}
	file, err := profilePath(p.GetLocalhostRef(), s.Root)
	if err != nil {
		return nil, err
	}
	if s.ReadFile == nil {
		return nil, refusal.Unmet(SeccompField, "no way to read %s", file)
	}
	raw, err := s.ReadFile(file)
	if err != nil {
		return nil, refusal.Invalid(SeccompField, "read profile %s: %v", file, err)
	}
	built, err := seccomp.LoadProfile(string(raw), spec)
	if err != nil {
		return nil, refusal.Invalid(SeccompField, "parse profile %s: %v", file, err)
	}
	return built, nil
}

// profilePath: the kubelet sends absolute paths, older clients the name below the root.
func profilePath(ref, root string) (string, error) {
	if filepath.IsAbs(ref) {
		return filepath.Clean(ref), nil
	}
	if root == "" || !filepath.IsLocal(ref) {
		return "", refusal.Invalid(SeccompField+".localhost_ref", "%q is neither absolute nor below the profile directory", ref)
	}
	return filepath.Join(root, ref), nil
}

// defaultFilter is the profile every runtime of Kubernetes ships, less the x32 architecture: kernels come without it, or
// with it switched off, and it makes up a third of what loading the filter costs at each start and exec.
func defaultFilter(spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	built, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, refusal.Unmet(SeccompField, "default profile: %v", err)
	}
	built.Architectures = slices.DeleteFunc(built.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	return built, nil
}

// PauseFilter is what RuntimeDefault means for pause: the few system calls that pause makes, and those of the runtime
// between loading the filter and running pause, for the machine's own architecture. It is both stricter than the profile
// for containers and much cheaper to load, which counts because the kubelet asks for it on every pod.
func PauseFilter() *specs.LinuxSeccomp {
	const calls = `
		access arch_prctl brk capget capset chdir clock_getres clock_gettime clock_nanosleep clone clone3 close close_range
		dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 execve execveat exit exit_group
		faccessat faccessat2 fchdir fcntl fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getgroups getpgid
		getpid getppid getrandom getresgid getresuid getrlimit getsid gettid getuid kill lseek madvise membarrier mincore
		mmap mprotect mremap munmap nanosleep newfstatat open openat openat2 pipe2 poll ppoll prctl pread64 prlimit64
		pwrite64 read readlink readlinkat readv recvfrom recvmsg restart_syscall rseq rt_sigaction rt_sigpending
		rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity
		sched_yield sendmsg sendto set_robust_list set_tid_address setgid setgroups setpgid setresgid setresuid setsid
		setuid sigaltstack stat statfs statx tgkill timer_create timer_delete timer_settime umask uname wait4 waitid write
		writev`
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls:      []specs.LinuxSyscall{{Names: strings.Fields(calls), Action: specs.ActAllow}},
	}
}
