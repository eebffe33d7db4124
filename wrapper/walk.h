/* The way to a file, from the root: nobody but root and one owner may be able to change it. */
#ifndef WALK_H
#define WALK_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "capstate.h"
#include "message.h"

/* The path by which the kernel knows an open file, which is the one that is checked and run. */
static void locate(int fd, const char *name, char path[PATH_MAX])
{
	char buffer[CAPS_FD_PATH];
	ssize_t length = readlink(caps_fd_path(buffer, fd), path, PATH_MAX);
	if (length < 0)
		refuse_errno("/proc");
	if (length == PATH_MAX || *path != '/')
		refuse(REFUSED, name, "must have an absolute path below PATH_MAX", NULL);
	path[length] = '\0';
}

static bool writable_by_others(const struct stat *st)
{
	return st->st_mode & (S_IWGRP | S_IWOTH); /* an ACL's mask is the group's bits */
}

static bool is_theirs(const struct stat *st, uid_t owner)
{
	return st->st_uid == 0 || st->st_uid == owner;
}

/* In a sticky directory others cannot rename what is not theirs, but can add to it. */
static bool is_closed(const struct stat *st, bool is_last)
{
	return !writable_by_others(st) || (st->st_mode & S_ISVTX && !is_last);
}

/* Who may own the directories on the way to a file besides root, in words too, and what helps
   where a directory is somebody's home or is meant to be open. */
struct way {
	uid_t owner;
	const char *rule, *fix;
};

static void check_directory(int fd, const char *path, const struct way *way, bool is_last)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		refuse_errno(path);
	bool is_sticky = st.st_mode & S_ISVTX; /* such as /tmp, which is to stay open */
	must(is_theirs(&st, way->owner), path, way->rule, way->fix);
	must(is_closed(&st, is_last), path, "must not be writable by group or others",
	     is_sticky ? way->fix : fix_by("chmod go-w %s", quote(path)));
}

/* Walks to a path and says whether the expected file is there. Every directory is opened in the
   one checked before it, so none can be exchanged meanwhile. */
static bool walk_reaches(const char *path, const struct way *way, const struct stat *expected)
{
	char walked[PATH_MAX];
	strcpy(walked, path);
	char *name = walked + 1;
	int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		refuse_errno("/");
	check_directory(fd, "/", way, !strchr(name, '/'));
	for (char *slash; (slash = strchr(name, '/')); name = slash + 1) {
		*slash = '\0';
		int next = openat(fd, name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
		if (next < 0)
			refuse_errno(walked);
		close(fd);
		fd = next;
		check_directory(fd, walked, way, !strchr(slash + 1, '/'));
		*slash = '/';
	}
	struct stat last;
	if (fstatat(fd, name, &last, AT_SYMLINK_NOFOLLOW) < 0)
		refuse_errno(path);
	close(fd);
	return !expected || (last.st_dev == expected->st_dev && last.st_ino == expected->st_ino);
}

static void walk_to(const char *path, const struct way *way, const struct stat *expected)
{
	if (!walk_reaches(path, way, expected))
		refuse(REFUSED, path, "must be the file that was opened", NULL);
}

#endif
