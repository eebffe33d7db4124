/* The capabilities of files as libcap text, read and written. */
#ifdef CAPS_LIMITED_API
#define Py_LIMITED_API CAPS_LIMITED_API
#endif
#define PY_SSIZE_T_CLEAN
#include "files.h"

#include "capstate.h"
#include "text.h"

/* One system call where there are capabilities; only the lack of them asks what kind of file it
   is. A descriptor opened with O_PATH is read by its name in /proc. */
static cap_t read_file(const char *path, int fd)
{
	struct stat st;
	errno = 0;
	cap_t caps = path ? cap_get_file(path) : cap_get_fd(fd);
	if (!caps && !path && errno == EBADF)
		return caps_get_fd(fd);
	if (!caps && errno == 0) /* libcap's answer to a malformed attribute */
		errno = EINVAL;
	if (!caps && (errno == ENODATA || errno == EOPNOTSUPP)) {
		int failed = path ? stat(path, &st) : fstat(fd, &st);
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
	PyObject *path = NULL;
	long fd = -1;
	if (PyLong_Check(file)) {
		fd = PyLong_AsLong(file);
		if (fd == -1 && PyErr_Occurred())
			return NULL;
		if (fd != (int)fd)
			return PyErr_Format(PyExc_OverflowError, "%ld is no descriptor", fd);
	} else if (!PyUnicode_FSConverter(file, &path)) {
		return NULL;
	}
	const char *name = path ? PyBytes_AsString(path) : NULL;
	CAPS_OWNED cap_t caps = NULL;
	Py_BEGIN_ALLOW_THREADS
	caps = read_file(name, (int)fd);
	Py_END_ALLOW_THREADS
	int kept = errno;
	Py_XDECREF(path);
	errno = kept;
	if (!caps && errno == ENODATA)
		return Py_BuildValue("(Oi)", Py_None, 0);
	if (!caps)
		return os_error();
	PyObject *text = cap_text(caps);
	return text ? Py_BuildValue("(NI)", text, cap_get_nsowner(caps)) : NULL;
}

const char set_file_doc[] = "set_file(fd, text, root_id, /)\n--\n\n"
			    "Set an open file's capabilities; None removes them. Wraps "
			    "cap_set_fd(3) and cap_set_nsowner(3).";

PyObject *set_file(PyObject *module, PyObject *args)
{
	(void)module;
	int fd;
	const char *text;
	long long root_id;
	if (!PyArg_ParseTuple(args, "izL:set_file", &fd, &text, &root_id))
		return NULL;
	if (root_id < 0 || root_id >= (uid_t)-1)
		return PyErr_Format(PyExc_OverflowError, "%lld is not a user id", root_id);
	CAPS_OWNED cap_t caps = text ? cap_from_text(text) : NULL;
	if (text && (!caps || cap_set_nsowner(caps, (uid_t)root_id) < 0))
		return os_error();
	int failed;
	Py_BEGIN_ALLOW_THREADS
	failed = cap_set_fd(fd, caps);
	Py_END_ALLOW_THREADS
	if (failed)
		return os_error();
	Py_RETURN_NONE;
}
