package worker

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// harden makes the process leave no copy of a PIN or key behind (no core, no ptrace, no /proc/self/mem for others of the same user), unable
// to gain privileges, and end with its parent.
//
// BUG(harden): no_new_privs is a property of a thread. It is spread to all threads by installing an empty seccomp filter with TSYNC; where
// seccomp is not available only threads started later from this one have it. The worker runs no other program either way.
func harden() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	for _, p := range []struct {
		what        string
		option, arg uintptr
	}{
		{"PR_SET_PDEATHSIG", unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL)},
		{"PR_SET_DUMPABLE", unix.PR_SET_DUMPABLE, 0},
		{"PR_SET_NO_NEW_PRIVS", unix.PR_SET_NO_NEW_PRIVS, 1},
	} {
		if err := unix.Prctl(int(p.option), p.arg, 0, 0, 0); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
	}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	filter := unix.SockFprog{Len: 1, Filter: &allow}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&filter))); errno != 0 && !errors.Is(errno, unix.ENOSYS) && !errors.Is(errno, unix.EINVAL) && !errors.Is(errno, unix.EPERM) {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
