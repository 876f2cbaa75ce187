/* Devices and terminals. */
#include "probe.h"

#include <linux/random.h>
#include <linux/tiocl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <termios.h>

static int asks_device(void)
{
	int entropy, fd = open("/dev/urandom", O_RDONLY);
	return fd == -1 ? errno : done(ioctl(fd, RNDGETENTCNT, &entropy));
}

/* A terminal of its own to type into; the session must be one's own for that. */
static int terminal(void)
{
	setsid();
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	if (master == -1)
		return -1;
	int unlock = 0, number = 0;
	ioctl(master, TIOCSPTLCK, &unlock);
	ioctl(master, TIOCGPTN, &number);
	char path[32];
	snprintf(path, sizeof path, "/dev/pts/%d", number);
	int slave = open(path, O_RDWR);
	if (slave != -1)
		ioctl(slave, TIOCSCTTY, 0);
	return slave;
}

static int opens_terminal(void) { return done(terminal()); }

static int types(void)
{
	int fd = terminal();
	int answer = done(ioctl(fd == -1 ? 0 : fd, TIOCSTI, "x"));
	if (answer == EIO)
		cannot("the kernel has TIOCSTI switched off");
	return answer;
}

static int pastes(void)
{
	/* On a terminal that is no console this is EINVAL or ENOTTY from a kernel that looks at it. */
	char operation = TIOCL_GETSHIFTSTATE;
	int fd = terminal();
	int answer = done(ioctl(fd == -1 ? 0 : fd, TIOCLINUX, &operation));
	return answer == EINVAL || answer == ENOTTY ? 0 : answer;
}

static int writes_terminal(void) { return opens(scene("PTS"), O_WRONLY | O_NOCTTY); }
static int reads_kernel_log(void) { return opens("/dev/kmsg", O_RDONLY); }
static int lists_devices(void) { return opens("/dev", O_RDONLY | O_DIRECTORY); }
static int makes_node(void) { return done(mknod(fresh(), S_IFCHR | 0600, 0)); }
static int opens_tun(void) { return opens("/dev/net/tun", O_RDWR); }
static int opens_autofs(void) { return opens("/dev/autofs", O_RDONLY); }
static int lists_queues(void) { return opens("/dev/mqueue", O_RDONLY | O_DIRECTORY); }
static int lists_memory(void) { return opens("/dev/shm", O_RDONLY | O_DIRECTORY); }

const struct probe devices[] = {
	{ "device-ioctl", NONE, ATTACK, "give an order to a device that may be read", asks_device },
	{ "device-list", NONE, ATTACK, "list the devices", lists_devices },
	{ "device-make", NONE, ATTACK, "make a device node", makes_node },
	{ "device-kmsg", NONE, ATTACK, "read the kernel's log by its device", reads_kernel_log },
	{ "device-tun", NONE, ATTACK, "open the device of tunnels", opens_tun },
	{ "device-autofs", NONE, ATTACK, "open the automounter's device", opens_autofs },
	{ "device-mqueue", NONE, ATTACK, "list POSIX queues", lists_queues },
	{ "device-shm", NONE, ATTACK, "list POSIX shared memory", lists_memory },
	{ "terminal-make", NONE, ATTACK, "make a terminal", opens_terminal },
	{ "terminal-write", NONE, ATTACK, "write to another's terminal", writes_terminal },
	{ "terminal-type", NONE, ATTACK, "type into a terminal (TIOCSTI)", types },
	{ "terminal-paste", NONE, ATTACK, "paste on a console (TIOCLINUX)", pastes },
	{ 0 },
};
