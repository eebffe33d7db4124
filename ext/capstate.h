/* What the module and the launcher must do alike: own libcap's memory, trust its errno, and
   read a file's capabilities from a descriptor. */
#ifndef CAPSTATE_H
#define CAPSTATE_H

#include <errno.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/stat.h>
#include <unistd.h>

/* Declares a libcap object that is freed at the end of its block. */
#define CAPS_OWNED __attribute__((cleanup(caps_release)))

static inline void caps_release(void *variable)
{
	int kept = errno;
	void *object;
	memcpy(&object, variable, sizeof object);
	if (object)
		cap_free(object);
	errno = kept;
}

/* Declares a descriptor that is closed at the end of its block. */
#define CAPS_OPEN __attribute__((cleanup(caps_close)))

static inline void caps_close(const int *fd)
{
	int kept = errno;
	if (*fd >= 0)
		close(*fd);
	errno = kept;
}

enum { CAPS_FD_PATH = sizeof "/proc/self/fd/" + 3 * sizeof(int) };

/* A path that leads to an open descriptor whatever has been done to its name. */
static inline const char *caps_fd_path(char buffer[CAPS_FD_PATH], int fd)
{
	static const char prefix[] = "/proc/self/fd/";
	char *p = buffer + CAPS_FD_PATH;
	*--p = '\0';
	unsigned int digits = (unsigned int)fd;
	do
		*--p = (char)('0' + digits % 10);
	while (digits /= 10);
	p -= sizeof prefix - 1;
	return memcpy(p, prefix, sizeof prefix - 1);
}

/* The capabilities of an open file, cap_get_nsowner(3) giving the root id. NULL means errno is
   set: ENODATA where the file has none, EINVAL where it is not a regular file or the attribute
   is malformed. The path is needed because fgetxattr(2) refuses an O_PATH descriptor. */
static inline cap_t caps_get_fd(int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return NULL;
	if (!S_ISREG(st.st_mode)) {
		errno = EINVAL;
		return NULL;
	}
	char buffer[CAPS_FD_PATH];
	errno = 0;
	cap_t caps = cap_get_file(caps_fd_path(buffer, fd));
	if (!caps && errno == 0) /* libcap's answer to a malformed attribute */
		errno = EINVAL;
	if (!caps && errno == EOPNOTSUPP) /* execve(2) reads it so */
		errno = ENODATA;
	return caps;
}

#endif
