/* Other processes of the same uid, by their numbers. */
#include "probe.h"

#include <linux/ioprio.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

static pid_t target(void) { return scene_number("PID"); }

static int signals_null(void) { return done(kill(target(), 0)); }
static int signals_continue(void) { return done(kill(target(), SIGCONT)); }
static int signals_group(void) { return done(kill(-target(), 0)); }
static int signals_thread(void) { return done(syscall(SYS_tgkill, target(), target(), 0)); }
static int signals_any_thread(void) { return done(syscall(SYS_tkill, target(), 0)); }

static int queues_signal(void)
{
	siginfo_t info = { .si_signo = SIGCONT, .si_code = SI_QUEUE };
	return done(syscall(SYS_rt_sigqueueinfo, target(), SIGCONT, &info));
}

static int queues_thread_signal(void)
{
	siginfo_t info = { .si_signo = SIGCONT, .si_code = SI_QUEUE };
	return done(syscall(SYS_rt_tgsigqueueinfo, target(), target(), SIGCONT, &info));
}

static int pidfd(void)
{
	int fd = syscall(SYS_pidfd_open, target(), 0);
	if (fd == -1)
		_exit(errno);
	return fd;
}

static int signals_by_pidfd(void) { return done(syscall(SYS_pidfd_send_signal, pidfd(), 0, NULL, 0)); }
static int signals_init(void) { return done(kill(scene_number("DAEMON_PID"), 0)); }

/* The kernel sends a signal of the caller's choice to the owner of a pipe that becomes readable. */
static int signals_by_owner(void)
{
	int ends[2];
	if (pipe(ends) == -1)
		return errno;
	fcntl(ends[0], F_SETSIG, SIGWINCH);
	if (fcntl(ends[0], F_SETOWN, target()) == -1)
		return errno;
	fcntl(ends[0], F_SETFL, O_ASYNC);
	struct stat before, after;
	const char *told = in("OUT", "winches");
	if (stat(told, &before) == -1)
		return errno;
	if (write(ends[1], "x", 1) == -1)
		return errno;
	/* The target writes a byte for each; the size of its file can be asked for from everywhere. */
	for (int turn = 0; turn < 40; turn++) {
		if (stat(told, &after) == 0 && after.st_size > before.st_size)
			return 0;
		pause_briefly(5);
	}
	return EPERM;
}

static int traces(void)
{
	int answer = done(ptrace(PTRACE_SEIZE, target(), NULL, NULL));
	if (answer == 0)
		ptrace(PTRACE_DETACH, target(), NULL, NULL);
	return answer;
}

static int attaches(void)
{
	if (ptrace(PTRACE_ATTACH, target(), NULL, NULL) == -1)
		return errno;
	waitpid(target(), NULL, __WALL);
	return done(ptrace(PTRACE_DETACH, target(), NULL, NULL));
}

static int traced_itself(void) { return done(ptrace(PTRACE_TRACEME, 0, NULL, NULL)); }

static struct iovec remote(void)
{
	return (struct iovec){ .iov_base = (void *)scene_number("ADDRESS"), .iov_len = 8 };
}

static int reads_memory(void)
{
	char bytes[8];
	struct iovec here = { bytes, 8 }, there = remote();
	return done(process_vm_readv(target(), &here, 1, &there, 1, 0));
}

static int writes_memory(void)
{
	char bytes[8] = "theirs!";
	struct iovec here = { bytes, 8 }, there = remote();
	return done(process_vm_writev(target(), &here, 1, &there, 1, 0));
}

static int takes_descriptor(void) { return done(syscall(SYS_pidfd_getfd, pidfd(), 0, 0)); }
static int compares(void) { return done(syscall(SYS_kcmp, getpid(), target(), KCMP_VM, 0, 0)); }

static int pages_out(void)
{
	struct iovec there = remote();
	there.iov_base = (void *)((uintptr_t)there.iov_base & ~4095UL);
	there.iov_len = 4096;
	return done(syscall(SYS_process_madvise, pidfd(), &there, 1, 20 /* MADV_COLD */, 0));
}

static int releases_memory(void)
{
	/* Of one that is not dying this is EINVAL, which only one who was let in gets to know. */
	int answer = done(syscall(SYS_process_mrelease, pidfd(), 0));
	return answer == EINVAL ? 0 : answer;
}

static int reads_robust_list(void)
{
	void *head;
	size_t length;
	return done(syscall(SYS_get_robust_list, target(), &head, &length));
}

static int sets_limit(void)
{
	struct rlimit limit;
	if (syscall(SYS_prlimit64, target(), RLIMIT_NOFILE, NULL, &limit) == -1)
		return errno;
	return done(syscall(SYS_prlimit64, target(), RLIMIT_NOFILE, &limit, NULL));
}

static int sets_limit_of_daemon(void)
{
	struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };
	/* Never what would end it: raising is refused by itself, and by then the permission has been judged. */
	int answer = done(syscall(SYS_prlimit64, scene_number("DAEMON_PID"), RLIMIT_CPU, NULL, &none));
	return answer;
}

static int reads_limit(void)
{
	struct rlimit limit;
	return done(syscall(SYS_prlimit64, target(), RLIMIT_CPU, NULL, &limit));
}

/* To the value that it has, so that nobody is harmed. EACCES is the answer to one who was let in and asks for more. */
static int renices(int which, int who)
{
	int answer = done(setpriority(which, who, 0));
	return answer == EACCES ? 0 : answer;
}
static int slows(void) { return renices(PRIO_PROCESS, target()); }
static int slows_group(void) { return renices(PRIO_PGRP, target()); }
static int slows_user(void) { return renices(PRIO_USER, geteuid()); }
static int io(int which, int who) { return done(syscall(SYS_ioprio_set, which, who, 0)); }
static int slows_io(void) { return io(IOPRIO_WHO_PROCESS, target()); }
static int slows_io_group(void) { return io(IOPRIO_WHO_PGRP, target()); }
static int slows_io_user(void) { return io(IOPRIO_WHO_USER, geteuid()); }

static int binds_to_processor(void)
{
	cpu_set_t all;
	memset(&all, 0xff, sizeof all);
	return done(sched_setaffinity(target(), sizeof all, &all));
}

static int reschedules(int policy)
{
	struct sched_param param = { 0 };
	return done(syscall(SYS_sched_setscheduler, target(), policy, &param));
}
static int makes_idle(void) { return reschedules(SCHED_BATCH); }

static int sets_parameters(void)
{
	struct sched_param param = { 0 };
	return done(syscall(SYS_sched_setparam, target(), &param));
}

static int sets_scheduling(void)
{
	struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t rest[3]; } attributes = {
		.size = 48, .policy = SCHED_BATCH, .nice = getpriority(PRIO_PROCESS, target()) };
	return done(syscall(SYS_sched_setattr, target(), &attributes, 0));
}

static int migrates(void)
{
	unsigned long nodes = 1;
	int answer = done(syscall(SYS_migrate_pages, target(), 64, &nodes, &nodes));
	if (answer == ENOSYS)
		cannot("the kernel has no NUMA");
	return answer;
}

static int moves_pages(void)
{
	void *page = (void *)(scene_number("ADDRESS") & ~4095L);
	int node = 0, status;
	int answer = done(syscall(SYS_move_pages, target(), 1UL, &page, &node, &status, 0));
	if (answer == ENOSYS)
		cannot("the kernel has no NUMA");
	return answer;
}

static int kills_supervisor(void) { return done(kill(scene_number("WORKER_PID"), 0)); }
static int limits_supervisor(void)
{
	struct rlimit limit;
	return done(syscall(SYS_prlimit64, scene_number("WORKER_PID"), RLIMIT_CPU, NULL, &limit));
}
static int shares_core(void)
{
	/* PR_SCHED_CORE, PR_SCHED_CORE_SHARE_TO. */
	int answer = done(prctl(62, 2, target(), 0, 0));
	if (answer == ENODEV || answer == EINVAL)
		cannot("the kernel has no core scheduling, or the machine no threads of a core");
	return answer;
}

static int finds(void) { return done(getpgid(target())); }

const struct probe processes[] = {
	{ "signal-null", NONE, ATTACK, "ask whether a process may be signalled", signals_null },
	{ "signal-continue", NONE, ATTACK, "signal a process", signals_continue },
	{ "signal-group", NONE, ATTACK, "signal a process group", signals_group },
	{ "signal-thread", NONE, ATTACK, "signal a thread (tgkill)", signals_thread },
	{ "signal-any-thread", NONE, ATTACK, "signal a thread (tkill)", signals_any_thread },
	{ "signal-queue", NONE, ATTACK, "queue a signal (rt_sigqueueinfo)", queues_signal },
	{ "signal-queue-thread", NONE, ATTACK, "queue a signal for a thread (rt_tgsigqueueinfo)", queues_thread_signal },
	{ "signal-pidfd", NONE, ATTACK, "signal a process by its pidfd", signals_by_pidfd },
	{ "signal-owner", NONE, ATTACK, "have the kernel signal a process (F_SETOWN, F_SETSIG)", signals_by_owner },
	{ "signal-daemon", NONE, ATTACK, "signal the daemon", signals_init },
	{ "signal-supervisor", NONE, ATTACK, "signal a supervisor", kills_supervisor },
	{ "ptrace-seize", NONE, ATTACK, "trace a process", traces },
	{ "ptrace-attach", NONE, ATTACK, "stop a process by tracing it", attaches },
	{ "ptrace-traceme", NONE, ATTACK, "have the parent trace it", traced_itself },
	{ "memory-read", NONE, ATTACK, "read a process's memory (process_vm_readv)", reads_memory },
	{ "memory-write", NONE, ATTACK, "write a process's memory (process_vm_writev)", writes_memory },
	{ "memory-page-out", NONE, ATTACK, "push a process's memory out (process_madvise)", pages_out },
	{ "memory-release", NONE, ATTACK, "take a process's memory (process_mrelease)", releases_memory },
	{ "descriptor-take", NONE, ATTACK, "take a process's descriptor (pidfd_getfd)", takes_descriptor },
	{ "process-compare", NONE, ATTACK, "ask what two processes share (kcmp)", compares },
	{ "process-exists", NONE, ATTACK, "ask whether a process of some number exists (getpgid)", finds },
	{ "robust-list-read", NONE, ATTACK, "read where a process keeps its locks", reads_robust_list },
	{ "limit-set", NONE, ATTACK, "set a process's limit (prlimit)", sets_limit },
	{ "limit-read", NONE, ATTACK, "read a process's limit", reads_limit },
	{ "limit-daemon", NONE, ATTACK, "reach the daemon's limits: one RLIMIT_CPU ends the pod", sets_limit_of_daemon },
	{ "limit-supervisor", NONE, ATTACK, "reach a supervisor's limits", limits_supervisor },
	{ "priority-process", NONE, ATTACK, "slow a process down", slows },
	{ "priority-group", NONE, ATTACK, "slow a process group down", slows_group },
	{ "priority-user", NONE, ATTACK, "slow the whole uid down", slows_user },
	{ "io-priority-process", NONE, ATTACK, "slow a process's input and output down", slows_io },
	{ "io-priority-group", NONE, ATTACK, "slow a group's input and output down", slows_io_group },
	{ "io-priority-user", NONE, ATTACK, "slow the uid's input and output down", slows_io_user },
	{ "scheduling-affinity", NONE, ATTACK, "bind a process to processors", binds_to_processor },
	{ "scheduling-policy", NONE, ATTACK, "change a process's policy (sched_setscheduler)", makes_idle },
	{ "scheduling-parameters", NONE, ATTACK, "change a process's parameters (sched_setparam)", sets_parameters },
	{ "scheduling-attributes", NONE, ATTACK, "change a process's attributes (sched_setattr)", sets_scheduling },
	{ "scheduling-core", NONE, ATTACK, "share a processor core's cookie (PR_SCHED_CORE)", shares_core },
	{ "numa-migrate", NONE, ATTACK, "move a process's memory between nodes (migrate_pages)", migrates },
	{ "numa-move", NONE, ATTACK, "move a process's pages (move_pages)", moves_pages },
	{ 0 },
};
