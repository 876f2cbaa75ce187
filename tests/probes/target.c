/* The target: a process of the same uid with everything that is worth to reach, and what it puts around itself. */
#include "probe.h"

#include <arpa/inet.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <linux/keyctl.h>

/* What a neighbour would like to read. Its address is printed. */
static volatile char word[8] __attribute__((aligned(4096))) = "theirs!";

static const char *root;

static const char *at(const char *name)
{
	static char paths[4][4096];
	static unsigned next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof paths[0], "%s/%s", root, name);
	return path;
}

void must(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "the scene cannot be set: %s: %s\n", what, strerror(errno));
	exit(1);
}

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
	must(fd != -1 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
	close(fd);
}

static void copy(const char *from, const char *to, mode_t mode)
{
	char bytes[65536];
	ssize_t count;
	int in = open(from, O_RDONLY), out = open(to, O_CREAT | O_WRONLY | O_TRUNC, 0700);
	must(in != -1 && out != -1, from);
	while ((count = read(in, bytes, sizeof bytes)) > 0)
		must(write(out, bytes, count) == count, to);
	fchmod(out, mode);
	close(in);
	close(out);
}

static const char *scratch(const char *name)
{
	char path[256];
	snprintf(path, sizeof path, "scratch/%s", name);
	return at(path);
}

static char queue[64], queue_scratch[64], memory[64], memory_scratch[64];

static void name_objects(pid_t pid)
{
	snprintf(queue, sizeof queue, "/probe-%d", pid);
	snprintf(queue_scratch, sizeof queue_scratch, "/probe-scratch-%d", pid);
	snprintf(memory, sizeof memory, "/probe-%d", pid);
	snprintf(memory_scratch, sizeof memory_scratch, "/probe-scratch-%d", pid);
}

static void make_objects(void)
{
	struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 8 };
	int fd = mq_open(queue, O_CREAT | O_RDWR, 0600, &attributes);
	must(fd != -1, "a POSIX queue");
	close(fd);
	fd = mq_open(queue_scratch, O_CREAT | O_RDWR, 0600, &attributes);
	must(fd != -1, "a POSIX queue");
	close(fd);
	must((fd = shm_open(memory, O_CREAT | O_RDWR, 0600)) != -1, "POSIX memory");
	close(fd);
	must((fd = shm_open(memory_scratch, O_CREAT | O_RDWR, 0600)) != -1, "POSIX memory");
	close(fd);
}

static int remove_objects(void)
{
	mq_unlink(queue);
	mq_unlink(queue_scratch);
	shm_unlink(memory);
	return shm_unlink(memory_scratch);
}

/* Everything that an attempt may have taken or made is as at first, before each round of attempts. */
int reset_scratch(const char *outside, int pid)
{
	static const char *const made[] = { "created", "made-fifo", "made-link", "made-socket", "linked-out", "moved-out",
		"renamed-to" };
	static const char *const there[] = { "truncated", "removed", "moved-in", "exchanged", "overwritten", "renamed" };
	root = outside;
	mkdir(at("scratch"), 0700);
	for (size_t each = 0; each < sizeof made / sizeof *made; each++)
		unlink(scratch(made[each]));
	rmdir(scratch("made-dir"));
	mkdir(scratch("removed-dir"), 0700);
	mkdir(scratch("locked-dir"), 0700);
	for (size_t each = 0; each < sizeof there / sizeof *there; each++)
		write_file(scratch(there[each]), "theirs");
	name_objects(pid);
	make_objects();
	return 0;
}

static int listens_tcp(int domain, int everywhere, int reuse, int *port)
{
	int on = 1, fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(everywhere ? INADDR_ANY : INADDR_LOOPBACK) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct sockaddr *address = domain == AF_INET ? (struct sockaddr *)&four : (struct sockaddr *)&six;
	socklen_t length = domain == AF_INET ? sizeof four : sizeof six;
	if (reuse)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
	if (fd == -1 || bind(fd, address, length) == -1 || listen(fd, 64) == -1)
		return -1;
	must(getsockname(fd, address, &length) == 0, "a port");
	*port = ntohs(domain == AF_INET ? four.sin_port : six.sin6_port);
	return fd;
}

/* A port that nobody has, as far as can be known. */
static int free_port(void)
{
	int port = 0;
	close(listens_tcp(AF_INET, 1, 0, &port));
	return port;
}

int serves_unix(int kind, const char *path, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t length = sizeof address;
	if (path) {
		unlink(path);
		snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	} else {
		memcpy(address.sun_path + 1, name, strlen(name));
		length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
	}
	int fd = socket(AF_UNIX, kind | SOCK_CLOEXEC, 0);
	must(fd != -1 && bind(fd, (struct sockaddr *)&address, length) == 0, "a unix socket");
	if (kind == SOCK_STREAM)
		must(listen(fd, 64) == 0, "a unix socket");
	return fd;
}

/* Gives whoever connects a descriptor of a file that is not his. */
static void hand_over(int server, int file)
{
	int client = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { "x", 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &file, sizeof file);
	sendmsg(client, &message, MSG_NOSIGNAL);
	close(client);
}

static int winches = -1;

static void count(int signal)
{
	(void)signal;
	if (write(winches, "x", 1) == -1)
		winches = -1;
}

/* A child in a user namespace of its own, for others to join; 0 where there are none. */
static pid_t with_namespace(void)
{
	int ready[2];
	char made = 0;
	must(pipe(ready) == 0, "a pipe");
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		made = unshare(CLONE_NEWUSER) == 0;
		/* Dumpable again: with capabilities of its own it would be out of reach for another reason. */
		prctl(PR_SET_DUMPABLE, 1);
		must(write(ready[1], &made, 1) == 1, "a child");
		pause();
		_exit(0);
	}
	must(read(ready[0], &made, 1) == 1, "a child");
	if (!made)
		kill(child, SIGKILL);
	return made ? child : 0;
}

/* A process of the same uid with everything that it is worth to reach. Prints the scene, and ends with its input. */
int be_target(const char *outside)
{
	root = outside;
	setsid();
	write_file(at("file"), "theirs");
	setxattr(at("file"), "user.theirs", "x", 1, 0);
	mkdir(at("dir"), 0700);
	unlink(at("link"));
	must(symlink("file", at("link")) == 0, "a link");
	mkfifo(at("fifo"), 0600);
	copy("/proc/self/exe", at("program"), 0700);
	copy("/bin/true", at("dynamic"), 0700);
	write_file(at("winches"), "");
	winches = open(at("winches"), O_WRONLY | O_APPEND | O_CLOEXEC);
	signal(SIGWINCH, count);
	int file = open(at("file"), O_RDWR | O_CLOEXEC);
	must(chdir(outside) == 0, "the directory");
	must(reset_scratch(outside, getpid()) == 0, "the scratch");

	char name[64], datagram[64], key[64];
	snprintf(name, sizeof name, "probe-%d", getpid());
	snprintf(datagram, sizeof datagram, "probe-datagram-%d", getpid());
	snprintf(key, sizeof key, "probe-%d", getpid());
	int unix_server = serves_unix(SOCK_STREAM, NULL, name);
	serves_unix(SOCK_DGRAM, NULL, datagram);
	serves_unix(SOCK_STREAM, at("stream"), NULL);
	serves_unix(SOCK_DGRAM, at("dgram"), NULL);

	int tcp, tcp6 = 0, listed, any, reused, udp;
	must(listens_tcp(AF_INET, 0, 0, &tcp) != -1, "a TCP server");
	must(listens_tcp(AF_INET, 0, 0, &listed) != -1, "a TCP server");
	must(listens_tcp(AF_INET, 1, 0, &any) != -1, "a TCP server");
	must(listens_tcp(AF_INET, 1, 1, &reused) != -1, "a TCP server");
	if (listens_tcp(AF_INET6, 0, 0, &tcp6) == -1)
		tcp6 = 0;
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof address;
	int datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	must(bind(datagrams, (struct sockaddr *)&address, sizeof address) == 0, "a UDP server");
	getsockname(datagrams, (struct sockaddr *)&address, &length);
	udp = ntohs(address.sin_port);

	int shm = shmget(getpid(), 4096, IPC_CREAT | 0600);
	int msg = msgget(IPC_PRIVATE, 0600), sem = semget(IPC_PRIVATE, 1, 0600);
	must(shm != -1 && msg != -1 && sem != -1, "System V objects");
	struct { long kind; char text[8]; } message = { 1, "theirs" };
	must(msgsnd(msg, &message, sizeof message.text, 0) == 0, "a message");
	/* Refused under some pods' filters: then there is no key to find. */
	long kept = syscall(SYS_add_key, "user", key, "theirs", 6UL, KEY_SPEC_USER_KEYRING);

	int unlock = 0, number = -1, master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	ioctl(master, TIOCSPTLCK, &unlock);
	ioctl(master, TIOCGPTN, &number);
	pid_t space = with_namespace();

	printf("FILE=%d\n", file);
	printf("OUT=%s\nPID=%d\nADDRESS=%#lx\nABSTRACT=%s\nABSTRACT_DGRAM=%s\n", outside, getpid(), (long)word, name, datagram);
	printf("TCP=%d\nTCP_LISTED=%d\nTCP_ANY=%d\nTCP_REUSED=%d\nUDP=%d\n", tcp, listed, any, reused, udp);
	printf("LISTEN=%d\nFREE_PORT=%d\nSHM=%d\nSHM_KEY=%d\nMSG=%d\nSEM=%d\n", free_port(), free_port(), shm, getpid(), msg, sem);
	printf("MQ=%s\nMQ_SCRATCH=%s\nPOSIX_SHM=%s\nPOSIX_SHM_SCRATCH=%s\n", queue, queue_scratch, memory, memory_scratch);
	if (kept != -1)
		printf("KEY=%s\n", key);
	if (tcp6)
		printf("TCP6=%d\n", tcp6);
	if (number != -1)
		printf("PTS=/dev/pts/%d\n", number);
	if (space)
		printf("SPACE_PID=%d\n", space);
	printf("ready\n");
	fflush(stdout);

	struct pollfd events[] = { { .fd = 0, .events = POLLIN }, { .fd = unix_server, .events = POLLIN } };
	char byte;
	for (;;) {
		if (poll(events, 2, -1) == -1 && errno != EINTR)
			break;
		if (events[1].revents)
			hand_over(unix_server, file);
		if (events[0].revents && read(0, &byte, 1) <= 0)
			break;
		events[0].revents = events[1].revents = 0;
	}
	shmctl(shm, IPC_RMID, NULL);
	msgctl(msg, IPC_RMID, NULL);
	semctl(sem, 0, IPC_RMID);
	if (kept != -1)
		syscall(SYS_keyctl, KEYCTL_UNLINK, kept, KEY_SPEC_USER_KEYRING);
	remove_objects();
	return 0;
}
