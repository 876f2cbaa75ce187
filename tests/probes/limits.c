/* Limits that the kernel holds by itself: a Run with 64 open files and files of at most 1 MiB. What is sampled (memory,
 * processes, disk) ends a whole Run, and is tested by whole Runs. */
#include "probe.h"

#include <signal.h>
#include <sys/resource.h>

static int opens_many(void)
{
	for (int count = 0; count < 200; count++)
		if (open("/dev/null", O_RDONLY) == -1)
			return errno;
	return 0;
}

static int writes_much(void)
{
	signal(SIGXFSZ, SIG_IGN);
	int fd = open(fresh(), O_CREAT | O_EXCL | O_WRONLY, 0600);
	return fd == -1 ? errno : done(pwrite(fd, "x", 1, 2 << 20));
}

static int grows_much(void)
{
	signal(SIGXFSZ, SIG_IGN);
	int fd = open(fresh(), O_CREAT | O_EXCL | O_WRONLY, 0600);
	return fd == -1 ? errno : done(ftruncate(fd, 2 << 20));
}

static int allocates_much(void)
{
	signal(SIGXFSZ, SIG_IGN);
	int fd = open(fresh(), O_CREAT | O_EXCL | O_WRONLY, 0600);
	return fd == -1 ? errno : done(posix_fallocate(fd, 0, 2 << 20) ? (errno = EFBIG, -1) : 0);
}

static int raises(int what, rlim_t to)
{
	struct rlimit limit = { to, to };
	return done(setrlimit(what, &limit));
}
static int raises_files(void) { return raises(RLIMIT_NOFILE, 1024); }
static int raises_size(void) { return raises(RLIMIT_FSIZE, 4 << 20); }

const struct probe limits[] = {
	{ "limit-open-files", LIMITS, ATTACK, "open more files than the limit", opens_many },
	{ "limit-raise-files", LIMITS, ATTACK, "raise the limit of open files", raises_files },
	{ "limit-write", LIMITS, ATTACK, "write a larger file than the limit", writes_much },
	{ "limit-grow", LIMITS, ATTACK, "grow a file beyond the limit", grows_much },
	{ "limit-allocate", LIMITS, ATTACK, "allocate a file beyond the limit", allocates_much },
	{ "limit-raise-size", LIMITS, ATTACK, "raise the limit of a file's size", raises_size },
	{ 0 },
};
