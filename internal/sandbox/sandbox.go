// Package sandbox takes from a process what it will never need, from inside: files outside a list, TCP ports, new privileges, core dumps,
// and the eyes of other processes of the same user.
//
// Landlock and no-new-privileges belong to a thread, and are inherited by what it clones and executes. A Go program has several threads
// before main runs, and with cgo there is no call that reaches them all (Landlock's own, RESTRICT_SELF_TSYNC, needs ABI 8). So a program
// that wants to confine itself locks one thread, confines that, and executes itself again from it (Reexec): the same process id, the same
// inherited descriptors, and every thread of the new image is confined. A child is confined by starting it from a confined thread.
//
// What can be set is one thing, what holds is another: Held looks, it does not remember.
package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rules say what is left. Paths that do not exist are skipped: a rule is about a file, not about a name. A rule for a directory holds for
// everything beneath it, also for what is made later; one for a file ends when the file is replaced.
type Rules struct {
	Read    []string // read files and directories
	Run     []string // read and execute: programs and libraries
	Write   []string // everything but executing and making devices
	Devices []string // read and write, no more
	Drivers []string // everything that Write gives, and commands to devices (ioctl): an HSM on a bus
	Bind    []uint16 // TCP ports that may be bound; 0 is "any free port"
	// Connect leaves outgoing TCP alone, for an HSM in the network. Otherwise there is none.
	Connect bool
	// Abstract leaves abstract UNIX sockets outside alone.
	Abstract bool
}

const (
	read  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	run   = read | unix.LANDLOCK_ACCESS_FS_EXECUTE
	write = read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	device = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE
	ofFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

const ruleNetPort = 2 // LANDLOCK_RULE_NET_PORT

// ErrUnavailable: this kernel has no Landlock, or it is switched off. Everything else holds nevertheless.
var ErrUnavailable = errors.New("this kernel has no Landlock")

// Restrict confines the calling thread, which the caller locked and never unlocks, and all that it will clone or execute.
func Restrict(r Rules) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return fmt.Errorf("%w: %w", ErrUnavailable, errno)
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: run | write | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO}
	if abi < 2 {
		attr.Handled_access_fs &^= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi < 3 {
		attr.Handled_access_fs &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP
		if !r.Connect {
			attr.Handled_access_net |= unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		}
	}
	if abi >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL
		if !r.Abstract {
			attr.Scoped |= unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		}
	}
	// The kernel takes a longer structure than it knows as long as the rest is zero.
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("making a Landlock ruleset: %w", errno)
	}
	defer unix.Close(int(fd))
	for _, s := range []struct {
		paths  []string
		access uint64
	}{{r.Read, read}, {r.Run, run}, {r.Write, write}, {r.Devices, device}, {r.Drivers, write | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		for _, p := range s.paths {
			if err := allow(int(fd), p, s.access&attr.Handled_access_fs); err != nil {
				return err
			}
		}
	}
	if abi >= 4 {
		for _, port := range r.Bind {
			rule := struct{ access, port uint64 }{unix.LANDLOCK_ACCESS_NET_BIND_TCP, uint64(port)}
			if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, fd, ruleNetPort, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
				return fmt.Errorf("allowing TCP port %d: %w", port, errno)
			}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("restricting with Landlock: %w", errno)
	}
	return nil
}

func allow(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) { // what can't be reached needs no rule; who needs it says so better
		return nil
	}
	if err != nil {
		return fmt.Errorf("allowing %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("allowing %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= ofFile
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("allowing %s: %w", path, errno)
	}
	return nil
}

// mark is set in the environment of a program that Reexec started. It ends a loop; it proves nothing.
const mark = "SEALKEEPER_CONFINED"

// Again says whether this image was started by Reexec, and if so why Landlock is missing ("" if it is not). It says so once.
func Again() (again bool, missing string) {
	v, ok := os.LookupEnv(mark)
	os.Unsetenv(mark)
	return ok, v
}

// Reexec starts this program again, confined, with the same arguments and process id. It returns only if that failed. Without Landlock the
// rest is set, and the new image says so.
func Reexec(r Rules) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // and never unlocked
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	missing := ""
	r.Run = append([]string{self}, r.Run...)
	if err := Restrict(r); errors.Is(err, ErrUnavailable) {
		missing = err.Error()
	} else if err != nil {
		return err
	}
	if err := filter(); errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) { // a kernel without seccomp
		missing = strings.TrimPrefix(missing+"; "+err.Error(), "; ")
	} else if err != nil {
		return err
	}
	if err := syscall.Exec(self, os.Args, append(os.Environ(), mark+"="+missing)); err != nil {
		return fmt.Errorf("starting again in the sandbox: %w", err)
	}
	return nil
}

// Hide makes the process leave no core and unreadable for others of the same user: memory, environment, open files.
func Hide() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", err)
	}
	return nil
}

// Controls that Held looks for.
const (
	Files        = "files"         // files outside the list can't be opened
	TCPBind      = "tcp_bind"      // other ports can't be bound
	TCPConnect   = "tcp_connect"   // no outgoing TCP
	NoNewPrivs   = "no_new_privs"  // set-user-id programs give nothing
	NoCore       = "no_core"       // no core dumps
	NotDumpable  = "not_dumpable"  // memory can't be read by others of the same user
	LockedMemory = "locked_memory" // secrets in transit are not swapped
	Syscalls     = "syscalls"      // a filter of system calls is in force: ours, systemd's or both
)

// Held tries each control and says which ones are in force in this process, whoever set them.
func Held() map[string]bool {
	root, err := os.Open("/")
	if err == nil {
		root.Close()
	}
	held := map[string]bool{Files: refused(err)}
	get := func(option int) int {
		v, err := unix.PrctlRetInt(option, 0, 0, 0, 0)
		if err != nil {
			return -1
		}
		return v
	}
	held[NoNewPrivs] = get(unix.PR_GET_NO_NEW_PRIVS) == 1
	held[NotDumpable] = get(unix.PR_GET_DUMPABLE) == 0
	held[Syscalls] = get(unix.PR_GET_SECCOMP) == 2
	var core unix.Rlimit
	held[NoCore] = unix.Getrlimit(unix.RLIMIT_CORE, &core) == nil && core.Max == 0
	held[TCPBind], held[TCPConnect] = tcp()
	if b, free := Locked(1); b != nil {
		held[LockedMemory] = free()
	}
	return held
}

// tcp tries to bind a free port and to connect to the discard port of this host, also with Multipath TCP, which Landlock does not see.
// Nothing is sent to anyone else.
func tcp() (bind, connect bool) {
	b1, c1 := try(unix.IPPROTO_TCP)
	b2, c2 := try(unix.IPPROTO_MPTCP)
	return b1 && b2, c1 && c2
}

func try(protocol int) (bind, connect bool) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return refused(err), refused(err)
	}
	defer unix.Close(fd)
	local := net.IPv4(127, 0, 0, 1).To4()
	bind = refused(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(local)}))
	return bind, refused(unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(local), Port: 9}))
}

func refused(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAFNOSUPPORT) ||
		errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT)
}

// Locked gives n zero bytes (or a few more) outside Go's heap that are not swapped and not dumped. free wipes and gives them back; it says
// whether the memory was locked, which a low RLIMIT_MEMLOCK forbids. nil if there is no memory at all.
func Locked(n int) (b []byte, free func() (locked bool)) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, func() bool { return false }
	}
	locked := unix.Mlock(b) == nil
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	_ = unix.Madvise(b, unix.MADV_DONTFORK)
	return b, func() bool {
		clear(b)
		_ = unix.Munmap(b)
		return locked
	}
}

// System is what every program here needs of the machine: the loader, libraries, the configuration that libc, OpenSSL and Go read at their
// start.
func System() Rules {
	libraries := []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"}
	if v := os.Getenv("LD_LIBRARY_PATH"); v != "" {
		for _, d := range strings.Split(v, ":") {
			if filepath.IsAbs(d) {
				libraries = append(libraries, d)
			}
		}
	}
	return Rules{
		Run: libraries,
		Read: []string{"/etc/ld.so.cache", "/etc/ssl/openssl.cnf", "/etc/localtime", "/usr/share/zoneinfo", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf",
			"/dev/urandom", "/dev/random", "/proc/self", "/proc/sys/net/core/somaxconn", // without it Go queues 128 new connections
			"/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage", "/sys/devices/system/cpu"},
		Devices: []string{"/dev/null"},
	}
}
