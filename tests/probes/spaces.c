/* Namespaces and mounts. What needs a capability is tried in a user namespace of its own, which is how an unprivileged
 * process gets it: unconfined it succeeds there. */
#include "probe.h"

#include <sched.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mount.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef SYS_listmount
#define SYS_statmount 457
#define SYS_listmount 458
#endif
#define SYS_open_tree_attr_ 467

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	if (fd != -1 && write(fd, text, strlen(text)) == -1)
		errno = 0;
	close(fd);
}

void enter_own(int namespaces)
{
	char users[64], groups[64];
	snprintf(users, sizeof users, "0 %d 1", geteuid());
	snprintf(groups, sizeof groups, "0 %d 1", getegid());
	if (unshare(CLONE_NEWUSER | namespaces) == -1)
		return;
	put("/proc/self/setgroups", "deny");
	put("/proc/self/uid_map", users);
	put("/proc/self/gid_map", groups);
}

static int unshares(int flags) { return done(unshare(flags)); }
static int unshares_user(void) { return unshares(CLONE_NEWUSER); }
static int unshares_mount(void) { return unshares(CLONE_NEWUSER | CLONE_NEWNS); }
static int unshares_network(void) { return unshares(CLONE_NEWUSER | CLONE_NEWNET); }
static int unshares_pid(void) { return unshares(CLONE_NEWUSER | CLONE_NEWPID); }
static int unshares_ipc(void) { return unshares(CLONE_NEWUSER | CLONE_NEWIPC); }
static int unshares_uts(void) { return unshares(CLONE_NEWUSER | CLONE_NEWUTS); }
static int unshares_cgroup(void) { return unshares(CLONE_NEWUSER | CLONE_NEWCGROUP); }
static int unshares_time(void) { return unshares(CLONE_NEWUSER | CLONE_NEWTIME); }

static int clones(unsigned long flags)
{
	long child = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	if (child == 0)
		_exit(0);
	return child == -1 ? errno : done(waitpid(child, NULL, 0));
}
static int clones_user(void) { return clones(CLONE_NEWUSER); }
static int clones_all(void) { return clones(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID); }

static int clones3_user(void)
{
	struct clone_args arguments = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	long child = syscall(SYS_clone3, &arguments, sizeof arguments);
	if (child == 0)
		_exit(0);
	return child == -1 ? errno : done(waitpid(child, NULL, 0));
}

/* Joins the namespaces of a process of the same uid that has a user namespace of its own. */
static int joins_by_file(void)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%ld/ns/user", scene_number("SPACE_PID"));
	int fd = open(path, O_RDONLY);
	return fd == -1 ? errno : done(setns(fd, CLONE_NEWUSER));
}

static int joins_by_pidfd(void)
{
	int fd = syscall(SYS_pidfd_open, scene_number("SPACE_PID"), 0);
	return fd == -1 ? errno : done(setns(fd, CLONE_NEWUSER));
}

static int mounts_tmpfs(void)
{
	enter_own(CLONE_NEWNS);
	return done(mount("none", own("."), "tmpfs", 0, NULL));
}

static int binds_outside_in(void)
{
	enter_own(CLONE_NEWNS);
	return done(mount(scene("OUT"), own("."), NULL, MS_BIND, NULL));
}

static int remounts(void)
{
	enter_own(CLONE_NEWNS);
	return done(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL));
}

static int mounts_proc(void)
{
	enter_own(CLONE_NEWNS | CLONE_NEWPID);
	pid_t child = fork();
	if (child == 0)
		_exit(done(mount("proc", own("."), "proc", 0, NULL)));
	int status;
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

/* Something of its own to take away again, where it may mount at all. */
static void something_mounted(void)
{
	enter_own(CLONE_NEWNS);
	mount("none", own("."), "tmpfs", 0, NULL);
}

static int unmounts(void) { something_mounted(); return done(umount2(own("."), MNT_DETACH)); }

static int pivots(void)
{
	something_mounted();
	char *old = own("old");
	mkdir(old, 0700);
	return done(syscall(SYS_pivot_root, own("."), old));
}

static int changes_root(void) { enter_own(0); return done(chroot(own("."))); }
static int clones_tree(void) { enter_own(CLONE_NEWNS); return done(syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE | AT_RECURSIVE)); }
static int opens_tree(void) { return done(syscall(SYS_open_tree, AT_FDCWD, own("."), 0)); }

static int opens_tree_with_attributes(void)
{
	enter_own(CLONE_NEWNS);
	struct mount_attr attributes = { .attr_clr = MOUNT_ATTR_NOSUID };
	int answer = done(syscall(SYS_open_tree_attr_, AT_FDCWD, own("."), OPEN_TREE_CLONE, &attributes, sizeof attributes));
	return answer;
}

static int moves_mount(void)
{
	something_mounted();
	int tree = syscall(SYS_open_tree, AT_FDCWD, own("."), OPEN_TREE_CLONE);
	return done(syscall(SYS_move_mount, tree, "", AT_FDCWD, own("."), MOVE_MOUNT_F_EMPTY_PATH));
}

static int makes_filesystem(void) { enter_own(CLONE_NEWNS); return done(syscall(SYS_fsopen, "tmpfs", 0)); }

static int configures_filesystem(void)
{
	enter_own(CLONE_NEWNS);
	int fs = syscall(SYS_fsopen, "tmpfs", 0);
	return done(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
}

static int mounts_filesystem(void)
{
	enter_own(CLONE_NEWNS);
	int fs = syscall(SYS_fsopen, "tmpfs", 0);
	syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	return done(syscall(SYS_fsmount, fs, 0, 0));
}

static int picks_filesystem(void)
{
	something_mounted();
	return done(syscall(SYS_fspick, AT_FDCWD, own("."), 0));
}

static int changes_mount(void)
{
	something_mounted();
	struct mount_attr attributes = { .attr_set = MOUNT_ATTR_NOEXEC };
	return done(syscall(SYS_mount_setattr, AT_FDCWD, own("."), 0, &attributes, sizeof attributes));
}

static int names_host(void) { enter_own(CLONE_NEWUTS); return done(sethostname("probe", 5)); }
static int names_domain(void) { enter_own(CLONE_NEWUTS); return done(setdomainname("probe", 5)); }

/* struct mnt_id_req of linux/mount.h: the mounts beneath the root, with no need of /proc. */
static int lists_mounts(void)
{
	uint64_t request[3] = { 24, UINT64_MAX, 0 }, ids[64];
	return done(syscall(SYS_listmount, request, ids, 64, 0));
}

static int looks_at_mount(void)
{
	struct statx root;
	if (statx(AT_FDCWD, "/", 0, 0x4000 /* STATX_MNT_ID_UNIQUE */, &root) == -1)
		return errno;
	uint64_t request[3] = { 24, root.stx_mnt_id, 0x10 /* STATMOUNT_MNT_POINT */ }, answer[512];
	return done(syscall(SYS_statmount, request, answer, sizeof answer, 0));
}

const struct probe spaces[] = {
	{ "unshare-user", NONE, ATTACK, "make a user namespace", unshares_user },
	{ "unshare-mount", NONE, ATTACK, "make a mount namespace", unshares_mount },
	{ "unshare-network", NONE, ATTACK, "make a network namespace", unshares_network },
	{ "unshare-pid", NONE, ATTACK, "make a PID namespace", unshares_pid },
	{ "unshare-ipc", NONE, ATTACK, "make an IPC namespace", unshares_ipc },
	{ "unshare-uts", NONE, ATTACK, "make a UTS namespace", unshares_uts },
	{ "unshare-cgroup", NONE, ATTACK, "make a cgroup namespace", unshares_cgroup },
	{ "unshare-time", NONE, ATTACK, "make a time namespace", unshares_time },
	{ "clone-user", NONE, ATTACK, "fork into a user namespace", clones_user },
	{ "clone-all", NONE, ATTACK, "fork into four namespaces", clones_all },
	{ "clone3-user", NONE, ATTACK, "fork into a user namespace by clone3, whose flags no filter sees", clones3_user },
	{ "setns-file", NONE, ATTACK, "join a process's namespace by its file", joins_by_file },
	{ "setns-pidfd", NONE, ATTACK, "join a process's namespace by its pidfd", joins_by_pidfd },
	{ "mount-tmpfs", NONE, ATTACK, "mount a file system over its own directory", mounts_tmpfs },
	{ "mount-bind", NONE, ATTACK, "mount an outside directory among its own", binds_outside_in },
	{ "mount-propagation", NONE, ATTACK, "change how mounts spread", remounts },
	{ "mount-proc", NONE, ATTACK, "mount another /proc", mounts_proc },
	{ "umount", NONE, ATTACK, "unmount", unmounts },
	{ "pivot-root", NONE, ATTACK, "exchange the root", pivots },
	{ "chroot", NONE, ATTACK, "change the root", changes_root },
	{ "open-tree", NONE, ATTACK, "take a handle of a mount", opens_tree },
	{ "open-tree-clone", NONE, ATTACK, "clone all mounts", clones_tree },
	{ "open-tree-attr", NONE, ATTACK, "clone a mount with other attributes", opens_tree_with_attributes },
	{ "move-mount", NONE, ATTACK, "attach a mount", moves_mount },
	{ "fsopen", NONE, ATTACK, "begin a new file system", makes_filesystem },
	{ "fsconfig", NONE, ATTACK, "configure a new file system", configures_filesystem },
	{ "fsmount", NONE, ATTACK, "mount a new file system", mounts_filesystem },
	{ "fspick", NONE, ATTACK, "reconfigure a mounted file system", picks_filesystem },
	{ "mount-setattr", NONE, ATTACK, "change a mount's attributes", changes_mount },
	{ "sethostname", NONE, ATTACK, "rename the machine", names_host },
	{ "setdomainname", NONE, ATTACK, "rename the machine's domain", names_domain },
	{ "listmount", NONE, ATTACK, "list the pod's mounts without /proc", lists_mounts },
	{ "statmount", NONE, ATTACK, "ask where a mount is, without /proc", looks_at_mount },
	{ 0 },
};
