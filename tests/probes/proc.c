/* /proc: what it shows of other processes of the same uid, what it lets one do to them, and what it shows of the pod. */
#include "probe.h"

static char *of(const char *process, const char *file)
{
	static char path[128];
	snprintf(path, sizeof path, "/proc/%s/%s", process, file);
	return path;
}

static int reads(const char *file) { return opens(of(scene("PID"), file), O_RDONLY); }
static int writes(const char *file) { return opens(of(scene("PID"), file), O_WRONLY); }
static int environment(void) { return reads("environ"); }
static int maps(void) { return reads("maps"); }
static int memory(void) { return reads("mem"); }
static int memory_written(void) { return writes("mem"); }
static int command_line(void) { return reads("cmdline"); }
static int status(void) { return reads("status"); }
static int counters(void) { return reads("io"); }
static int mounts(void) { return reads("mountinfo"); }
static int groups(void) { return reads("cgroup"); }
static int limits_shown(void) { return reads("limits"); }
static int page_map(void) { return reads("pagemap"); }
static int listed_descriptors(void) { return opens(of(scene("PID"), "fd"), O_RDONLY | O_DIRECTORY); }
static int listed_threads(void) { return opens(of(scene("PID"), "task"), O_RDONLY | O_DIRECTORY); }
static int oom_score(void) { return writes("oom_score_adj"); }
static int core_filter(void) { return writes("coredump_filter"); }
static int references(void) { return writes("clear_refs"); }
static int timer_slack(void) { return writes("timerslack_ns"); }
static int autogroup(void)
{
	int answer = writes("autogroup");
	if (answer == ENOENT && access("/proc/self/status", F_OK) == 0 && access("/proc/self/autogroup", F_OK) == -1)
		cannot("the kernel has no autogroups");
	return answer;
}
static int descriptor(void)
{
	char name[64];
	snprintf(name, sizeof name, "fd/%ld", scene_number("FILE"));
	return opens(of(scene("PID"), name), O_RDONLY);
}
static int through_root(void)
{
	char path[4096];
	snprintf(path, sizeof path, "root%s/file", scene("OUT"));
	char full[4200];
	snprintf(full, sizeof full, "/proc/%s/%s", scene("PID"), path);
	return opens(full, O_RDONLY);
}
static int through_directory(void) { return opens(of(scene("PID"), "cwd/file"), O_RDONLY); }
static int program(void) { return opens(of(scene("PID"), "exe"), O_RDONLY); }
static int program_named(void) { char b[64]; return done(readlink(of(scene("PID"), "exe"), b, sizeof b)); }
static int space(void) { return opens(of(scene("PID"), "ns/net"), O_RDONLY); }
static int all_processes(void) { return opens("/proc", O_RDONLY | O_DIRECTORY); }
static int unix_sockets(void) { return opens("/proc/self/net/unix", O_RDONLY); }
static int connections(void) { return opens("/proc/net/tcp", O_RDONLY); }
static int own_mounts(void) { return opens("/proc/self/mountinfo", O_RDONLY); }
static int own_environment(void) { return opens("/proc/self/environ", O_RDONLY); }
/* Something may lie over a file so that it is empty. */
static int reads_byte(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY);
	return fd == -1 ? errno : read(fd, &byte, 1) == 1 ? 0 : ENODATA;
}
static int keys(void) { return reads_byte("/proc/keys"); }
static int locks(void) { return opens("/proc/locks", O_RDONLY); }
static int segments(void) { return opens("/proc/sysvipc/shm", O_RDONLY); }
static int modules(void)
{
	int answer = reads_byte("/proc/kallsyms");
	if (answer == ENOENT)
		cannot("the kernel shows no symbols");
	return answer;
}
static int settings(void) { return opens("/proc/sys/kernel/randomize_va_space", O_RDONLY); }
static int host_name(void) { return opens("/proc/sys/kernel/hostname", O_RDONLY); }
static int machine(void) { return reads_byte("/proc/cmdline"); }
static int disks(void) { return reads_byte("/proc/diskstats"); }
static int pressure(void)
{
	int answer = opens("/proc/pressure/cpu", O_RDONLY);
	if (answer == ENOENT)
		cannot("the kernel does not measure pressure");
	return answer;
}

const struct probe proc[] = {
	{ "proc-environ", NONE, ATTACK, "read a process's environment", environment },
	{ "proc-maps", NONE, ATTACK, "read a process's memory map", maps },
	{ "proc-mem-read", NONE, ATTACK, "read a process's memory", memory },
	{ "proc-mem-write", NONE, ATTACK, "write a process's memory", memory_written },
	{ "proc-cmdline", NONE, ATTACK, "read a process's arguments", command_line },
	{ "proc-status", NONE, ATTACK, "read a process's status", status },
	{ "proc-io", NONE, ATTACK, "read what a process reads and writes", counters },
	{ "proc-mountinfo", NONE, ATTACK, "read a process's mounts", mounts },
	{ "proc-cgroup", NONE, ATTACK, "read a process's control group", groups },
	{ "proc-limits", NONE, ATTACK, "read a process's limits", limits_shown },
	{ "proc-pagemap", NONE, ATTACK, "read a process's page map", page_map },
	{ "proc-fd-list", NONE, ATTACK, "list a process's descriptors", listed_descriptors },
	{ "proc-fd-open", NONE, ATTACK, "open what a process has open", descriptor },
	{ "proc-task-list", NONE, ATTACK, "list a process's threads", listed_threads },
	{ "proc-oom-score", NONE, ATTACK, "have a process killed first when memory runs out", oom_score },
	{ "proc-core-filter", NONE, ATTACK, "change what a process's core dump holds", core_filter },
	{ "proc-clear-refs", NONE, ATTACK, "reset what memory a process has used", references },
	{ "proc-timer-slack", NONE, ATTACK, "make a process's timers late", timer_slack },
	{ "proc-autogroup", NONE, ATTACK, "slow a process's session down", autogroup },
	{ "proc-root", NONE, ATTACK, "read a file through a process's root", through_root },
	{ "proc-cwd", NONE, ATTACK, "read a file through a process's directory", through_directory },
	{ "proc-exe", NONE, ATTACK, "read a process's program", program },
	{ "proc-exe-name", NONE, ATTACK, "ask for a process's program's path", program_named },
	{ "proc-ns", NONE, ATTACK, "open a process's namespace", space },
	{ "proc-list", NONE, ATTACK, "list all processes", all_processes },
	{ "proc-net-unix", NONE, ATTACK, "list the pod's unix sockets", unix_sockets },
	{ "proc-net-tcp", NONE, ATTACK, "list the pod's connections", connections },
	{ "proc-self-mountinfo", NONE, ATTACK, "read the pod's mounts", own_mounts },
	{ "proc-self-environ", NONE, ATTACK, "read through /proc/self", own_environment },
	{ "proc-keys", NONE, ATTACK, "list keys", keys },
	{ "proc-locks", NONE, ATTACK, "list the machine's file locks", locks },
	{ "proc-sysvipc", NONE, ATTACK, "list System V shared memory", segments },
	{ "proc-kallsyms", NONE, ATTACK, "read the kernel's symbols", modules },
	{ "proc-sys", NONE, ATTACK, "read the kernel's settings", settings },
	{ "proc-hostname", NONE, ATTACK, "read the host's name in /proc", host_name },
	{ "proc-kernel-cmdline", NONE, ATTACK, "read the kernel's command line", machine },
	{ "proc-diskstats", NONE, ATTACK, "read the machine's disk counters", disks },
	{ "proc-pressure", NONE, ATTACK, "read the machine's pressure", pressure },
	{ 0 },
};
