/* Files outside the grants, of the same uid and with a known path: contents, names, and ways around a path. */
#include "probe.h"

#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

static int reads(void) { return opens(in("OUT", "file"), O_RDONLY); }
static int writes(void) { return opens(in("OUT", "file"), O_WRONLY); }
static int reads_and_writes(void) { return opens(in("OUT", "file"), O_RDWR); }
static int appends(void) { return opens(in("OUT", "file"), O_WRONLY | O_APPEND); }
static int truncates(void) { return done(truncate(in("OUT", "scratch/truncated"), 0)); }
static int opens_truncating(void) { return opens(in("OUT", "scratch/truncated"), O_WRONLY | O_TRUNC); }
static int creates(void) { return opens(in("OUT", "scratch/created"), O_CREAT | O_EXCL | O_WRONLY); }
static int creates_unnamed(void) { return opens(in("OUT", "scratch"), O_TMPFILE | O_WRONLY); }
static int lists(void) { return opens(in("OUT", "dir"), O_RDONLY | O_DIRECTORY); }
static int removes(void) { return done(unlink(in("OUT", "scratch/removed"))); }
static int removes_directory(void) { return done(rmdir(in("OUT", "scratch/removed-dir"))); }
static int makes_directory(void) { return done(mkdir(in("OUT", "scratch/made-dir"), 0700)); }
static int makes_fifo(void) { return done(mkfifo(in("OUT", "scratch/made-fifo"), 0600)); }
static int makes_link(void) { return done(symlink("/etc/passwd", in("OUT", "scratch/made-link"))); }
static int links_in(void) { return done(link(in("OUT", "file"), fresh())); }

static int makes_socket(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", in("OUT", "scratch/made-socket"));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return done(bind(fd, (struct sockaddr *)&address, sizeof address));
}

/* A file of the process's own. */
static char *mine(void)
{
	char *path = fresh();
	if (opens(path, O_CREAT | O_EXCL | O_WRONLY))
		cannot("no file can be made in TMPDIR");
	return path;
}

static int links_out(void) { return done(link(mine(), in("OUT", "scratch/linked-out"))); }
static int moves_out(void) { return done(rename(mine(), in("OUT", "scratch/moved-out"))); }
static int moves_in(void) { return done(rename(in("OUT", "scratch/moved-in"), fresh())); }

static int exchanges(void)
{
	return done(renameat2(AT_FDCWD, mine(), AT_FDCWD, in("OUT", "scratch/exchanged"), RENAME_EXCHANGE));
}

static int overwrites_by_rename(void) { return done(rename(mine(), in("OUT", "scratch/overwritten"))); }

static int renames_within(void)
{
	return done(rename(in("OUT", "scratch/renamed"), in("OUT", "scratch/renamed-to")));
}

static int executes_it(void)
{
	char *argv[] = { in("OUT", "program"), "true", NULL };
	return executes(argv);
}

static int executes_by_loader(void)
{
	/* The loader maps the program itself, and no rule about executing is asked. */
	char *argv[] = { "/lib64/ld-linux-x86-64.so.2", in("OUT", "dynamic"), NULL };
	int answer = executes(argv);
	return answer == 127 || answer == 1 ? EACCES : answer;
}

static int executes_by_descriptor(void)
{
	int fd = open(in("OUT", "program"), O_PATH | O_CLOEXEC);
	if (fd == -1)
		return errno;
	char *const argv[] = { "program", "true", NULL }, *const none[] = { NULL };
	pid_t child = fork();
	if (child == 0) {
		syscall(SYS_execveat, fd, "", argv, none, AT_EMPTY_PATH);
		_exit(errno);
	}
	int status;
	return waitpid(child, &status, 0) == -1 ? errno : WEXITSTATUS(status);
}

static int reads_through_link(void)
{
	char *link = fresh();
	if (symlink(in("OUT", "file"), link) == -1)
		return errno;
	return opens(link, O_RDONLY);
}

static int writes_through_link(void)
{
	char *link = fresh();
	if (symlink(in("OUT", "file"), link) == -1)
		return errno;
	return opens(link, O_WRONLY);
}

static int reads_upwards(void)
{
	/* From its own tree to the root by `..`, as many as there may be. */
	char path[4096] = "";
	for (int depth = 0; depth < 40; depth++)
		strcat(path, "../");
	strcat(path, scene("OUT") + 1);
	strcat(path, "/file");
	if (chdir(own(".")) == -1)
		return errno;
	return opens(path, O_RDONLY);
}

static int reads_from_inside(void)
{
	if (chdir(scene("OUT")) == -1)
		return errno;
	return opens("file", O_RDONLY);
}

static int reads_beneath_path_descriptor(void)
{
	int fd = open(scene("OUT"), O_PATH | O_DIRECTORY);
	if (fd == -1)
		return errno;
	return done(openat(fd, "file", O_RDONLY));
}

static int reopens_path_descriptor(void)
{
	int fd = open(in("OUT", "file"), O_PATH);
	if (fd == -1)
		return errno;
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return opens(path, O_RDONLY);
}

static int reads_by_openat2(void)
{
	struct open_how how = { .flags = O_RDONLY };
	return done(syscall(SYS_openat2, AT_FDCWD, in("OUT", "file"), &how, sizeof how));
}

static int reads_through_root_link(void)
{
	char path[4096];
	snprintf(path, sizeof path, "/proc/self/root%s/file", scene("OUT"));
	return opens(path, O_RDONLY);
}

static int reads_through_dev_fd(void)
{
	char path[4096];
	snprintf(path, sizeof path, "/dev/fd/../root%s/file", scene("OUT"));
	return opens(path, O_RDONLY);
}

static int reads_fifo(void) { return opens(in("OUT", "fifo"), O_RDONLY | O_NONBLOCK); }
/* Makes a file that is gone afterwards. */
static int makes_in(const char *directory)
{
	char path[128];
	snprintf(path, sizeof path, "%s/probe-%d", directory, getpid());
	int answer = opens(path, O_CREAT | O_EXCL | O_WRONLY);
	unlink(path);
	return answer;
}
static int makes_in_tmp(void) { return makes_in("/tmp"); }
static int makes_in_var_tmp(void) { return makes_in("/var/tmp"); }
static int makes_in_shm(void) { return makes_in("/dev/shm"); }
static int lists_tmp(void) { return opens("/tmp", O_RDONLY | O_DIRECTORY); }
static int lists_root(void) { return opens("/", O_RDONLY | O_DIRECTORY); }
static int reads_sys(void) { return opens("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY); }
static int lists_cgroups(void) { return opens("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY); }

const struct probe files[] = {
	{ "file-read", NONE, ATTACK, "open a file for reading", reads },
	{ "file-write", NONE, ATTACK, "open a file for writing", writes },
	{ "file-read-write", NONE, ATTACK, "open a file for both", reads_and_writes },
	{ "file-append", NONE, ATTACK, "open a file for appending", appends },
	{ "file-truncate", NONE, ATTACK, "truncate a file by its path", truncates },
	{ "file-open-truncate", NONE, ATTACK, "truncate a file while opening it", opens_truncating },
	{ "file-create", NONE, ATTACK, "make a file in a directory", creates },
	{ "file-create-unnamed", NONE, ATTACK, "make a file without a name in a directory (O_TMPFILE)", creates_unnamed },
	{ "file-list", NONE, ATTACK, "list a directory", lists },
	{ "file-remove", NONE, ATTACK, "remove a file", removes },
	{ "file-remove-directory", NONE, ATTACK, "remove a directory", removes_directory },
	{ "file-make-directory", NONE, ATTACK, "make a directory", makes_directory },
	{ "file-make-fifo", NONE, ATTACK, "make a FIFO", makes_fifo },
	{ "file-make-symlink", NONE, ATTACK, "make a symbolic link", makes_link },
	{ "file-make-socket", NONE, ATTACK, "bind a unix socket in a directory", makes_socket },
	{ "file-link-in", NONE, ATTACK, "give a file a second name among its own", links_in },
	{ "file-link-out", NONE, ATTACK, "give a file of its own a name outside", links_out },
	{ "file-move-in", NONE, ATTACK, "move a file among its own", moves_in },
	{ "file-move-out", NONE, ATTACK, "move a file of its own outside", moves_out },
	{ "file-exchange", NONE, ATTACK, "exchange a file with one of its own", exchanges },
	{ "file-overwrite-by-rename", NONE, ATTACK, "put a file of its own in another's place", overwrites_by_rename },
	{ "file-rename", NONE, ATTACK, "rename a file within its directory", renames_within },
	{ "file-execute", NONE, ATTACK, "execute a program", executes_it },
	{ "file-execute-by-loader", NONE, ATTACK, "have the dynamic loader map a program", executes_by_loader },
	{ "file-execute-by-descriptor", NONE, ATTACK, "execute a program by a path descriptor (execveat)", executes_by_descriptor },
	{ "file-read-through-link", NONE, ATTACK, "read through a symbolic link of its own", reads_through_link },
	{ "file-write-through-link", NONE, ATTACK, "write through a symbolic link of its own", writes_through_link },
	{ "file-read-upwards", NONE, ATTACK, "read by `..` from its own tree", reads_upwards },
	{ "file-read-from-inside", NONE, ATTACK, "change into the directory, then read", reads_from_inside },
	{ "file-read-beneath-path-fd", NONE, ATTACK, "read beneath a path descriptor of the directory", reads_beneath_path_descriptor },
	{ "file-reopen-path-fd", NONE, ATTACK, "reopen a path descriptor through /proc/self/fd", reopens_path_descriptor },
	{ "file-read-openat2", NONE, ATTACK, "read by openat2", reads_by_openat2 },
	{ "file-read-proc-root", NONE, ATTACK, "read through /proc/self/root", reads_through_root_link },
	{ "file-read-dev-fd", NONE, ATTACK, "read through /dev/fd", reads_through_dev_fd },
	{ "file-read-fifo", NONE, ATTACK, "read another's FIFO", reads_fifo },
	{ "file-make-in-var-tmp", NONE, ATTACK, "make a file in /var/tmp", makes_in_var_tmp },
	{ "file-make-in-tmp", NONE, ATTACK, "make a file in the pod's /tmp", makes_in_tmp },
	{ "file-make-in-shm", NONE, ATTACK, "make a file in the pod's /dev/shm", makes_in_shm },
	{ "file-list-tmp", NONE, ATTACK, "list the pod's /tmp, where the trees' names are", lists_tmp },
	{ "file-list-root", NONE, ATTACK, "list the root directory", lists_root },
	{ "file-read-sys", NONE, ATTACK, "read the machine's settings in /sys", reads_sys },
	{ "file-list-cgroups", NONE, ATTACK, "list the control groups", lists_cgroups },
	{ 0 },
};
