/* TCP by ports, and the whole network: what stays closed there, and what is open and said to be so. */
#include "probe.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>

#define MSG_FASTOPEN_ 0x20000000

static struct sockaddr_in loopback(const char *port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(scene_number(port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int connects(const char *port)
{
	struct sockaddr_in address = loopback(port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	return fd == -1 ? errno : done(connect(fd, (struct sockaddr *)&address, sizeof address));
}

static int connects_unlisted(void) { return connects("TCP"); }
static int connects_daemon(void) { return connects("DAEMON_PORT"); }
static int connects_listed(void) { return connects("TCP_LISTED"); }

static int connects_unlisted_6(void)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(scene_number("TCP6")),
		.sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	return fd == -1 ? errno : done(connect(fd, (struct sockaddr *)&address, sizeof address));
}

static int connects_mapped(void)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(scene_number("TCP")) };
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &address.sin6_addr);
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	return fd == -1 ? errno : done(connect(fd, (struct sockaddr *)&address, sizeof address));
}

static int connects_without_waiting(void)
{
	struct sockaddr_in address = loopback("TCP");
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd == -1)
		return errno;
	int answer = done(connect(fd, (struct sockaddr *)&address, sizeof address));
	return answer == EINPROGRESS ? 0 : answer;
}

static int connects_again(void)
{
	/* Connected where it may, then dissolved (AF_UNSPEC) and connected where it may not. */
	struct sockaddr_in allowed = loopback("TCP_LISTED"), other = loopback("TCP");
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd == -1)
		return errno;
	if (connect(fd, (struct sockaddr *)&allowed, sizeof allowed) == -1 || connect(fd, &none, sizeof none) == -1)
		return errno;
	return done(connect(fd, (struct sockaddr *)&other, sizeof other));
}

static int connects_by_deferring(void)
{
	/* With this option the connection is only made by the first write. */
	struct sockaddr_in address = loopback("TCP");
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd == -1)
		return errno;
	setsockopt(fd, IPPROTO_TCP, 30 /* TCP_FASTOPEN_CONNECT */, &on, sizeof on);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == -1)
		return errno;
	return done(write(fd, "x", 1));
}

static int sends_fast(const char *port, int many)
{
	struct sockaddr_in address = loopback(port);
	struct iovec data = { "x", 1 };
	struct mmsghdr message = { .msg_hdr = { .msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &data, .msg_iovlen = 1 } };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd == -1)
		return errno;
	if (many == 2)
		return done(sendmmsg(fd, &message, 1, MSG_FASTOPEN_));
	if (many == 1)
		return done(sendmsg(fd, &message.msg_hdr, MSG_FASTOPEN_));
	return done(sendto(fd, "x", 1, MSG_FASTOPEN_, (struct sockaddr *)&address, sizeof address));
}
static int fast_open(void) { return sends_fast("TCP", 0); }
static int fast_open_message(void) { return sends_fast("TCP", 1); }
static int fast_open_messages(void) { return sends_fast("TCP", 2); }

static int sends_fast_6(void)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(scene_number("TCP6")),
		.sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	return fd == -1 ? errno : done(sendto(fd, "x", 1, MSG_FASTOPEN_, (struct sockaddr *)&address, sizeof address));
}

static int binds(int domain, long port, int reuse)
{
	int on = 1, fd = socket(domain, SOCK_STREAM, 0);
	if (fd == -1)
		return errno;
	if (reuse)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	int answer = domain == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof four)
				       : bind(fd, (struct sockaddr *)&six, sizeof six);
	if (answer == -1)
		return errno;
	return done(listen(fd, 1));
}
static int binds_unlisted(void) { return binds(AF_INET, scene_number("FREE_PORT"), 0); }
static int binds_unlisted_6(void) { return binds(AF_INET6, scene_number("FREE_PORT"), 0); }
static int steals_port(void) { return binds(AF_INET, scene_number("TCP_REUSED"), 1); }
static int shadows_port(void) { return binds(AF_INET6, scene_number("TCP_ANY"), 0); }
static int listens_listed(void) { return binds(AF_INET, scene_number("LISTEN"), 0); }
static int binds_ephemeral(void) { return binds(AF_INET, 0, 0); }

static int makes(int domain, int kind, int protocol)
{
	int answer = done(socket(domain, kind, protocol));
	if (answer == EAFNOSUPPORT || answer == EPROTONOSUPPORT || answer == ESOCKTNOSUPPORT)
		cannot("the kernel has no such sockets");
	return answer;
}
static int makes_mptcp(void) { return makes(AF_INET, SOCK_STREAM, 262); }
static int makes_mptcp6(void) { return makes(AF_INET6, SOCK_STREAM, 262); }
static int makes_udp(void) { return makes(AF_INET, SOCK_DGRAM, 0); }
static int makes_udp6(void) { return makes(AF_INET6, SOCK_DGRAM, 0); }
static int makes_udplite(void) { return makes(AF_INET, SOCK_DGRAM, 136); }
static int makes_raw(void) { enter_own(CLONE_NEWNET); return makes(AF_INET, SOCK_RAW, 1); }
static int makes_raw_tcp(void) { enter_own(CLONE_NEWNET); return makes(AF_INET, SOCK_RAW, IPPROTO_TCP); }
static int makes_packet(void) { enter_own(CLONE_NEWNET); return makes(AF_PACKET, SOCK_RAW, 0); }
static int makes_vsock(void) { return makes(AF_VSOCK, SOCK_STREAM, 0); }
static int makes_diag(void) { return makes(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG); }
static int makes_netfilter(void) { return makes(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER); }

const struct probe ports[] = {
	{ "ports-connect", PORTS, ATTACK, "connect to a port that is not listed", connects_unlisted },
	{ "ports-connect-6", PORTS, ATTACK, "the same over IPv6", connects_unlisted_6 },
	{ "ports-connect-mapped", PORTS, ATTACK, "the same by a mapped address", connects_mapped },
	{ "ports-connect-nonblocking", PORTS, ATTACK, "the same without waiting", connects_without_waiting },
	{ "ports-connect-again", PORTS, ATTACK, "the same with a socket that was connected before (AF_UNSPEC)", connects_again },
	{ "ports-connect-deferred", PORTS, ATTACK, "the same by TCP_FASTOPEN_CONNECT", connects_by_deferring },
	{ "ports-connect-daemon", PORTS, ATTACK, "connect to the daemon's own endpoints", connects_daemon },
	{ "ports-fast-open", PORTS, ATTACK, "TCP Fast Open by sendto", fast_open },
	{ "ports-fast-open-6", PORTS, ATTACK, "TCP Fast Open over IPv6", sends_fast_6 },
	{ "ports-fast-open-sendmsg", PORTS, ATTACK, "TCP Fast Open by sendmsg", fast_open_message },
	{ "ports-fast-open-sendmmsg", PORTS, ATTACK, "TCP Fast Open by sendmmsg", fast_open_messages },
	{ "ports-bind", PORTS, ATTACK, "listen on a port that is not listed", binds_unlisted },
	{ "ports-bind-6", PORTS, ATTACK, "the same over IPv6", binds_unlisted_6 },
	{ "ports-bind-stolen", PORTS, ATTACK, "take connections from another's port (SO_REUSEPORT)", steals_port },
	{ "ports-bind-shadow", PORTS, ATTACK, "listen on [::1] where another holds 0.0.0.0", shadows_port },
	{ "ports-mptcp", PORTS, ATTACK, "make a multipath TCP socket", makes_mptcp },
	{ "ports-mptcp-6", PORTS, ATTACK, "make a multipath TCP socket over IPv6", makes_mptcp6 },
	{ "ports-udp", PORTS, ATTACK, "make a UDP socket", makes_udp },
	{ "ports-udp-6", PORTS, ATTACK, "make a UDP socket over IPv6", makes_udp6 },
	{ "ports-udplite", PORTS, ATTACK, "make a UDP-Lite socket", makes_udplite },
	{ "ports-raw", PORTS, ATTACK, "make a raw socket", makes_raw },
	{ "ports-raw-tcp", PORTS, ATTACK, "make a raw socket of TCP's own protocol", makes_raw_tcp },
	{ "ports-packet", PORTS, ATTACK, "make a packet socket", makes_packet },
	{ "ports-vsock", PORTS, ATTACK, "make a socket to the machine's host", makes_vsock },
	{ "ports-sock-diag", PORTS, ATTACK, "list every socket of the pod", makes_diag },
	{ "ports-listed-neighbour", PORTS, ATTACK, "connect to a neighbour's server on a listed port", connects_listed },
	{ "ports-works-listen", PORTS, WORK, "listen on a listed port", listens_listed },
	{ "ports-works-ephemeral", PORTS, WORK, "listen on a port of the kernel's choice, as test servers do", binds_ephemeral },
	{ "full-raw", FULL, ATTACK, "make a raw socket with the whole network allowed", makes_raw },
	{ "full-packet", FULL, ATTACK, "make a packet socket with the whole network allowed", makes_packet },
	{ "full-vsock", FULL, ATTACK, "make a socket to the machine's host with the whole network allowed", makes_vsock },
	{ "full-sock-diag", FULL, ATTACK, "list every socket of the pod with the whole network allowed", makes_diag },
	{ "full-netfilter", FULL, ATTACK, "reach netfilter with the whole network allowed", makes_netfilter },
	{ "full-works-udp", FULL, WORK, "make a UDP socket", makes_udp },
	{ "full-works-tcp", FULL, WORK, "connect to a server", connects_unlisted },
	{ 0 },
};
