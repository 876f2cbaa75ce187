/* The kernel's own machinery. Some of it no unprivileged process may use anywhere: that is refused unconfined as well, and
 * the harness lists each such probe with its reason. */
#include "probe.h"

#include <asm/ldt.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/io.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/quota.h>
#include <sys/timex.h>
#include <time.h>

static int ring(void)
{
	struct io_uring_params parameters = { 0 };
	return syscall(SYS_io_uring_setup, 4, &parameters);
}
static int makes_ring(void) { return done(ring()); }
static int enters_ring(void) { int fd = ring(); return done(syscall(SYS_io_uring_enter, fd, 0, 0, 0, NULL, 0)); }
static int registers_with_ring(void)
{
	int fd = ring(), event = -1;
	int answer = done(syscall(SYS_io_uring_register, fd, IORING_REGISTER_FILES, &event, 1));
	return answer;
}

static int loads_program(void)
{
	struct bpf_insn program[] = { { .code = 0xb7 }, { .code = 0x95 } };
	union bpf_attr attributes = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)program, .insn_cnt = 2,
		.license = (uintptr_t) "GPL" };
	return done(syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes));
}

static int observes(pid_t process)
{
	struct perf_event_attr attributes = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attributes,
		.config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1, .exclude_hv = 1 };
	return done(syscall(SYS_perf_event_open, &attributes, process, -1, -1, 0));
}
static int observes_itself(void) { return observes(0); }
static int observes_another(void) { return observes(scene_number("PID")); }
static int handles_faults(void) { return done(syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY)); }

struct handle { struct file_handle head; unsigned char bytes[128]; };

static int names_handle(void)
{
	struct handle handle = { .head.handle_bytes = 128 };
	int mount;
	return done(syscall(SYS_name_to_handle_at, AT_FDCWD, own("."), &handle, &mount, 0));
}

static int opens_handle(void)
{
	/* On a file system that it mounted itself a process with capabilities in its own namespace may. */
	enter_own(CLONE_NEWNS);
	mount("none", own("."), "tmpfs", 0, NULL);
	struct handle handle = { .head.handle_bytes = 128 };
	int mount_id, root = open(own("."), O_RDONLY | O_DIRECTORY);
	syscall(SYS_name_to_handle_at, AT_FDCWD, own("."), &handle, &mount_id, 0);
	return done(syscall(SYS_open_by_handle_at, root, &handle, O_RDONLY));
}

static int loads_module(void) { return done(syscall(SYS_init_module, "", 0UL, "")); }
static int loads_module_file(void) { return done(syscall(SYS_finit_module, 0, "", 0)); }
static int unloads_module(void) { return done(syscall(SYS_delete_module, "none", O_NONBLOCK)); }
static int loads_kernel(void) { return done(syscall(SYS_kexec_load, 0UL, 0UL, NULL, 0UL)); }
static int loads_kernel_file(void) { return done(syscall(SYS_kexec_file_load, -1, -1, 0UL, "", 0UL)); }
static int swaps_on(void) { return done(syscall(SYS_swapon, "/nowhere", 0)); }
static int swaps_off(void) { return done(syscall(SYS_swapoff, "/nowhere")); }

static int reboots_own(void)
{
	/* Of a PID namespace of its own: the kernel ends its first process and nothing else. */
	enter_own(CLONE_NEWPID);
	pid_t child = fork();
	if (child == 0) {
		if (getpid() != 1)
			_exit(done(syscall(SYS_reboot, 0xfee1dead, 672274793, 0, NULL)));
		_exit(done(syscall(SYS_reboot, 0xfee1dead, 672274793, 0x01234567, NULL)));
	}
	int status;
	waitpid(child, &status, 0);
	return WIFSIGNALED(status) ? 0 : WEXITSTATUS(status);
}

static int sets_time(void) { struct timeval now = { 0 }; return done(syscall(SYS_settimeofday, &now, NULL)); }
static int sets_clock(void) { struct timespec now = { 0 }; return done(syscall(SYS_clock_settime, CLOCK_REALTIME, &now)); }
static int asks_clock(void) { struct timex t = { 0 }; return done(adjtimex(&t) < 0 ? -1 : 0); }
static int asks_any_clock(void) { struct timex t = { 0 }; return done(syscall(SYS_clock_adjtime, CLOCK_REALTIME, &t) < 0 ? -1 : 0); }
static int syncs_quota(void)
{
	int answer = done(quotactl(QCMD(Q_SYNC, USRQUOTA), NULL, 0, NULL));
	if (answer == ENOSYS)
		cannot("the kernel has no quotas");
	return answer;
}
static int syncs_quota_of(void)
{
	int fd = open(own("."), O_RDONLY | O_DIRECTORY);
	int answer = done(syscall(SYS_quotactl_fd, fd, QCMD(Q_SYNC, USRQUOTA), 0, NULL));
	/* A file system without quotas says ENOSYS or ESRCH, once the call was let in. */
	return answer == ENOSYS || answer == ESRCH || answer == ENOTBLK ? 0 : answer;
}
static int accounts(void) { return done(syscall(SYS_acct, NULL)); }
static int reads_log(void) { return done(klogctl(10, NULL, 0)); }
static int hangs_up(void) { return done(syscall(SYS_vhangup)); }
static int looks_cookie_up(void) { char b[8]; return done(syscall(SYS_lookup_dcookie, 1UL, b, 8UL)); }
static int grants_ports(void) { return done(ioperm(0x80, 1, 0)); }
static int raises_port_level(void) { return done(syscall(SYS_iopl, 0)); }
static int uses_library(void) { return done(syscall(SYS_uselib, "/nowhere")); }
static int fixes_addresses(void) { return done(personality(ADDR_NO_RANDOMIZE)); }
static int makes_memory_executable(void) { return done(personality(READ_IMPLIES_EXEC)); }
static int emulates(void) { return done(personality(0x0008 /* PER_LINUX32 */)); }
static int is_traced(void)
{
	int answer = done(prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0));
	if (answer == EINVAL)
		cannot("the kernel has no Yama");
	return answer;
}
static int sets_securebits(void) { enter_own(0); return done(prctl(PR_SET_SECUREBITS, 1, 0, 0, 0)); }
static int names_handle_outside(void)
{
	struct handle handle = { .head.handle_bytes = 128 };
	int mount;
	return done(syscall(SYS_name_to_handle_at, AT_FDCWD, in("OUT", "file"), &handle, &mount, 0));
}

static int calls_x32(void) { return done(syscall(0x40000000 + SYS_getpid)); }

static int calls_32bit(void)
{
	/* getpid of the 32-bit table. */
	long answer;
	__asm__ volatile("int $0x80" : "=a"(answer) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
	return answer > 0 ? 0 : ENOSYS;
}

static int unshares_32bit(void)
{
	/* What the 64-bit table refuses by another number: unshare is 310 there. */
	long answer;
	__asm__ volatile("int $0x80" : "=a"(answer) : "a"(310L), "b"(0x10000000L) : "memory", "r8", "r9", "r10", "r11");
	return answer < 0 ? (int)-answer : 0;
}

static int changes_segments(void)
{
	struct user_desc entry = { .entry_number = 0, .limit = 1, .read_exec_only = 1 };
	return done(syscall(SYS_modify_ldt, 1, &entry, sizeof entry));
}

const struct probe kernel[] = {
	{ "io-uring-setup", NONE, ATTACK, "make a ring that works past the filter", makes_ring },
	{ "io-uring-enter", NONE, ATTACK, "drive a ring", enters_ring },
	{ "io-uring-register", NONE, ATTACK, "give a ring files", registers_with_ring },
	{ "bpf-load", NONE, ATTACK, "load a program into the kernel", loads_program },
	{ "perf-self", NONE, ATTACK, "count events", observes_itself },
	{ "perf-another", NONE, ATTACK, "count another process's events", observes_another },
	{ "userfaultfd", NONE, ATTACK, "handle page faults", handles_faults },
	{ "handle-name", NONE, ATTACK, "take a handle of its own directory", names_handle },
	{ "handle-name-outside", NONE, ATTACK, "take a handle of a file outside", names_handle_outside },
	{ "handle-open", NONE, ATTACK, "open a handle, past every directory", opens_handle },
	{ "module-load", NONE, ATTACK, "load a module", loads_module },
	{ "module-load-file", NONE, ATTACK, "load a module from a file", loads_module_file },
	{ "module-unload", NONE, ATTACK, "unload a module", unloads_module },
	{ "kexec-load", NONE, ATTACK, "load another kernel", loads_kernel },
	{ "kexec-load-file", NONE, ATTACK, "load another kernel from a file", loads_kernel_file },
	{ "swap-on", NONE, ATTACK, "swap to a device", swaps_on },
	{ "swap-off", NONE, ATTACK, "take swap away", swaps_off },
	{ "reboot", NONE, ATTACK, "stop the machine, or a PID namespace of its own", reboots_own },
	{ "clock-set-day", NONE, ATTACK, "set the clock (settimeofday)", sets_time },
	{ "clock-set", NONE, ATTACK, "set the clock (clock_settime)", sets_clock },
	{ "clock-adjust", NONE, ATTACK, "call adjtimex", asks_clock },
	{ "clock-adjust-any", NONE, ATTACK, "call clock_adjtime", asks_any_clock },
	{ "quota", NONE, ATTACK, "call quotactl", syncs_quota },
	{ "quota-fd", NONE, ATTACK, "call quotactl_fd", syncs_quota_of },
	{ "accounting", NONE, ATTACK, "record every process", accounts },
	{ "kernel-log", NONE, ATTACK, "read the kernel's log", reads_log },
	{ "vhangup", NONE, ATTACK, "take a terminal away", hangs_up },
	{ "dcookie", NONE, ATTACK, "ask for a profiler's path", looks_cookie_up },
	{ "port-permission", NONE, ATTACK, "call ioperm", grants_ports },
	{ "port-level", NONE, ATTACK, "call iopl", raises_port_level },
	{ "uselib", NONE, ATTACK, "map an old library", uses_library },
	{ "personality-addresses", NONE, ATTACK, "switch address randomisation off", fixes_addresses },
	{ "personality-executable", NONE, ATTACK, "make readable memory executable", makes_memory_executable },
	{ "personality-32-bit", NONE, ATTACK, "be a 32-bit process", emulates },
	{ "ptracer", NONE, ATTACK, "let anybody trace it (PR_SET_PTRACER)", is_traced },
	{ "securebits", NONE, ATTACK, "change what uid 0 means", sets_securebits },
	{ "x32", NONE, ATTACK, "call by a number of the x32 ABI", calls_x32 },
	{ "i386", NONE, ATTACK, "call by a number of the 32-bit ABI", calls_32bit },
	{ "i386-unshare", NONE, ATTACK, "make a user namespace by the 32-bit ABI", unshares_32bit },
	{ "modify-ldt", NONE, ATTACK, "change the segment table", changes_segments },
	{ 0 },
};
