/* A Run that is another's neighbour, and how it is found from outside. */
#include "probe.h"

#include <dirent.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

/* What its neighbour would like to read. Its address is printed. */
static volatile char word[8] __attribute__((aligned(4096))) = "theirs!";

static volatile sig_atomic_t ended;
static void end(int signal) { ended = signal; }

static const char *place(const char *variable, const char *name)
{
	static char path[4096];
	const char *directory = getenv(variable);
	must(directory != NULL, variable);
	snprintf(path, sizeof path, "%s/%s", directory, name);
	return path;
}

/* The command of a Run that another would like to reach. At TERM it looks whether it is unharmed, and says so. */
int be_neighbour(void)
{
	static const char *const places[] = { "TMPDIR", "HOME", "RUNTIMED_WORKSPACE" };
	for (size_t each = 0; each < 3; each++) {
		write_file(place(places[each], "mark"), "neighbour");
		write_file(place(places[each], "scratch"), "theirs");
		write_file(place(places[each], "removed"), "theirs");
	}
	char name[64];
	snprintf(name, sizeof name, "neighbour-%s", getenv("RUNTIMED_RUN_UID") ? getenv("RUNTIMED_RUN_UID") : "");
	serves_unix(SOCK_STREAM, NULL, name);
	serves_unix(SOCK_STREAM, place("TMPDIR", "socket"), NULL);
	struct sigaction action = { .sa_handler = end };
	sigaction(SIGTERM, &action, NULL);
	sigset_t blocked, none;
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	printf("N_ABSTRACT=%s\nN_ADDRESS=%#lx\nready\n", name, (long)word);
	fflush(stdout);
	while (!ended)
		sigsuspend(&none);
	struct stat scratch_now;
	int unharmed = !memcmp((const char *)word, "theirs!", 8) && stat(place("RUNTIMED_WORKSPACE", "scratch"), &scratch_now) == 0 &&
		scratch_now.st_size == 6 && access(place("RUNTIMED_WORKSPACE", "removed"), F_OK) == 0 &&
		access(place("RUNTIMED_WORKSPACE", "planted"), F_OK) == -1;
	printf("%s\n", unharmed ? "unharmed" : "harmed");
	return !unharmed;
}

/* Uses process numbers up to `least`: inside a PID namespace small numbers are the Run's own. */
int burn(int least)
{
	for (;;) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		must(child != -1, "a process");
		waitpid(child, NULL, 0);
		if (child >= least)
			return 0;
	}
}

/* Whether the arguments of a process begin with these words, the first by its last part. */
static int runs(const char *pid, const char *program, const char *argument)
{
	char path[300], text[4096];
	snprintf(path, sizeof path, "/proc/%s/cmdline", pid);
	int fd = open(path, O_RDONLY);
	ssize_t length = fd == -1 ? -1 : read(fd, text, sizeof text - 1);
	close(fd);
	if (length <= 0)
		return 0;
	text[length] = 0;
	const char *name = strrchr(text, '/') ? strrchr(text, '/') + 1 : text;
	const char *first = text + strlen(text) + 1;
	return !strcmp(name, program) && (!argument || (first < text + length && !strcmp(first, argument)));
}

static int parent(int pid)
{
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY), found = 0;
	ssize_t length = fd == -1 ? -1 : read(fd, text, sizeof text - 1);
	close(fd);
	if (length <= 0)
		return 0;
	text[length] = 0;
	char *after = strrchr(text, ')');
	return after && sscanf(after, ") %*c %d", &found) == 1 ? found : 0;
}

static void find_file(const char *directory, const char *name, int depth, const char *label)
{
	DIR *opened = opendir(directory);
	if (!opened)
		return;
	for (struct dirent *entry; (entry = readdir(opened));) {
		char path[4096];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
		if (!strcmp(entry->d_name, name))
			printf("%s=%s\n", label, path);
		else if (entry->d_type == DT_DIR && depth)
			find_file(path, name, depth - 1, label);
	}
	closedir(opened);
}

/* Finds the neighbour from outside, as any process of the same uid can: its number, its supervisor's, its trees.
 * Arguments: the daemon's number or 0, the secret's file name, and the three roots. */
int locate(int argc, char **argv)
{
	static const char *const names[] = { "TMP", "HOME", "WORKSPACE" };
	must(argc == 5, "locate DAEMON SECRET TMP HOME WORKSPACE");
	int of = atoi(argv[0]);
	DIR *all = opendir("/proc");
	for (struct dirent *entry; all && (entry = readdir(all));) {
		int pid = atoi(entry->d_name);
		if (pid && !of && runs(entry->d_name, "runtimed", "serve"))
			printf("DAEMON_PID=%d\n", pid);
		if (!pid || !runs(entry->d_name, "probe", "neighbour"))
			continue;
		int worker = 0, up = pid;
		for (int steps = 0; up > 1 && steps < 8 && up != of; steps++) {
			char number[16];
			up = parent(up);
			snprintf(number, sizeof number, "%d", up);
			/* The outermost: in a tier with namespaces there may be one inside as well. */
			if (runs(number, "runtimed-worker", NULL))
				worker = up;
		}
		if (!of || up == of)
			printf("N_PID=%d\nWORKER_PID=%d\n", pid, worker);
	}
	for (int each = 0; each < 3; each++) {
		DIR *trees = opendir(argv[2 + each]);
		for (struct dirent *tree; trees && (tree = readdir(trees));) {
			char path[4096], label[32], mark[4700];
			snprintf(path, sizeof path, "%s/%s", argv[2 + each], tree->d_name);
			DIR *inside = tree->d_name[0] == '.' ? NULL : opendir(path);
			for (struct dirent *entry; inside && (entry = readdir(inside));) {
				snprintf(mark, sizeof mark, "%s/%s/mark", path, entry->d_name);
				if (entry->d_name[0] == '.' || access(mark, F_OK) == -1)
					continue;
				mark[strlen(mark) - strlen("/mark")] = 0;
				printf("N_%s=%s\nN_TREE_%s=%s\n", names[each], mark, names[each], path);
				snprintf(label, sizeof label, "N_SECRET");
				find_file(path, argv[1], 2, label);
			}
		}
	}
	return 0;
}
