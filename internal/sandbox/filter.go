package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// never are system calls that no part of this program uses, and that look into other processes, load code into the kernel, change what
// others see of the machine, or go around the other controls: Landlock's TCP rules know no Multipath TCP, and an io_uring makes sockets
// without asking a filter.
var never = []uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PERF_EVENT_OPEN, unix.SYS_BPF, unix.SYS_USERFAULTFD,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_OPEN_TREE, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS, unix.SYS_UNSHARE,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_IO_URING_SETUP, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
}

// arches that the filter is written for. A call of another architecture's table (32 bits on amd64) is refused as a whole.
var arches = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

const x32 = 0x40000000 // amd64's third table

// filter refuses with EPERM what is in never, and Multipath TCP as if it were not there, on the calling thread and all that it makes.
func filter() error {
	arch, ok := arches[runtime.GOARCH]
	if !ok {
		return nil
	}
	const (
		nr, archAt, protocol = 0, 4, 32 // offsets in struct seccomp_data: the number, the architecture, the low half of the third argument
		load                 = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal                = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least                = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer               = unix.BPF_RET | unix.BPF_K
		refuse               = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	)
	p := []unix.SockFilter{
		{Code: load, K: archAt},
		{Code: equal, Jt: 1, K: arch},
		{Code: answer, K: refuse},
		{Code: load, K: nr},
		{Code: least, Jf: 1, K: x32},
		{Code: answer, K: refuse},
		{Code: equal, Jf: 4, K: unix.SYS_SOCKET},
		{Code: load, K: protocol},
		{Code: equal, Jf: 1, K: unix.IPPROTO_MPTCP},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
	for _, n := range never {
		p = append(p, unix.SockFilter{Code: equal, Jf: 1, K: n}, unix.SockFilter{Code: answer, K: refuse})
	}
	p = append(p, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("a filter of system calls: %w", errno)
	}
	return nil
}
