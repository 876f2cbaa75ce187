/* Another Run in the same pod, while both are alive, and the daemon that started both. */
#include "probe.h"

#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

static int reads_tmp(void) { return opens(in("N_TMP", "mark"), O_RDONLY); }
static int reads_home(void) { return opens(in("N_HOME", "mark"), O_RDONLY); }
static int reads_workspace(void) { return opens(in("N_WORKSPACE", "mark"), O_RDONLY); }
static int writes_workspace(void) { return opens(in("N_WORKSPACE", "mark"), O_WRONLY); }
static int truncates_workspace(void) { return done(truncate(in("N_WORKSPACE", "scratch"), 0)); }
static int plants(void)
{
	char *path = in("N_WORKSPACE", "planted");
	int answer = opens(path, O_CREAT | O_EXCL | O_WRONLY);
	unlink(path);
	return answer;
}
static int lists_tmp(void) { return opens(scene("N_TMP"), O_RDONLY | O_DIRECTORY); }
static int lists_workspace(void) { return opens(scene("N_WORKSPACE"), O_RDONLY | O_DIRECTORY); }
static int links(void)
{
	char *mine = fresh();
	int answer = done(link(in("N_WORKSPACE", "mark"), mine));
	unlink(mine);
	if (answer == EXDEV && opens(in("N_WORKSPACE", "mark"), O_RDONLY) == 0)
		cannot("its tree is on another file system");
	return answer;
}
static int moves_away(void)
{
	char away[4200];
	snprintf(away, sizeof away, "%s-away", in("N_WORKSPACE", "scratch"));
	int answer = done(rename(in("N_WORKSPACE", "scratch"), away));
	rename(away, in("N_WORKSPACE", "scratch"));
	return answer;
}
static int removes(void) { return done(unlink(in("N_WORKSPACE", "removed"))); }

static int reads_secret(void) { return opens(scene("N_SECRET"), O_RDONLY); }
static int replaces_secret(void) { return opens(scene("N_SECRET"), O_WRONLY); }
static int lists_secrets(void)
{
	char directory[4096];
	snprintf(directory, sizeof directory, "%s", scene("N_SECRET"));
	*strrchr(directory, '/') = 0;
	return opens(directory, O_RDONLY | O_DIRECTORY);
}
static int locks_tree(void)
{
	struct stat now;
	const char *tree = scene("N_WORKSPACE");
	if (stat(tree, &now) == -1)
		return errno;
	return done(chmod(tree, now.st_mode & 07777));
}
static int reads_outputs(void) { return opens(in("N_TREE_HOME", "o"), O_RDONLY | O_DIRECTORY); }
static int reads_private(void) { return opens(scene("N_TREE_WORKSPACE"), O_RDONLY | O_DIRECTORY); }

static char *of(const char *file)
{
	static char path[128];
	snprintf(path, sizeof path, "/proc/%s/%s", scene("N_PID"), file);
	return path;
}
static int reads_environment(void) { return opens(of("environ"), O_RDONLY); }
static int reads_memory(void) { return opens(of("mem"), O_RDONLY); }
static int reads_arguments(void) { return opens(of("cmdline"), O_RDONLY); }
static int lists_descriptors(void) { return opens(of("fd"), O_RDONLY | O_DIRECTORY); }
static int reads_output(void) { return opens(of("fd/1"), O_WRONLY); }
static int signals(void) { return done(kill(scene_number("N_PID"), 0)); }
static int stops(void) { return done(kill(scene_number("N_PID"), SIGCONT)); }
static int limits_it(void)
{
	struct rlimit limit;
	return done(syscall(SYS_prlimit64, scene_number("N_PID"), RLIMIT_NOFILE, NULL, &limit));
}
static int traces(void)
{
	int answer = done(ptrace(PTRACE_SEIZE, scene_number("N_PID"), NULL, NULL));
	if (answer == 0)
		ptrace(PTRACE_DETACH, scene_number("N_PID"), NULL, NULL);
	return answer;
}
static int copies_memory(void)
{
	char bytes[8];
	struct iovec here = { bytes, 8 }, there = { (void *)scene_number("N_ADDRESS"), 8 };
	return done(process_vm_readv(scene_number("N_PID"), &here, 1, &there, 1, 0));
}

static int connects(const char *name, int is_abstract)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path + is_abstract, sizeof address.sun_path - is_abstract, "%s", name);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return done(connect(fd, (struct sockaddr *)&address,
			    offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1));
}
static int connects_abstract(void) { return connects(scene("N_ABSTRACT"), 1); }
static int connects_path(void) { return connects(in("N_TMP", "socket"), 0); }

static char *state(const char *file) { return in("STATE", file); }
static int reads_journal(void) { return opens(state("journal"), O_RDONLY); }
static int writes_journal(void) { return opens(state("journal"), O_WRONLY | O_APPEND); }
static int lists_state(void) { return opens(scene("STATE"), O_RDONLY | O_DIRECTORY); }
static int finds_state(void) { return opens(scene("STATE_PARENT"), O_RDONLY | O_DIRECTORY); }
static int makes_state(void) { return opens(state("planted"), O_CREAT | O_WRONLY); }
static int reads_token(void) { return opens(scene("TOKEN"), O_RDONLY); }
static int reads_source(void) { return opens(scene("SECRET_SOURCE"), O_RDONLY); }
static int reads_configuration(void) { return opens(scene("CONFIG"), O_RDONLY); }
static int daemon_file(const char *file, int flags)
{
	char path[128];
	snprintf(path, sizeof path, "/proc/%s/%s", scene("DAEMON_PID"), file);
	return opens(path, flags);
}
static int reads_daemon_environment(void) { return daemon_file("environ", O_RDONLY); }
static int reads_daemon_memory(void) { return daemon_file("mem", O_RDONLY); }
static int lists_daemon_descriptors(void) { return daemon_file("fd", O_RDONLY | O_DIRECTORY); }
static int reads_daemon_arguments(void) { return daemon_file("cmdline", O_RDONLY); }
static int traces_daemon(void)
{
	int answer = done(ptrace(PTRACE_SEIZE, scene_number("DAEMON_PID"), NULL, NULL));
	if (answer == 0)
		ptrace(PTRACE_DETACH, scene_number("DAEMON_PID"), NULL, NULL);
	return answer;
}
static int takes_daemon_descriptor(void)
{
	int fd = syscall(SYS_pidfd_open, scene_number("DAEMON_PID"), 0);
	return fd == -1 ? errno : done(syscall(SYS_pidfd_getfd, fd, 0, 0));
}
/* To the value that it has, so that nobody is harmed: it may have been started by nice(1). */
static int slows_daemon(void)
{
	int daemon = scene_number("DAEMON_PID");
	return done(setpriority(PRIO_PROCESS, daemon, getpriority(PRIO_PROCESS, daemon)));
}
static int reads_supervisor_memory(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%ld/mem", scene_number("WORKER_PID"));
	return opens(path, O_RDONLY);
}
static int plants_in(const char *root)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/%s", scene(root), "00000000000000000000000000000000");
	int answer = done(mkdir(path, 0700));
	rmdir(path);
	return answer;
}
static int plants_tmp(void) { return plants_in("ROOT_TMP"); }
static int plants_home(void) { return plants_in("ROOT_HOME"); }
static int plants_workspace(void) { return plants_in("ROOT_WORKSPACE"); }
static int lists_roots(void) { return opens(scene("ROOT_WORKSPACE"), O_RDONLY | O_DIRECTORY); }

const struct probe neighbours[] = {
	{ "neighbour-read-tmp", NONE, ATTACK, "read a file of another Run's /tmp", reads_tmp },
	{ "neighbour-read-home", NONE, ATTACK, "read a file of another Run's home", reads_home },
	{ "neighbour-read-workspace", NONE, ATTACK, "read a file of another Run's workspace", reads_workspace },
	{ "neighbour-write", NONE, ATTACK, "write a file of another Run's", writes_workspace },
	{ "neighbour-truncate", NONE, ATTACK, "truncate a file of another Run's", truncates_workspace },
	{ "neighbour-plant", NONE, ATTACK, "plant a file in another Run's workspace", plants },
	{ "neighbour-list-tmp", NONE, ATTACK, "list another Run's /tmp", lists_tmp },
	{ "neighbour-list-workspace", NONE, ATTACK, "list another Run's workspace", lists_workspace },
	{ "neighbour-link", NONE, ATTACK, "give a file of another Run's a name among its own", links },
	{ "neighbour-move", NONE, ATTACK, "rename a file of another Run's", moves_away },
	{ "neighbour-remove", NONE, ATTACK, "remove a file of another Run's", removes },
	{ "neighbour-outputs", NONE, ATTACK, "list another Run's outputs", reads_outputs },
	{ "neighbour-tree", NONE, ATTACK, "list the tree that holds another Run's workspace and artifacts", reads_private },
	{ "neighbour-lock", NONE, ATTACK, "change the mode of another Run's workspace", locks_tree },
	{ "neighbour-secret-read", NONE, ATTACK, "read another Run's staged secret", reads_secret },
	{ "neighbour-secret-write", NONE, ATTACK, "replace another Run's staged secret", replaces_secret },
	{ "neighbour-secret-list", NONE, ATTACK, "list what is staged for another Run", lists_secrets },
	{ "neighbour-environ", NONE, ATTACK, "read another Run's environment", reads_environment },
	{ "neighbour-cmdline", NONE, ATTACK, "read another Run's arguments", reads_arguments },
	{ "neighbour-mem", NONE, ATTACK, "open another Run's memory", reads_memory },
	{ "neighbour-memory-copy", NONE, ATTACK, "copy another Run's memory", copies_memory },
	{ "neighbour-fd-list", NONE, ATTACK, "list another Run's descriptors", lists_descriptors },
	{ "neighbour-log-forge", NONE, ATTACK, "write into another Run's log", reads_output },
	{ "neighbour-signal", NONE, ATTACK, "ask whether another Run may be signalled", signals },
	{ "neighbour-continue", NONE, ATTACK, "signal another Run", stops },
	{ "neighbour-limit", NONE, ATTACK, "reach another Run's limits", limits_it },
	{ "neighbour-trace", NONE, ATTACK, "trace another Run", traces },
	{ "neighbour-abstract", NONE, ATTACK, "connect to another Run's abstract socket", connects_abstract },
	{ "neighbour-socket", NONE, ATTACK, "connect to another Run's socket by its path", connects_path },
	{ "root-plant-tmp", NONE, ATTACK, "make a tree in the root of all Runs' /tmp", plants_tmp },
	{ "root-plant-home", NONE, ATTACK, "make a tree in the root of all Runs' homes", plants_home },
	{ "root-plant-workspace", NONE, ATTACK, "make a tree in the root of all Runs' workspaces", plants_workspace },
	{ "root-list", NONE, ATTACK, "learn the trees' names by listing their root", lists_roots },
	{ "daemon-journal-read", NONE, ATTACK, "read the daemon's journal", reads_journal },
	{ "daemon-journal-write", NONE, ATTACK, "append to the daemon's journal", writes_journal },
	{ "daemon-state-list", NONE, ATTACK, "list the daemon's state", lists_state },
	{ "daemon-state-find", NONE, ATTACK, "learn the name of the daemon's state by listing where it is", finds_state },
	{ "daemon-state-plant", NONE, ATTACK, "plant a file in the daemon's state", makes_state },
	{ "daemon-token", NONE, ATTACK, "read the daemon's token", reads_token },
	{ "daemon-secret-source", NONE, ATTACK, "read where secrets come from", reads_source },
	{ "daemon-configuration", NONE, ATTACK, "read the daemon's configuration", reads_configuration },
	{ "daemon-environ", NONE, ATTACK, "read the daemon's environment", reads_daemon_environment },
	{ "daemon-mem", NONE, ATTACK, "open the daemon's memory", reads_daemon_memory },
	{ "daemon-fd-list", NONE, ATTACK, "list the daemon's descriptors", lists_daemon_descriptors },
	{ "daemon-cmdline", NONE, ATTACK, "read the daemon's arguments", reads_daemon_arguments },
	{ "daemon-trace", NONE, ATTACK, "trace the daemon", traces_daemon },
	{ "daemon-descriptor", NONE, ATTACK, "take a descriptor of the daemon's", takes_daemon_descriptor },
	{ "daemon-slow", NONE, ATTACK, "slow the daemon down", slows_daemon },
	{ "supervisor-mem", NONE, ATTACK, "open a supervisor's memory", reads_supervisor_memory },
	{ 0 },
};
