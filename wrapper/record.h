/* What the installer has written into ppy, and the options by which caps finds that ppy again. */
#ifndef RECORD_H
#define RECORD_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capstate.h"
#include "message.h"
#include "walk.h"

/* The installer finds this in its copy of ppy and fills it in; volatile, because the compiler sees
   it empty. */
static const volatile struct {
	char magic[16];
	uint32_t allow_root;
	char capped[PATH_MAX];
	char original[PATH_MAX];
} record = {
    .magic = {'c', 'a', 'p', 's', '-', 'p', 'p', 'y', '-', 'r', 'e', 'c', 'o', 'r', 'd', '1'}};

static char capped[PATH_MAX];	/* the copy of the interpreter that carries capabilities */
static char original[PATH_MAX]; /* the interpreter as the script is to see it */

static char chosen[5 * PATH_MAX]; /* the options by which caps ppy finds this installation */
static char inspect[sizeof chosen + 32] = "caps ppy status"; /* says how to install it again */

static char *cut(char *text, char at)
{
	char *last = strrchr(text, at);
	if (last)
		*last++ = '\0';
	return last;
}

/* The capped copy is PREFIX/libexec/NAME-RANDOM/PROGRAM, where libexec is no link. */
static void name_installation(void)
{
	char prefix[PATH_MAX];
	strcpy(prefix, capped);
	cut(prefix, '/');
	char *name = cut(prefix, '/'), *libexec = cut(prefix, '/');
	if (!name || !cut(name, '-') || !libexec || strcmp(libexec, "libexec") != 0)
		return;
	char *end = chosen;
	if (strcmp(prefix, "/usr/local") != 0)
		end += sprintf(end, " --prefix %s", quote(*prefix ? prefix : "/"));
	if (strcmp(name, "ppy") != 0)
		sprintf(end, " --name %s", quote(name));
	strcat(inspect, chosen);
}

static void read_record(void)
{
	for (int n = 0; n < PATH_MAX - 1 && record.capped[n]; n++)
		capped[n] = record.capped[n];
	for (int n = 0; n < PATH_MAX - 1 && record.original[n]; n++)
		original[n] = record.original[n];
	if (capped[0] != '/' || original[0] != '/')
		refuse(REFUSED, "ppy", "must have been installed", "caps ppy install");
	name_installation();
}

/* ppy's own program: for ppy-check the one beside it. */
static int open_ppy(char path[PATH_MAX])
{
	int running = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	if (running < 0)
		refuse_errno("/proc/self/exe");
	struct stat st;
	if (fstat(running, &st) < 0 || st.st_nlink == 0)
		refuse(REFUSED, "ppy", "must not be replaced or removed while it starts",
		       "run it again");
	locate(running, "ppy", path);
	if (!CHECK_ONLY)
		return running;
	close(running);
	char *suffix = strrchr(path, '-');
	if (suffix && strcmp(suffix, "-check") == 0)
		*suffix = '\0';
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		refuse(REFUSED, path, strerror(errno), inspect);
	return fd;
}

#endif
