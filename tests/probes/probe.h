/* What the probes share: a table entry each, and the words that say what became of an attempt.
 *
 * A probe returns 0 when its attack succeeded, and the errno of the refusal when it did not. One that cannot be tried, for
 * the kernel or the machine lacks what it attacks, ends by cannot(), and never passes for a refusal. */
#ifndef PROBE_H
#define PROBE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* The Run in which a probe is tried: its network, or its limits. */
enum mode { NONE, PORTS, FULL, LIMITS };

/* An attack has to be refused; work has to succeed, or the sandbox would be good for nothing. */
enum kind { ATTACK, WORK };

struct probe {
	const char *name;
	enum mode mode;
	enum kind kind;
	const char *does;
	int (*try)(void);
};

/* One table a subject, each ended by an entry without a name. */
extern const struct probe files[], metadata[], spaces[], processes[], proc[], ipc[], sockets[], ports[], kernel[],
	devices[], neighbours[], inherited[], limits[], work[];

/* 0, or the errno of a call that answered -1. */
int done(long answer);

/* Says why this cannot be tried, and ends the attempt. */
_Noreturn void cannot(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What the harness says of the scene, by the variable PROBE_<name>. */
const char *scene(const char *name);
long scene_number(const char *name);

/* A path beneath a directory of the scene; each of the last sixteen stays valid. */
char *in(const char *directory, const char *file);

/* A path of the process's own, and a name there that does not exist yet. */
char *own(const char *file);
char *fresh(void);

/* Opens and closes. */
int opens(const char *path, int flags);

/* Runs in a child of its own, and gives what it returns: for what changes the process for good. */
int in_child(int (*body)(void));

/* Executes a program and gives 0 if it exited with 0, or EACCES. */
int executes(char *const argv[]);

/* Enters a user namespace with these further namespaces, as an unprivileged process does to get capabilities. Where that
 * is refused the attempt goes on without, and the call in question answers for itself. */
void enter_own(int namespaces);

/* Waits until a child has stopped being needed, with a bound. */
void pause_briefly(int milliseconds);

/* Descriptors above 2 that were open when the program started. */
extern int inherited_descriptors;

/* For setting the scene: without it nothing could be tried, so a failure ends the program. */
void must(int holds, const char *what);
void write_file(const char *path, const char *text);
int serves_unix(int kind, const char *path, const char *name);

/* The other things that this program can be. */
int be_target(const char *outside);
int reset_scratch(const char *outside, int target);
int be_neighbour(void);
int burn(int least);
int locate(int argc, char **argv);

#endif
