/* Sockets of a Run without network: only unix sockets of its own and the list of interfaces are left. */
#include "probe.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

static int makes(int domain, int kind, int protocol)
{
	int answer = done(socket(domain, kind, protocol));
	if (answer == EAFNOSUPPORT || answer == EPROTONOSUPPORT || answer == ESOCKTNOSUPPORT || answer == ENODEV)
		cannot("the kernel has no such sockets");
	return answer;
}

/* Capabilities over a network are to be had in a network namespace of its own. */
static int makes_in_own(int domain, int kind, int protocol)
{
	enter_own(CLONE_NEWNET);
	return makes(domain, kind, protocol);
}

static int connects(int domain, const char *port, int kind, int protocol)
{
	int fd = socket(domain, kind, protocol);
	if (fd == -1)
		return errno;
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(scene_number(port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = four.sin_port, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	return done(domain == AF_INET ? connect(fd, (struct sockaddr *)&four, sizeof four)
				      : connect(fd, (struct sockaddr *)&six, sizeof six));
}

static int connects_tcp(void) { return connects(AF_INET, "TCP", SOCK_STREAM, 0); }
static int connects_tcp6(void) { return connects(AF_INET6, "TCP6", SOCK_STREAM, 0); }
static int connects_daemon(void) { return connects(AF_INET, "DAEMON_PORT", SOCK_STREAM, 0); }
static int connects_udp(void) { return connects(AF_INET, "UDP", SOCK_DGRAM, 0); }

static int binds_tcp(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in any = { .sin_family = AF_INET };
	return fd == -1 ? errno : done(bind(fd, (struct sockaddr *)&any, sizeof any));
}

static int listens_unbound(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return fd == -1 ? errno : done(listen(fd, 1));
}

static int makes_tcp(void) { return makes(AF_INET, SOCK_STREAM, 0); }
static int makes_tcp6(void) { return makes(AF_INET6, SOCK_STREAM, 0); }
static int makes_udp(void) { return makes(AF_INET, SOCK_DGRAM, 0); }
static int makes_udp6(void) { return makes(AF_INET6, SOCK_DGRAM, 0); }
static int makes_udplite(void) { return makes(AF_INET, SOCK_DGRAM, 136); }
static int makes_mptcp(void) { return makes(AF_INET, SOCK_STREAM, 262); }
static int makes_sctp(void) { return makes(AF_INET, SOCK_STREAM, 132); }
static int makes_smc(void) { return makes(43, SOCK_STREAM, 0); }
static int makes_ping(void)
{
	enter_own(CLONE_NEWNET);
	int range = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY);
	if (range != -1 && write(range, "0 0", 3) == -1)
		errno = 0;
	return makes(AF_INET, SOCK_DGRAM, 1);
}
static int makes_raw(void) { return makes_in_own(AF_INET, SOCK_RAW, 1); }
static int makes_raw6(void) { return makes_in_own(AF_INET6, SOCK_RAW, 58); }
static int makes_packet(void) { return makes_in_own(AF_PACKET, SOCK_RAW, 0); }
static int makes_packet_datagram(void) { return makes_in_own(AF_PACKET, SOCK_DGRAM, 0); }
static int makes_xdp(void) { return makes_in_own(AF_XDP, SOCK_RAW, 0); }
static int makes_vsock(void) { return makes(AF_VSOCK, SOCK_STREAM, 0); }
static int makes_vsock_datagram(void) { return makes(AF_VSOCK, SOCK_DGRAM, 0); }
static int makes_alg(void) { return makes(AF_ALG, SOCK_SEQPACKET, 0); }
static int makes_bluetooth(void) { return makes(AF_BLUETOOTH, SOCK_RAW, 1); }
static int makes_can(void) { return makes(AF_CAN, SOCK_RAW, 1); }
static int makes_tipc(void) { return makes(AF_TIPC, SOCK_STREAM, 0); }
static int makes_rds(void) { return makes(AF_RDS, SOCK_SEQPACKET, 0); }
static int makes_kcm(void) { return makes(AF_KCM, SOCK_DGRAM, 0); }
static int makes_qipcrtr(void) { return makes(AF_QIPCRTR, SOCK_DGRAM, 0); }
static int makes_pppox(void) { return makes_in_own(AF_PPPOX, SOCK_STREAM, 0); }
static int makes_key(void) { return makes_in_own(AF_KEY, SOCK_RAW, 2); }
static int netlink(int family) { return makes(AF_NETLINK, SOCK_RAW, family); }
static int makes_diag(void) { return netlink(NETLINK_SOCK_DIAG); }
static int makes_audit(void) { return netlink(NETLINK_AUDIT); }
static int makes_uevent(void) { return netlink(NETLINK_KOBJECT_UEVENT); }
static int makes_netfilter(void) { return netlink(NETLINK_NETFILTER); }
static int makes_generic(void) { return netlink(NETLINK_GENERIC); }
static int makes_connector(void) { return netlink(NETLINK_CONNECTOR); }
static int makes_xfrm(void) { return netlink(NETLINK_XFRM); }
static int makes_crypto(void) { return netlink(NETLINK_CRYPTO); }
static int makes_fib(void) { return netlink(NETLINK_FIB_LOOKUP); }
static int makes_selinux(void) { return netlink(NETLINK_SELINUX); }

const struct probe sockets[] = {
	{ "tcp-connect", NONE, ATTACK, "connect to a server on the pod's loopback", connects_tcp },
	{ "tcp-connect-6", NONE, ATTACK, "the same over IPv6", connects_tcp6 },
	{ "tcp-connect-daemon", NONE, ATTACK, "connect to the daemon's own endpoints", connects_daemon },
	{ "tcp-bind", NONE, ATTACK, "bind a port of the kernel's choice", binds_tcp },
	{ "tcp-listen-unbound", NONE, ATTACK, "listen without binding", listens_unbound },
	{ "udp-connect", NONE, ATTACK, "connect to a datagram server", connects_udp },
	{ "socket-tcp", NONE, ATTACK, "make a TCP socket", makes_tcp },
	{ "socket-tcp-6", NONE, ATTACK, "make a TCP socket over IPv6", makes_tcp6 },
	{ "socket-udp", NONE, ATTACK, "make a UDP socket", makes_udp },
	{ "socket-udp-6", NONE, ATTACK, "make a UDP socket over IPv6", makes_udp6 },
	{ "socket-udplite", NONE, ATTACK, "make a UDP-Lite socket", makes_udplite },
	{ "socket-mptcp", NONE, ATTACK, "make a multipath TCP socket", makes_mptcp },
	{ "socket-sctp", NONE, ATTACK, "make an SCTP socket", makes_sctp },
	{ "socket-smc", NONE, ATTACK, "make an SMC socket", makes_smc },
	{ "socket-ping", NONE, ATTACK, "make an unprivileged ICMP socket", makes_ping },
	{ "socket-raw", NONE, ATTACK, "make a raw socket", makes_raw },
	{ "socket-raw-6", NONE, ATTACK, "make a raw socket over IPv6", makes_raw6 },
	{ "socket-packet", NONE, ATTACK, "make a packet socket", makes_packet },
	{ "socket-packet-datagram", NONE, ATTACK, "make a packet socket without headers", makes_packet_datagram },
	{ "socket-xdp", NONE, ATTACK, "make an XDP socket", makes_xdp },
	{ "socket-vsock", NONE, ATTACK, "make a socket to the machine's host", makes_vsock },
	{ "socket-vsock-datagram", NONE, ATTACK, "make a datagram socket to the machine's host", makes_vsock_datagram },
	{ "socket-alg", NONE, ATTACK, "make a socket of the kernel's cryptography", makes_alg },
	{ "socket-bluetooth", NONE, ATTACK, "make a Bluetooth socket", makes_bluetooth },
	{ "socket-can", NONE, ATTACK, "make a CAN socket", makes_can },
	{ "socket-tipc", NONE, ATTACK, "make a TIPC socket", makes_tipc },
	{ "socket-rds", NONE, ATTACK, "make an RDS socket", makes_rds },
	{ "socket-kcm", NONE, ATTACK, "make a KCM socket", makes_kcm },
	{ "socket-qipcrtr", NONE, ATTACK, "make a Qualcomm router socket", makes_qipcrtr },
	{ "socket-pppox", NONE, ATTACK, "make a PPP socket", makes_pppox },
	{ "socket-key", NONE, ATTACK, "make an IPsec key socket", makes_key },
	{ "netlink-sock-diag", NONE, ATTACK, "list every socket of the pod (sock_diag)", makes_diag },
	{ "netlink-audit", NONE, ATTACK, "reach the kernel's audit", makes_audit },
	{ "netlink-uevent", NONE, ATTACK, "hear of devices", makes_uevent },
	{ "netlink-netfilter", NONE, ATTACK, "reach netfilter", makes_netfilter },
	{ "netlink-generic", NONE, ATTACK, "reach generic netlink families", makes_generic },
	{ "netlink-connector", NONE, ATTACK, "hear of processes", makes_connector },
	{ "netlink-xfrm", NONE, ATTACK, "reach IPsec", makes_xfrm },
	{ "netlink-crypto", NONE, ATTACK, "reach the kernel's cryptography", makes_crypto },
	{ "netlink-fib", NONE, ATTACK, "look routes up", makes_fib },
	{ "netlink-selinux", NONE, ATTACK, "hear of SELinux", makes_selinux },
	{ 0 },
};
