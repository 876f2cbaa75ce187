/* What every Run must be able to do, or there would be nothing to protect. */
#include "probe.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static int makes_files(void)
{
	char *path = fresh(), *other = fresh();
	int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
	if (fd == -1 || write(fd, "x", 1) != 1 || ftruncate(fd, 0) == -1 || fsync(fd) == -1)
		return errno;
	if (flock(fd, LOCK_EX) == -1 || link(path, other) == -1 || chmod(path, 0700) == -1 || truncate(path, 9) == -1)
		return errno;
	return done(unlink(other));
}

static int moves_between_directories(void)
{
	char *from = fresh(), *to = fresh();
	char inside[4200];
	snprintf(inside, sizeof inside, "%s/x", to);
	if (opens(from, O_CREAT | O_WRONLY) || mkdir(to, 0700) == -1)
		return errno;
	return done(rename(from, inside));
}

static int executes_system(void)
{
	char *argv[] = { "/bin/true", NULL };
	return executes(argv);
}

static int executes_what_it_built(void)
{
	char *argv[] = { fresh(), "true", NULL };
	FILE *from = fopen("/bin/true", "r"), *to = fopen(argv[0], "w");
	char bytes[65536];
	size_t count;
	if (!from || !to)
		return errno;
	while ((count = fread(bytes, 1, sizeof bytes, from)) > 0)
		fwrite(bytes, 1, count, to);
	fclose(to);
	chmod(argv[0], 0700);
	return executes(argv);
}

static void *nothing(void *x) { return x; }
static int starts_thread(void)
{
	pthread_t thread;
	int answer = pthread_create(&thread, NULL, nothing, NULL);
	return answer ? answer : pthread_join(thread, NULL);
}

static int signals_child(void)
{
	pid_t child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	int status;
	if (child == -1 || kill(child, SIGTERM) == -1 || waitpid(child, &status, 0) == -1)
		return errno;
	return WIFSIGNALED(status) ? 0 : EIO;
}

static int leads_session(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(setsid() == -1 ? errno : setpgid(0, 0) == -1 && errno != EPERM ? errno : 0);
	int status;
	return waitpid(child, &status, 0) == -1 ? errno : WEXITSTATUS(status);
}

static int serves_itself(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", fresh());
	int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(server, (struct sockaddr *)&address, sizeof address) == -1 || listen(server, 1) == -1)
		return errno;
	return done(connect(client, (struct sockaddr *)&address, sizeof address));
}

static int serves_itself_abstract(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t length = sizeof address;
	int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
	/* A name of the kernel's choice. */
	if (bind(server, (struct sockaddr *)&address, sizeof(sa_family_t)) == -1 || listen(server, 1) == -1)
		return errno;
	if (getsockname(server, (struct sockaddr *)&address, &length) == -1)
		return errno;
	return done(connect(client, (struct sockaddr *)&address, length));
}

static int shares_memory(void)
{
	int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED ? errno : 0;
}

static int makes_memory_file(void) { return done(memfd_create("x", 0)); }

static int waits(void)
{
	sigset_t none;
	sigemptyset(&none);
	int poll = epoll_create1(0);
	if (poll == -1 || eventfd(0, 0) == -1 || timerfd_create(CLOCK_MONOTONIC, 0) == -1 || signalfd(-1, &none, 0) == -1)
		return errno;
	return 0;
}

static int lists_interfaces(void)
{
	struct { struct nlmsghdr head; struct rtgenmsg body; } request = {
		{ sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { AF_UNSPEC } };
	char answer[8192];
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	if (fd == -1 || send(fd, &request, sizeof request, 0) == -1)
		return errno;
	return done(recv(fd, answer, sizeof answer, 0));
}

static int reads_harmless(void)
{
	static const char *const paths[] = { "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/uptime", "/proc/loadavg",
		"/etc/passwd", "/dev/urandom", "/dev/zero" };
	for (size_t each = 0; each < sizeof paths / sizeof *paths; each++)
		if (opens(paths[each], O_RDONLY))
			return errno;
	return opens("/dev/null", O_RDWR);
}

static int limits_itself(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == -1 || setrlimit(RLIMIT_NOFILE, &limit) == -1)
		return errno;
	/* Lower than whatever it was started with. */
	return done(setpriority(PRIO_PROCESS, 0, 19));
}

static int uses_its_places(void)
{
	static const char *const names[] = { "HOME", "TMPDIR", "RUNTIMED_WORKSPACE", "RUNTIMED_ARTIFACTS_DIR" };
	for (size_t each = 0; each < sizeof names / sizeof *names; each++) {
		const char *place = getenv(names[each]);
		if (!place)
			continue;
		char path[4200];
		snprintf(path, sizeof path, "%s/made-by-probe", place);
		int answer = opens(path, O_CREAT | O_WRONLY);
		if (answer)
			return answer;
		unlink(path);
	}
	return 0;
}

const struct probe work[] = {
	{ "works-files", NONE, WORK, "make, lock, link, chmod and truncate files of its own", makes_files },
	{ "works-move", NONE, WORK, "move a file between directories of its own", moves_between_directories },
	{ "works-places", NONE, WORK, "write to its home, /tmp, workspace and artifacts", uses_its_places },
	{ "works-execute", NONE, WORK, "execute a program of the image", executes_system },
	{ "works-execute-own", NONE, WORK, "execute what it built", executes_what_it_built },
	{ "works-thread", NONE, WORK, "start a thread", starts_thread },
	{ "works-signal", NONE, WORK, "signal a child", signals_child },
	{ "works-session", NONE, WORK, "lead a session", leads_session },
	{ "works-unix-socket", NONE, WORK, "serve a unix socket and connect to it", serves_itself },
	{ "works-abstract-socket", NONE, WORK, "serve an abstract socket and connect to it", serves_itself_abstract },
	{ "works-shared-memory", NONE, WORK, "share memory with its children", shares_memory },
	{ "works-memory-file", NONE, WORK, "make a memory file", makes_memory_file },
	{ "works-waiting", NONE, WORK, "wait by epoll, eventfd, timerfd and signalfd", waits },
	{ "works-interfaces", NONE, WORK, "list the network's interfaces", lists_interfaces },
	{ "works-harmless", NONE, WORK, "read harmless files of /proc, /etc and /dev", reads_harmless },
	{ "works-limits", NONE, WORK, "set its own limits and priority", limits_itself },
	{ 0 },
};
