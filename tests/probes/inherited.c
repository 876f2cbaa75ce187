/* What a process gets without asking: descriptors, variables, privileges by execution. */
#include "probe.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <termios.h>

static int has_descriptor(void) { return inherited_descriptors ? 0 : EBADF; }
static int has_variable(void) { return getenv("PROBE_OF_THE_DAEMON") || getenv("CREDENTIALS_OF_THE_DAEMON") ? 0 : ENOENT; }
static int gains_privilege(void)
{
	char *argv[] = { (char *)scene("SETUID"), "privileged", NULL };
	return executes(argv);
}
static int drops_the_promise(void)
{
	/* 1 once it was given, and then nothing can take it back. */
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0 ? 0 : EPERM;
}
static int dumps_core(void)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	return done(setrlimit(RLIMIT_CORE, &limit));
}
static int has_terminal(void) { return getsid(0) != scene_number("SESSION") ? EPERM : 0; }
static int ignores_signals(void)
{
	struct sigaction action;
	sigaction(SIGPIPE, NULL, &action);
	return action.sa_handler == SIG_IGN ? 0 : ENOENT;
}

const struct probe inherited[] = {
	{ "inherit-descriptor", NONE, ATTACK, "use a descriptor that its starter had open", has_descriptor },
	{ "inherit-variable", NONE, ATTACK, "read a variable of its starter's environment", has_variable },
	{ "inherit-session", NONE, ATTACK, "be in its starter's session", has_terminal },
	{ "inherit-signals", NONE, ATTACK, "have signals ignored that its starter ignores", ignores_signals },
	{ "setuid-program", NONE, ATTACK, "gain privileges by executing a setuid program", gains_privilege },
	{ "no-new-privileges", NONE, ATTACK, "run without the promise of no new privileges", drops_the_promise },
	{ "core-dump", NONE, ATTACK, "allow itself a core dump", dumps_core },
	{ 0 },
};
