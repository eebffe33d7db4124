/* The capabilities of files as libcap text, read and written. */
#ifdef CAPS_LIMITED_API
#define Py_LIMITED_API CAPS_LIMITED_API
#endif
#define PY_SSIZE_T_CLEAN
#include "files.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/xattr.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/xattr.h>

#include "capstate.h"
#include "text.h"

enum { FILE_BITS = 64 }; /* what a security.capability attribute can name */

/* A path, or a descriptor where there is none; the path's bytes are the caller's. */
struct place {
	const char *path;
	int fd;
};

static PyObject *convert_place(PyObject *file, struct place *place)
{
	PyObject *bytes = NULL;
	if (!PyLong_Check(file)) {
		if (PyUnicode_FSConverter(file, &bytes))
			*place = (struct place){.path = PyBytes_AsString(bytes)};
		return bytes;
	}
	long fd = PyLong_AsLong(file);
	if (fd == -1 && PyErr_Occurred())
		return NULL;
	if (fd != (int)fd)
		return PyErr_Format(PyExc_OverflowError, "%ld is no descriptor", fd);
	*place = (struct place){.fd = (int)fd};
	Py_INCREF(file);
	return file;
}

/* One system call where there are capabilities; only the lack of them asks what kind of file it
   is. A descriptor opened with O_PATH is read by its name in /proc. */
static cap_t read_file(struct place place)
{
	struct stat st;
	errno = 0;
	cap_t caps = place.path ? cap_get_file(place.path) : cap_get_fd(place.fd);
	if (!caps && !place.path && errno == EBADF)
		return caps_get_fd(place.fd);
	if (!caps && errno == 0) /* libcap's answer to a malformed attribute */
		errno = EINVAL;
	if (!caps && (errno == ENODATA || errno == EOPNOTSUPP)) {
		int failed = place.path ? stat(place.path, &st) : fstat(place.fd, &st);
		if (!failed)
			errno = S_ISREG(st.st_mode) ? ENODATA : EINVAL;
	}
	return caps;
}

const char get_file_doc[] = "get_file(file, /)\n--\n\n"
			    "The text and root id of the capabilities of a file, by path or "
			    "descriptor; the text is None where it has none. Wraps cap_get_file(3) "
			    "and cap_get_fd(3).";

PyObject *get_file(PyObject *module, PyObject *file)
{
	(void)module;
	struct place place;
	PyObject *held = convert_place(file, &place);
	if (!held)
		return NULL;
	CAPS_OWNED cap_t caps = NULL;
	Py_BEGIN_ALLOW_THREADS
	caps = read_file(place);
	Py_END_ALLOW_THREADS
	int kept = errno;
	Py_DECREF(held);
	errno = kept;
	if (!caps && errno == ENODATA)
		return Py_BuildValue("(Oi)", Py_None, 0);
	if (!caps)
		return os_error();
	PyObject *text = cap_text(caps);
	return text ? Py_BuildValue("(NI)", text, cap_get_nsowner(caps)) : NULL;
}

static bool has(cap_t caps, cap_flag_t set, cap_value_t cap)
{
	cap_flag_value_t value = CAP_CLEAR;
	return cap_get_flag(caps, cap, set, &value) == 0 && value == CAP_SET;
}

/* Writes the attribute, or removes it where there are no capabilities. libcap does so only by a
   name that is no link, or by a descriptor that the file has to be readable for. */
static int write_mark(const char *path, cap_t caps)
{
	if (!caps)
		return removexattr(path, XATTR_NAME_CAPS);
	uint64_t permitted = 0, inheritable = 0;
	bool is_effective = false;
	for (cap_value_t cap = 0; cap < FILE_BITS; cap++) {
		permitted |= (uint64_t)has(caps, CAP_PERMITTED, cap) << cap;
		inheritable |= (uint64_t)has(caps, CAP_INHERITABLE, cap) << cap;
		is_effective = is_effective || has(caps, CAP_EFFECTIVE, cap);
	}
	uid_t root_id = cap_get_nsowner(caps);
	uint32_t magic = root_id ? VFS_CAP_REVISION_3 : VFS_CAP_REVISION_2;
	struct vfs_ns_cap_data mark = {
	    .magic_etc = htole32(magic | is_effective * VFS_CAP_FLAGS_EFFECTIVE),
	    .data = {{htole32((uint32_t)permitted), htole32((uint32_t)inheritable)},
		     {htole32((uint32_t)(permitted >> 32)),
		      htole32((uint32_t)(inheritable >> 32))}},
	    .rootid = htole32(root_id)};
	size_t size = root_id ? XATTR_CAPS_SZ_3 : XATTR_CAPS_SZ_2;
	return setxattr(path, XATTR_NAME_CAPS, &mark, size, 0);
}

/* What is changed is the very file that was looked at, whatever is done to its name meanwhile. */
static int change_file(struct place place, cap_t caps)
{
	if (!place.path)
		return cap_set_fd(place.fd, caps);
	struct stat seen, opened;
	CAPS_OPEN int fd = open(place.path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &seen) < 0)
		return -1;
	if (!S_ISREG(seen.st_mode)) {
		errno = EINVAL;
		return -1;
	}
	char buffer[CAPS_FD_PATH];
	if (write_mark(caps_fd_path(buffer, fd), caps) == 0)
		return 0;
	if (errno != ENOENT)
		return -1;
	/* without /proc the file has to be readable */
	const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	CAPS_OPEN int readable = open(place.path, flags);
	if (readable < 0 || fstat(readable, &opened) < 0)
		return -1;
	if (opened.st_dev != seen.st_dev || opened.st_ino != seen.st_ino) {
		errno = ESTALE;
		return -1;
	}
	return cap_set_fd(readable, caps);
}

const char set_file_doc[] = "set_file(file, text, root_id, /)\n--\n\n"
			    "Set the capabilities of a file, by path or descriptor; None removes "
			    "them. Wraps cap_set_fd(3); by path, calls setxattr(2).";

PyObject *set_file(PyObject *module, PyObject *args)
{
	(void)module;
	PyObject *file;
	const char *text;
	long long root_id;
	if (!PyArg_ParseTuple(args, "OzL:set_file", &file, &text, &root_id))
		return NULL;
	if (root_id < 0 || root_id >= (uid_t)-1)
		return PyErr_Format(PyExc_OverflowError, "%lld is not a user id", root_id);
	CAPS_OWNED cap_t caps = text ? cap_from_text(text) : NULL;
	if (text && (!caps || cap_set_nsowner(caps, (uid_t)root_id) < 0))
		return os_error();
	struct place place;
	PyObject *held = convert_place(file, &place);
	if (!held)
		return NULL;
	int failed;
	Py_BEGIN_ALLOW_THREADS
	failed = change_file(place, caps);
	Py_END_ALLOW_THREADS
	int kept = errno;
	Py_DECREF(held);
	errno = kept;
	if (failed)
		return os_error();
	Py_RETURN_NONE;
}
