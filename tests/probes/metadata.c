/* What a process of the same uid may do to a file whose path it knows, without opening it. Landlock has no right for these. */
#include "probe.h"

#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/xattr.h>

static char *file(void) { return in("OUT", "file"); }

static int changes_mode(void) { return done(chmod(file(), 0600)); }
static int locks_directory(void) { return done(chmod(in("OUT", "scratch/locked-dir"), 0700)); }
static int changes_owner(void) { return done(chown(file(), -1, getegid())); }
static int changes_times(void) { return done(utimensat(AT_FDCWD, file(), NULL, 0)); }
static int stats(void) { struct stat s; return done(stat(file(), &s)); }
static int tests_access(void) { return done(access(file(), R_OK)); }
static int reads_link(void) { char b[64]; return done(readlink(in("OUT", "link"), b, sizeof b)); }
static int stats_filesystem(void) { struct statfs s; return done(statfs(file(), &s)); }
static int enters(void) { return done(chdir(scene("OUT"))); }

static int sets_attribute(void)
{
	int answer = done(setxattr(file(), "user.probe", "x", 1, 0));
	if (answer == EOPNOTSUPP)
		cannot("the file system has no extended attributes");
	return answer;
}

static int reads_attribute(void)
{
	char value[8];
	int answer = done(getxattr(file(), "user.theirs", value, sizeof value));
	if (answer == EOPNOTSUPP)
		cannot("the file system has no extended attributes");
	return answer;
}

const struct probe metadata[] = {
	{ "metadata-chmod", NONE, ATTACK, "change a file's mode", changes_mode },
	{ "metadata-chmod-directory", NONE, ATTACK, "change a directory's mode", locks_directory },
	{ "metadata-chown", NONE, ATTACK, "change a file's group", changes_owner },
	{ "metadata-utimes", NONE, ATTACK, "change a file's times", changes_times },
	{ "metadata-setxattr", NONE, ATTACK, "set an extended attribute", sets_attribute },
	{ "metadata-getxattr", NONE, ATTACK, "read an extended attribute", reads_attribute },
	{ "metadata-stat", NONE, ATTACK, "ask for a file's size, owner and times", stats },
	{ "metadata-access", NONE, ATTACK, "ask whether a file is there", tests_access },
	{ "metadata-readlink", NONE, ATTACK, "read where a link leads", reads_link },
	{ "metadata-statfs", NONE, ATTACK, "ask how full a file system is", stats_filesystem },
	{ "metadata-chdir", NONE, ATTACK, "change into a directory", enters },
	{ 0 },
};
