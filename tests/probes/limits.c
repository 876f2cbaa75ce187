/* Limits that the kernel holds by itself: a Run with 64 open files and files of at most 1 MiB. What is sampled (memory,
 * processes, disk) ends a whole Run, and is tested by whole Runs. */
#include "probe.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

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

/* By the limit of file locks, which no kernel of today looks at, a daemon finds what an earlier one left. */
static int sheds_mark(void)
{
	struct rlimit limit = { 7, 7 };
	if (syscall(SYS_prlimit64, 0, RLIMIT_LOCKS, &limit, NULL) == 0)
		return 0;
	int answer = errno;
	/* The same where the low half of the pointer is 0. */
	void *far = mmap((void *)(1ul << 32), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (far == MAP_FAILED)
		return answer;
	memcpy(far, &limit, sizeof limit);
	return syscall(SYS_prlimit64, 0, RLIMIT_LOCKS, far, NULL) == 0 ? 0 : answer;
}
#ifdef SYS_setrlimit
static int sheds_mark_otherwise(void)
{
	struct rlimit limit = { 7, 7 };
	return done(syscall(SYS_setrlimit, RLIMIT_LOCKS, &limit));
}
#else
static int sheds_mark_otherwise(void) { return sheds_mark(); }
#endif

const struct probe limits[] = {
	{ "limit-open-files", LIMITS, ATTACK, "open more files than the limit", opens_many },
	{ "limit-raise-files", LIMITS, ATTACK, "raise the limit of open files", raises_files },
	{ "limit-write", LIMITS, ATTACK, "write a larger file than the limit", writes_much },
	{ "limit-grow", LIMITS, ATTACK, "grow a file beyond the limit", grows_much },
	{ "limit-allocate", LIMITS, ATTACK, "allocate a file beyond the limit", allocates_much },
	{ "limit-raise-size", LIMITS, ATTACK, "raise the limit of a file's size", raises_size },
	{ "limit-mark", LIMITS, ATTACK, "shed the mark by which a daemon finds what another left", sheds_mark },
	{ "limit-mark-set", LIMITS, ATTACK, "the same with setrlimit", sheds_mark_otherwise },
	{ 0 },
};
