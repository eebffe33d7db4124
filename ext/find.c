/* Some directories of a search for files with capabilities. Most files have no attribute at all,
   and listxattr(2) says so sooner than getxattr(2) does that they lack one. */
#ifdef CAPS_LIMITED_API
#define Py_LIMITED_API CAPS_LIMITED_API
#endif
#define PY_SSIZE_T_CLEAN
#include "find.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef SYS_listxattrat /* Linux 6.13; they take no path, which saves the walk along it */
#define SYS_getxattrat (SYS_openat2 + 27)
#define SYS_listxattrat (SYS_openat2 + 28)
#endif
#define CAPABILITY "security.capability"

/* struct statx(2), of which older headers have no mount. */
enum { MASK_OF_MOUNT = 0x1000 };
struct mounted {
	uint32_t mask, before[35];
	uint64_t mount, after[13];
};

/* openat2(2), of which older headers know nothing. */
enum { NO_SYMLINKS = 0x04 };
struct how {
	uint64_t flags, mode, resolve;
};

enum { MOST_DIRECTORIES = 16 }; /* in one call */

/* What getdents64(2) says of an entry, in so many bytes: some file systems know names that are
   longer than NAME_MAX. */
enum { SHORTEST = 24, LONGEST = SHORTEST + PATH_MAX };
struct entry {
	uint64_t inode, offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

/* An entry to tell of, with the value of a file's attribute, or why that cannot be read; without a
   name, why the directory cannot be. */
struct found {
	const char *directory, *name;
	bool is_file;
	int size, error;
	char value[24]; /* as much as the kernel takes for capabilities */
};

struct search {
	int top, fd; /* of the directory that is read; -1 for none */
	bool is_old;
	Py_ssize_t number, next; /* of the directories */
	const char *directories[MOST_DIRECTORIES];
	size_t length, count;
	char path[PATH_MAX]; /* the directory's in the first `length` bytes */
	char entries[8192];
	struct found found[8192 / SHORTEST + MOST_DIRECTORIES];
};

#define CLOSED_AT_END __attribute__((cleanup(close_fd)))
#define CLEARED_AT_END __attribute__((cleanup(clear)))

static void close_fd(const int *fd)
{
	int kept = errno;
	if (*fd >= 0)
		close(*fd);
	errno = kept;
}

static void clear(struct search *search)
{
	close_fd(&search->fd);
}

/* What tells the mount of a file from others: its number, by statx(2) since Linux 5.8 and by
   name_to_handle_at(2) before, or the device where the file system knows no handles. A device is
   not enough, since each subvolume of btrfs has its own. -1 means errno is set. */
static int mount_of(int fd, uint64_t *mount)
{
	struct mounted statx = {.mask = 0};
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, MASK_OF_MOUNT, &statx) == 0 &&
	    statx.mask & MASK_OF_MOUNT) {
		*mount = statx.mount;
		return 0;
	}
	struct file_handle handle = {.handle_bytes = 0};
	int number;
	if (name_to_handle_at(fd, "", &handle, &number, AT_EMPTY_PATH) < 0 && errno == EOVERFLOW) {
		*mount = (uint64_t)number;
		return 0;
	}
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -1;
	*mount = (uint64_t)st.st_dev;
	return 0;
}

/* Such as /proc and /sys, whose many files the kernel makes up and nobody can mark. */
static bool is_made_up(long type)
{
	return type == PROC_SUPER_MAGIC || type == SYSFS_MAGIC || type == CGROUP2_SUPER_MAGIC;
}

/* A directory by a path in which no link is followed, be it put there meanwhile. Opened so, it is
   not yet read, and nothing is mounted for it. */
static int walk_to(const char *path)
{
	struct how how = {.flags = O_PATH | O_CLOEXEC, .resolve = NO_SYMLINKS};
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
	if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) /* which a seccomp filter says */
		return fd;
	fd = open("/", O_PATH | O_CLOEXEC);
	char rest[PATH_MAX], *next = rest;
	memcpy(rest, path, strlen(path) + 1);
	for (char *name; fd >= 0 && (name = strsep(&next, "/"));) {
		CLOSED_AT_END int above = fd;
		fd = openat(above, *name ? name : ".", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	}
	return fd;
}

/* -1 means errno is set, to 0 for a directory that is not of the search: on another mount than its
   top, or on a file system without files of anybody's. */
static int open_directory(const char *path, int top)
{
	uint64_t mount, wanted;
	struct statfs system;
	CLOSED_AT_END int place = walk_to(path);
	if (place < 0 || (top >= 0 && (mount_of(place, &mount) < 0 || mount_of(top, &wanted) < 0)))
		return -1;
	errno = 0;
	if (top >= 0 ? mount != wanted : fstatfs(place, &system) == 0 && is_made_up(system.f_type))
		return -1;
	/* To search it takes a permission, too, without which every entry would be refused. */
	return openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The path of an entry, NULL where it is too long to be one. */
static const char *path_of(struct search *search, const char *name)
{
	size_t room = PATH_MAX - search->length;
	int size = snprintf(search->path + search->length, room, "/%s", name);
	return (size_t)size < room ? search->path : NULL;
}

static uint8_t type_of(const struct search *search, const struct entry *entry)
{
	struct stat st;
	if (entry->type != DT_UNKNOWN ||
	    fstatat(search->fd, entry->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return entry->type;
	return IFTODT(st.st_mode);
}

/* Whether a call is missing, here or by a seccomp filter. */
static bool is_missing(struct search *search, long result)
{
	search->is_old |= result < 0 && (errno == ENOSYS || errno == EPERM);
	return search->is_old;
}

/* How long the list of a file's attributes is. */
static ssize_t attributes_of(struct search *search, const char *name)
{
	long size = -1;
	if (!search->is_old)
		size = syscall(SYS_listxattrat, search->fd, name, AT_SYMLINK_NOFOLLOW, NULL, 0);
	if (!is_missing(search, size))
		return size;
	const char *path = path_of(search, name);
	return path ? llistxattr(path, NULL, 0) : -1;
}

/* The value of a file's attribute. It is that of the directory that is open, whatever its path
   leads to meanwhile. */
static ssize_t value_of(struct search *search, const char *name, char *value, size_t room)
{
	struct {
		uint64_t value;
		uint32_t size, flags;
	} to = {(uintptr_t)value, (uint32_t)room, 0};
	long size = -1;
	if (!search->is_old)
		size = syscall(SYS_getxattrat, search->fd, name, AT_SYMLINK_NOFOLLOW, CAPABILITY,
			       &to, sizeof to);
	if (!is_missing(search, size))
		return size;
	char path[sizeof "/proc/self/fd/" + 12 + PATH_MAX];
	snprintf(path, sizeof path, "/proc/self/fd/%d/%s", search->fd, name);
	size = lgetxattr(path, CAPABILITY, value, room);
	if (size >= 0 || errno != ENOENT)
		return size;
	int how = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC; /* without /proc */
	CLOSED_AT_END int file = openat(search->fd, name, how);
	return file < 0 ? -1 : fgetxattr(file, CAPABILITY, value, room);
}

/* Whether a file has capabilities, or what keeps that from being known. */
static bool has_capabilities(struct search *search, struct found *file)
{
	ssize_t size = attributes_of(search, file->name);
	if (size == 0)
		return false;
	/* A file system in user space may know attributes and not how to list them. */
	if (size > 0 || errno == EOPNOTSUPP)
		size = value_of(search, file->name, file->value, sizeof file->value);
	file->size = (int)size;
	file->error = size < 0 ? errno : 0;
	return size >= 0 || (errno != ENODATA && errno != EOPNOTSUPP && errno != ENOENT);
}

/* Whether to tell of an entry, of which the room for the next one is then filled. */
static bool is_found(struct search *search, const struct entry *entry)
{
	struct found *found = &search->found[search->count];
	uint8_t type = type_of(search, entry);
	found->directory = search->directories[search->next - 1];
	found->name = entry->name;
	found->is_file = type == DT_REG || type == DT_UNKNOWN;
	if (found->is_file)
		return has_capabilities(search, found);
	return type == DT_DIR && strcmp(found->name, ".") != 0 && strcmp(found->name, "..") != 0;
}

/* Have no directory open any more, and tell why where errno is set. */
static void leave(struct search *search)
{
	const char *directory = search->directories[search->next - 1];
	if (errno)
		search->found[search->count++] =
		    (struct found){.directory = directory, .is_file = true, .error = errno};
	close_fd(&search->fd);
	search->fd = -1;
}

/* Open the next directory; false where there is none. */
static bool enter(struct search *search)
{
	while (search->fd < 0 && search->next < search->number) {
		const char *directory = search->directories[search->next++];
		search->length = strlen(directory);
		errno = ENAMETOOLONG;
		if (search->length < sizeof search->path) {
			memcpy(search->path, directory, search->length + 1);
			search->fd = open_directory(directory, search->top);
		}
		if (search->fd < 0)
			leave(search);
	}
	return search->fd >= 0;
}

/* Fill the list of what is found with the next entries, of all directories where they are few. */
static void look(struct search *search)
{
	size_t used = 0, room = sizeof search->entries;
	search->count = 0;
	while (room - used >= LONGEST && enter(search)) {
		char *start = search->entries + used;
		errno = 0;
		long size = syscall(SYS_getdents64, search->fd, start, room - used);
		if (size <= 0) {
			leave(search);
			continue;
		}
		used += (size_t)size;
		for (char *end = start + size; start < end;) {
			const struct entry *entry = (const void *)start;
			search->count += is_found(search, entry);
			start += entry->length;
		}
	}
}

static PyObject *told(const struct found *found)
{
	const char *directory = found->directory, *name = found->name;
	if (!name)
		return Py_BuildValue("yi", directory, found->error);
	const char *slash = directory[strlen(directory) - 1] == '/' ? "" : "/";
	PyObject *path = PyBytes_FromFormat("%s%s%s", directory, slash, name);
	if (!path || !found->is_file)
		return path;
	if (found->error)
		return Py_BuildValue("Ni", path, found->error);
	return Py_BuildValue("Ny#", path, found->value, (Py_ssize_t)found->size);
}

const char find_in_doc[] =
    "find_in(directories, top, /)\n--\n\n"
    "The files in directories that have capabilities, each path with its attribute, or with the "
    "error of its reading, as each directory that cannot be read has; and the paths of their "
    "subdirectories. Passed over is what is not on the mount of an open file, -1 being any. Wraps "
    "getdents64(2), listxattr(2) and getxattr(2).";

PyObject *find_in(PyObject *module, PyObject *args)
{
	(void)module;
	PyObject *directories;
	CLEARED_AT_END struct search search = {.fd = -1};
	if (!PyArg_ParseTuple(args, "O!i:find_in", &PyTuple_Type, &directories, &search.top))
		return NULL;
	search.number = PyTuple_Size(directories);
	if (search.number > MOST_DIRECTORIES)
		return PyErr_Format(PyExc_ValueError, "more than %d", MOST_DIRECTORIES);
	for (Py_ssize_t n = 0; n < search.number; n++) {
		search.directories[n] = PyBytes_AsString(PyTuple_GetItem(directories, n));
		if (!search.directories[n])
			return NULL;
	}
	PyObject *result = Py_BuildValue("([][])");
	do {
		Py_BEGIN_ALLOW_THREADS
		look(&search);
		Py_END_ALLOW_THREADS
		for (size_t n = 0; result && n < search.count; n++) {
			PyObject *item = told(&search.found[n]);
			PyObject *list = PyTuple_GetItem(result, !search.found[n].is_file);
			if (!item || PyList_Append(list, item) < 0)
				Py_CLEAR(result);
			Py_XDECREF(item);
		}
	} while (result && (search.fd >= 0 || search.next < search.number));
	return result;
}
