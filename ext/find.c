/* One directory of a search for files with capabilities. Most files have no attribute at all, and
   listxattr(2) says so sooner than getxattr(2) does that they lack one. */
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

#ifndef SYS_listxattrat /* Linux 6.13; it takes no path, which saves the walk along it */
#define SYS_listxattrat (SYS_openat2 + 28)
#endif

/* struct statx(2), of which older headers have no mount. */
enum { MASK_OF_MOUNT = 0x1000 };
struct mounted {
	uint32_t mask, before[35];
	uint64_t mount, after[13];
};

struct place {
	DIR *directory;
	bool is_old;
	size_t length;
	char path[PATH_MAX]; /* the directory's in the first `length` bytes */
};

#define CLOSED_AT_END __attribute__((cleanup(close_place)))

static void close_place(struct place *place)
{
	if (place->directory)
		closedir(place->directory);
}

/* What tells the mount of a file from others: its number, by statx(2) since Linux 5.8 and by
   name_to_handle_at(2) before, or the device where the file system knows no handles. A device is
   not enough, since each subvolume of btrfs has its own. -1 means errno is set. */
static int mount_of(int fd, const char *path, uint64_t *mount)
{
	int how = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
	struct mounted statx = {.mask = 0};
	if (syscall(SYS_statx, fd, path, how, MASK_OF_MOUNT, &statx) == 0 &&
	    statx.mask & MASK_OF_MOUNT) {
		*mount = statx.mount;
		return 0;
	}
	struct file_handle handle = {.handle_bytes = 0};
	int number;
	if (name_to_handle_at(fd, path, &handle, &number, AT_EMPTY_PATH) < 0 &&
	    errno == EOVERFLOW) {
		*mount = (uint64_t)number;
		return 0;
	}
	struct stat st;
	if (fstatat(fd, path, &st, how) < 0)
		return -1;
	*mount = (uint64_t)st.st_dev;
	return 0;
}

/* Such as /proc and /sys, whose many files the kernel makes up and nobody can mark. */
static bool is_made_up(long type)
{
	return type == PROC_SUPER_MAGIC || type == SYSFS_MAGIC || type == CGROUP2_SUPER_MAGIC;
}

/* NULL means errno is set, to 0 for a directory that is not of the search: on another mount than
   its top, or on a file system without files of anybody's. */
static DIR *open_directory(const char *path, int top)
{
	uint64_t mount, wanted;
	if (mount_of(AT_FDCWD, path, &mount) < 0 || (top >= 0 && mount_of(top, "", &wanted) < 0))
		return NULL;
	errno = 0;
	if (top >= 0 && mount != wanted)
		return NULL;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	struct statfs system;
	if (top < 0 && fstatfs(fd, &system) == 0 && is_made_up(system.f_type)) {
		close(fd);
		errno = 0;
		return NULL;
	}
	/* Without leave to search it every entry would be refused. */
	DIR *directory = faccessat(fd, ".", F_OK, 0) == 0 ? fdopendir(fd) : NULL;
	if (!directory) {
		int kept = errno;
		close(fd);
		errno = kept;
	}
	return directory;
}

/* The path of an entry, NULL where it is too long to be one. */
static const char *path_of(struct place *place, const char *name)
{
	size_t room = PATH_MAX - place->length;
	int size = snprintf(place->path + place->length, room, "/%s", name);
	return (size_t)size < room ? place->path : NULL;
}

static unsigned char type_of(struct place *place, const struct dirent *entry)
{
	struct stat st;
	int fd = dirfd(place->directory);
	if (entry->d_type != DT_UNKNOWN || fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return entry->d_type;
	return IFTODT(st.st_mode);
}

/* How long the list of a file's attributes is. */
static ssize_t attributes_of(struct place *place, const char *name)
{
	if (!place->is_old) {
		int fd = dirfd(place->directory);
		long size = syscall(SYS_listxattrat, fd, name, AT_SYMLINK_NOFOLLOW, NULL, 0);
		if (size >= 0 || (errno != ENOSYS && errno != EPERM))
			return size;
		place->is_old = true; /* or a seccomp filter is */
	}
	const char *path = path_of(place, name);
	return path ? llistxattr(path, NULL, 0) : -1;
}

/* Whether a file has capabilities, or what keeps that from being known. */
static bool may_have_capabilities(struct place *place, const char *name)
{
	ssize_t size = attributes_of(place, name);
	if (size == 0)
		return false;
	/* A file system in user space may know attributes and not how to list them. */
	if (size > 0 || errno == EOPNOTSUPP) {
		const char *path = path_of(place, name);
		size = path ? lgetxattr(path, "security.capability", NULL, 0) : 0;
	}
	return size >= 0 || (errno != ENODATA && errno != EOPNOTSUPP && errno != ENOENT);
}

/* The next entry to tell of; NULL at the end, with errno where it is not the end. */
static const char *next_entry(struct place *place, bool *is_file)
{
	for (;;) {
		errno = 0;
		const struct dirent *entry = readdir(place->directory);
		if (!entry)
			return NULL;
		const char *name = entry->d_name;
		unsigned char type = type_of(place, entry);
		*is_file = type == DT_REG || type == DT_UNKNOWN;
		if (*is_file && may_have_capabilities(place, name))
			return name;
		if (type == DT_DIR && strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
			return name;
	}
}

const char find_in_doc[] =
    "find_in(directory, top, /)\n--\n\n"
    "The names of files in a directory that seem to have capabilities, and of "
    "its subdirectories; none where it is not on the mount of an open file, -1 being any. "
    "Wraps readdir(3) and llistxattr(2).";

PyObject *find_in(PyObject *module, PyObject *args)
{
	(void)module;
	const char *path;
	int top;
	if (!PyArg_ParseTuple(args, "yi:find_in", &path, &top))
		return NULL;
	CLOSED_AT_END struct place place = {.length = strlen(path)};
	if (place.length >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	memcpy(place.path, path, place.length + 1);
	Py_BEGIN_ALLOW_THREADS
	place.directory = open_directory(place.path, top);
	Py_END_ALLOW_THREADS
	if (!place.directory && errno)
		return PyErr_SetFromErrno(PyExc_OSError);
	PyObject *result = Py_BuildValue("([][])");
	while (result && place.directory) {
		bool is_file = false;
		const char *name;
		Py_BEGIN_ALLOW_THREADS
		name = next_entry(&place, &is_file);
		Py_END_ALLOW_THREADS
		if (!name && !errno)
			break;
		PyObject *item =
		    name ? PyBytes_FromString(name) : PyErr_SetFromErrno(PyExc_OSError);
		if (!item || PyList_Append(PyTuple_GetItem(result, !is_file), item) < 0)
			Py_CLEAR(result);
		Py_XDECREF(item);
	}
	return result;
}
