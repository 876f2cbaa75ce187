/* The runner. It tries every probe of a mode in a child of its own and prints one line each:
 *
 *     NAME <tab> open | ERRNO | SIGNAL | timeout | cannot: REASON
 *
 * It is started three times over the same scene: without a sandbox, by an unprivileged user without capabilities, and as
 * the command of Runs in each tier. With capabilities some of these would really unmount or stop the machine, so it refuses
 * to work with any. */
#include "probe.h"

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <linux/capability.h>

static const struct probe *const tables[] = { files, metadata, spaces, processes, proc, ipc, sockets, ports, kernel,
	devices, neighbours, inherited, limits, work };
static const char *const subjects[] = { "files", "metadata", "namespaces and mounts", "processes", "/proc", "IPC",
	"sockets", "ports", "kernel", "devices", "neighbours and daemon", "inheritance", "limits", "work" };
static const char *const modes[] = { "none", "ports", "full", "limits" };

enum { CANNOT = 250, PATIENCE_MS = 20000 };

int inherited_descriptors;
static int reasons = -1;

static const char *word(int error)
{
	static char other[16];
	const char *name = strerrorname_np(error);
	if (name)
		return name;
	snprintf(other, sizeof other, "errno-%d", error);
	return other;
}

static void attempt(const struct probe *probe)
{
	int said[2];
	if (pipe2(said, O_CLOEXEC) == -1)
		exit(1);
	pid_t child = fork();
	if (child == 0) {
		close(said[0]);
		reasons = said[1];
		int error = probe->try();
		_exit(error < CANNOT ? error : EIO);
	}
	close(said[1]);
	/* The pipe closes when the child and all that it left are gone, or have had their time. */
	struct pollfd wait = { .fd = said[0], .events = POLLIN };
	int late = poll(&wait, 1, PATIENCE_MS) == 0;
	char reason[200] = "";
	if (!late && read(said[0], reason, sizeof reason - 1) == -1)
		reason[0] = 0;
	if (late)
		kill(child, SIGKILL);
	int status = 0;
	while (waitpid(child, &status, 0) == -1 && errno == EINTR)
		;
	close(said[0]);
	if (late)
		printf("%s\ttimeout\n", probe->name);
	else if (WIFSIGNALED(status))
		printf("%s\tSIG%s\n", probe->name, sigabbrev_np(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == CANNOT)
		printf("%s\tcannot: %s\n", probe->name, reason);
	else if (WEXITSTATUS(status) == 0)
		printf("%s\topen\n", probe->name);
	else
		printf("%s\t%s\n", probe->name, word(WEXITSTATUS(status)));
	fflush(stdout);
}

static int all(enum mode mode, const char *only)
{
	int tried = 0;
	for (size_t table = 0; table < sizeof tables / sizeof *tables; table++)
		for (const struct probe *probe = tables[table]; probe->name; probe++)
			if (probe->mode == mode && (!only || !strcmp(only, probe->name))) {
				attempt(probe);
				tried++;
			}
	printf("tried\t%d\n", tried);
	return tried == 0;
}

static int list(void)
{
	for (size_t table = 0; table < sizeof tables / sizeof *tables; table++)
		for (const struct probe *probe = tables[table]; probe->name; probe++)
			printf("%s\t%s\t%s\t%s\t%s\n", probe->name, modes[probe->mode],
			       probe->kind == WORK ? "work" : "attack", subjects[table], probe->does);
	return 0;
}

static void refuse_privilege(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = { 0 };
	int known = syscall(SYS_capget, &header, sets) == 0;
	if (known && getuid() != 0 && geteuid() != 0 && !sets[0].effective && !sets[1].effective &&
	    !sets[0].permitted && !sets[1].permitted)
		return;
	fprintf(stderr, "with privileges these attempts would do harm: start it as an ordinary user without capabilities\n");
	exit(120);
}

int main(int argc, char **argv)
{
	/* Before anything is opened. */
	for (int fd = 3; fd < 4096; fd++)
		inherited_descriptors += fcntl(fd, F_GETFD) != -1;
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "list"))
		return list();
	if (!strcmp(what, "privileged"))
		return geteuid() == 0 ? 0 : EPERM;
	refuse_privilege();
	if (!strcmp(what, "all") && argc >= 3)
		for (enum mode mode = NONE; mode <= LIMITS; mode++)
			if (!strcmp(argv[2], modes[mode]))
				return all(mode, argc > 3 ? argv[3] : NULL);
	if (!strcmp(what, "target") && argc == 3)
		return be_target(argv[2]);
	if (!strcmp(what, "reset") && argc == 4)
		return reset_scratch(argv[2], atoi(argv[3]));
	if (!strcmp(what, "neighbour"))
		return be_neighbour();
	if (!strcmp(what, "burn") && argc == 3)
		return burn(atoi(argv[2]));
	if (!strcmp(what, "locate"))
		return locate(argc - 2, argv + 2);
	if (!strcmp(what, "true"))
		return 0;
	fprintf(stderr, "probe list | all MODE [NAME] | target DIR | reset DIR PID | neighbour | burn PID | locate ...\n");
	return 120;
}

int done(long answer)
{
	return answer == -1 ? errno : 0;
}

void cannot(const char *format, ...)
{
	char text[200];
	va_list rest;
	va_start(rest, format);
	int length = vsnprintf(text, sizeof text, format, rest);
	va_end(rest);
	if (write(reasons, text, length < (int)sizeof text ? length : (int)sizeof text - 1) == -1)
		_exit(1);
	_exit(CANNOT);
}

const char *scene(const char *name)
{
	char variable[64];
	snprintf(variable, sizeof variable, "PROBE_%s", name);
	const char *value = getenv(variable);
	if (!value || !*value)
		cannot("the scene has no %s", variable);
	return value;
}

long scene_number(const char *name)
{
	return strtol(scene(name), NULL, 0);
}

static char *joined(const char *directory, const char *file)
{
	static char paths[16][4096];
	static unsigned next;
	char *path = paths[next++ % 16];
	snprintf(path, sizeof paths[0], "%s/%s", directory, file);
	return path;
}

char *in(const char *directory, const char *file)
{
	return joined(scene(directory), file);
}

char *own(const char *file)
{
	const char *place = getenv("TMPDIR");
	if (!place)
		cannot("there is no TMPDIR");
	return joined(place, file);
}

char *fresh(void)
{
	static int count;
	char name[64];
	snprintf(name, sizeof name, "fresh-%d-%d", getpid(), count++);
	return own(name);
}

int opens(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);
	if (fd == -1)
		return errno;
	close(fd);
	return 0;
}

int in_child(int (*body)(void))
{
	pid_t child = fork();
	if (child == -1)
		return errno;
	if (child == 0)
		_exit(body());
	int status;
	if (waitpid(child, &status, 0) == -1)
		return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

int executes(char *const argv[])
{
	pid_t child = fork();
	if (child == -1)
		return errno;
	if (child == 0) {
		char *const none[] = { NULL };
		int quiet = open("/dev/null", O_WRONLY);
		dup2(quiet, 2);
		execve(argv[0], argv, none);
		_exit(errno);
	}
	int status;
	if (waitpid(child, &status, 0) == -1)
		return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

void pause_briefly(int milliseconds)
{
	poll(NULL, 0, milliseconds);
}
