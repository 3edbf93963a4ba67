// SPDX-License-Identifier: Apache-2.0
//go:build ignore

// The pod's infra process: it holds the pod's namespaces and, when it is PID 1
// of a shared PID namespace, reaps what its neighbours leave behind. It ends
// with status 0 on SIGTERM or SIGINT and on nothing else short of SIGKILL.
//
// Freestanding on purpose: no libc, no argv, no environment, no data segment,
// so that an idle pod costs a text page and a stack. (The build line above only
// keeps the Go tool from taking this file for cgo; build.sh compiles it.)

#if defined(__x86_64__)
enum { NR_SIGPROCMASK = 14, NR_EXIT_GROUP = 231, NR_WAIT4 = 61, NR_SIGTIMEDWAIT = 128 };

static inline long sys(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
enum { NR_SIGPROCMASK = 135, NR_EXIT_GROUP = 94, NR_WAIT4 = 260, NR_SIGTIMEDWAIT = 137 };

static inline long sys(long nr, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#else
#error "pause: unknown architecture"
#endif

// The numbers are the same on every architecture with the generic layout.
enum { SIGINT_ = 2, SIGTERM_ = 15, SIGCHLD_ = 17, SIG_BLOCK_ = 0, WNOHANG_ = 1, WALL_ = 0x40000000 };

#define BIT(sig) (1UL << ((sig)-1))

__attribute__((noreturn)) void _start(void)
{
	unsigned long set = BIT(SIGINT_) | BIT(SIGTERM_) | BIT(SIGCHLD_);

	// Blocked signals stay pending even for PID 1, which otherwise never gets
	// a signal it has no handler for, and whatever disposition was inherited.
	sys(NR_SIGPROCMASK, SIG_BLOCK_, (long)&set, 0, sizeof set);
	for (;;) {
		// First reap, then wait: what died before the mask was in place
		// left no signal. One pending SIGCHLD may stand for many children.
		while (sys(NR_WAIT4, -1, 0, WNOHANG_ | WALL_, 0) > 0)
			;
		long sig = sys(NR_SIGTIMEDWAIT, (long)&set, 0, 0, sizeof set);
		if (sig == SIGTERM_ || sig == SIGINT_)
			for (;;)
				sys(NR_EXIT_GROUP, 0, 0, 0, 0);
	}
}
