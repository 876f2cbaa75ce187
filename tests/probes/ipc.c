/* Objects that processes of one uid share: System V IPC, POSIX queues and memory, keyrings, unix sockets, and watching. */
#include "probe.h"

#include <linux/keyctl.h>
#include <mqueue.h>
#include <poll.h>
#include <stddef.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>

struct message { long kind; char text[8]; };

static int attaches(void) { void *at = shmat(scene_number("SHM"), NULL, 0); return at == (void *)-1 ? errno : 0; }
static int attaches_by_key(void) { return done(shmget(scene_number("SHM_KEY"), 0, 0)); }
static int stats_segment(void) { struct shmid_ds s; return done(shmctl(scene_number("SHM"), IPC_STAT, &s)); }
static int lists_segments(void) { struct shm_info s; return done(shmctl(0, SHM_INFO, (struct shmid_ds *)&s)); }
static int detaches(void)
{
	/* Of an address where nothing is attached: EINVAL from a kernel that looks, and that is being let in. */
	int answer = done(shmdt((void *)4096));
	return answer == EINVAL ? 0 : answer;
}

static int makes_segment(void)
{
	int id = shmget(IPC_PRIVATE, 4096, 0600);
	if (id == -1)
		return errno;
	shmctl(id, IPC_RMID, NULL);
	return 0;
}

static int sends_message(void)
{
	struct message m = { 1, "theirs" };
	return done(msgsnd(scene_number("MSG"), &m, sizeof m.text, IPC_NOWAIT));
}

static int receives_message(void)
{
	struct message m;
	return done(msgrcv(scene_number("MSG"), &m, sizeof m.text, 0, IPC_NOWAIT | MSG_NOERROR | MSG_COPY));
}

static int stats_queue(void) { struct msqid_ds s; return done(msgctl(scene_number("MSG"), IPC_STAT, &s)); }

static int makes_queue(void)
{
	int id = msgget(IPC_PRIVATE, 0600);
	if (id == -1)
		return errno;
	msgctl(id, IPC_RMID, NULL);
	return 0;
}

static int takes_semaphore(void)
{
	struct sembuf add = { 0, 1, IPC_NOWAIT };
	return done(semop(scene_number("SEM"), &add, 1));
}

static int takes_semaphore_in_time(void)
{
	struct sembuf add = { 0, 1, IPC_NOWAIT };
	struct timespec soon = { 0, 1 };
	return done(semtimedop(scene_number("SEM"), &add, 1, &soon));
}

static int reads_semaphore(void) { return done(semctl(scene_number("SEM"), 0, GETVAL)); }

static int makes_semaphore(void)
{
	int id = semget(IPC_PRIVATE, 1, 0600);
	if (id == -1)
		return errno;
	semctl(id, 0, IPC_RMID);
	return 0;
}

static int opens_posix_queue(void) { return done(mq_open(scene("MQ"), O_RDWR)); }
static int removes_posix_queue(void) { return done(mq_unlink(scene("MQ_SCRATCH"))); }

static int makes_posix_queue(void)
{
	char name[64];
	snprintf(name, sizeof name, "/probe-made-%d", getpid());
	struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 1 };
	int answer = done(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes));
	/* What was made although the opening was refused counts as made. */
	if (mq_unlink(name) == 0)
		return 0;
	return answer;
}

static int opens_posix_memory(void) { return done(shm_open(scene("POSIX_SHM"), O_RDWR, 0)); }
static int removes_posix_memory(void) { return done(shm_unlink(scene("POSIX_SHM_SCRATCH"))); }

static int key(int operation, long a, long b, long c) { return done(syscall(SYS_keyctl, operation, a, b, c, 0)); }
static int finds_key(void) { return key(KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, (long)"user", (long)scene("KEY")); }
static int lists_keyring(void) { char b[64]; return key(KEYCTL_READ, KEY_SPEC_USER_KEYRING, (long)b, sizeof b); }
static int joins_session(void) { return key(KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0); }
static int requests_key(void) { return done(syscall(SYS_request_key, "user", scene("KEY"), NULL, 0)); }

static int adds_key(void)
{
	return done(syscall(SYS_add_key, "user", "probe-added", "x", 1UL, KEY_SPEC_USER_KEYRING));
}

static int connects(int kind, const char *name, int is_abstract)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path + is_abstract, sizeof address.sun_path - is_abstract, "%s", name);
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + is_abstract + strlen(name) + !is_abstract;
	int fd = socket(AF_UNIX, kind, 0);
	if (fd == -1)
		return errno;
	return done(connect(fd, (struct sockaddr *)&address, length));
}

static int connects_abstract(void) { return connects(SOCK_STREAM, scene("ABSTRACT"), 1); }
static int connects_abstract_datagram(void) { return connects(SOCK_DGRAM, scene("ABSTRACT_DGRAM"), 1); }
static int connects_path(void) { return connects(SOCK_STREAM, in("OUT", "stream"), 0); }
static int connects_path_datagram(void) { return connects(SOCK_DGRAM, in("OUT", "dgram"), 0); }

static int sends_abstract_datagram(void)
{
	const char *name = scene("ABSTRACT_DGRAM");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	memcpy(address.sun_path + 1, name, strlen(name));
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	return done(sendto(fd, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&address, length));
}

/* The target hands a descriptor of its file to whoever connects. */
static int receives_descriptor(void)
{
	const char *name = scene("ABSTRACT");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	memcpy(address.sun_path + 1, name, strlen(name));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)) == -1)
		return errno;
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	if (recvmsg(fd, &message, 0) == -1)
		return errno;
	return CMSG_FIRSTHDR(&message) ? 0 : ENOMSG;
}

static int watch(const char *path)
{
	int fd = inotify_init1(IN_NONBLOCK);
	if (fd == -1)
		return errno;
	return done(inotify_add_watch(fd, path, IN_ALL_EVENTS));
}
static int watches(void) { return watch(scene("OUT")); }
static int watches_tmp(void) { return watch("/tmp"); }
static int watches_old(void) { return done(syscall(SYS_inotify_init)); }

static int watches_filesystem(void)
{
	int fd = syscall(SYS_fanotify_init, FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);
	return fd == -1 ? errno : 0;
}

static int marks(void)
{
	int fd = syscall(SYS_fanotify_init, FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);
	return done(syscall(SYS_fanotify_mark, fd, FAN_MARK_ADD, (uint64_t)FAN_CREATE, AT_FDCWD, scene("OUT")));
}

static int notifies(void)
{
	int fd = open(in("OUT", "dir"), O_RDONLY | O_DIRECTORY);
	if (fd == -1)
		return errno;
	return done(fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
}

const struct probe ipc[] = {
	{ "shm-attach", NONE, ATTACK, "attach another's shared memory", attaches },
	{ "shm-find", NONE, ATTACK, "find another's shared memory by its key", attaches_by_key },
	{ "shm-stat", NONE, ATTACK, "ask about another's shared memory", stats_segment },
	{ "shm-info", NONE, ATTACK, "ask how much shared memory there is", lists_segments },
	{ "shm-detach", NONE, ATTACK, "call shmdt", detaches },
	{ "shm-make", NONE, ATTACK, "leave shared memory behind", makes_segment },
	{ "msg-send", NONE, ATTACK, "send to another's queue", sends_message },
	{ "msg-receive", NONE, ATTACK, "read from another's queue", receives_message },
	{ "msg-stat", NONE, ATTACK, "ask about another's queue", stats_queue },
	{ "msg-make", NONE, ATTACK, "leave a queue behind", makes_queue },
	{ "sem-change", NONE, ATTACK, "change another's semaphore", takes_semaphore },
	{ "sem-change-timed", NONE, ATTACK, "change another's semaphore (semtimedop)", takes_semaphore_in_time },
	{ "sem-read", NONE, ATTACK, "read another's semaphore", reads_semaphore },
	{ "sem-make", NONE, ATTACK, "leave a semaphore behind", makes_semaphore },
	{ "posix-queue-open", NONE, ATTACK, "open another's POSIX queue", opens_posix_queue },
	{ "posix-queue-make", NONE, ATTACK, "leave a POSIX queue behind", makes_posix_queue },
	{ "posix-queue-remove", NONE, ATTACK, "remove another's POSIX queue", removes_posix_queue },
	{ "posix-memory-open", NONE, ATTACK, "open another's POSIX shared memory", opens_posix_memory },
	{ "posix-memory-remove", NONE, ATTACK, "remove another's POSIX shared memory", removes_posix_memory },
	{ "key-search", NONE, ATTACK, "find a key in the uid's keyring", finds_key },
	{ "key-list", NONE, ATTACK, "list the uid's keyring", lists_keyring },
	{ "key-session", NONE, ATTACK, "make a session keyring", joins_session },
	{ "key-request", NONE, ATTACK, "request a key", requests_key },
	{ "key-add", NONE, ATTACK, "leave a key in the uid's keyring", adds_key },
	{ "unix-abstract-connect", NONE, ATTACK, "connect to another's abstract socket", connects_abstract },
	{ "unix-abstract-connect-datagram", NONE, ATTACK, "connect to another's abstract datagram socket", connects_abstract_datagram },
	{ "unix-abstract-send", NONE, ATTACK, "send to another's abstract socket", sends_abstract_datagram },
	{ "unix-descriptor", NONE, ATTACK, "be handed a descriptor (SCM_RIGHTS)", receives_descriptor },
	{ "unix-path-connect", NONE, ATTACK, "connect to another's socket by its path", connects_path },
	{ "unix-path-connect-datagram", NONE, ATTACK, "connect to another's datagram socket by its path", connects_path_datagram },
	{ "inotify", NONE, ATTACK, "learn the names of what another makes (inotify)", watches },
	{ "inotify-tmp", NONE, ATTACK, "learn the names of new trees (inotify)", watches_tmp },
	{ "inotify-old", NONE, ATTACK, "make an inotify instance by the old call", watches_old },
	{ "fanotify", NONE, ATTACK, "make a fanotify group", watches_filesystem },
	{ "fanotify-mark", NONE, ATTACK, "learn the names of what another makes (fanotify)", marks },
	{ "dnotify", NONE, ATTACK, "learn that another makes something (F_NOTIFY)", notifies },
	{ 0 },
};
