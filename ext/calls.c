/* System calls from Python's tuples, for threads.c to make, and the numbers they are made of. */
#ifdef CAPS_LIMITED_API
#define Py_LIMITED_API CAPS_LIMITED_API
#endif
#define PY_SSIZE_T_CLEAN
#include "calls.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "threads.h"

/* Fills a call from a tuple of its number and arguments; bytes are passed by their address. */
static int convert_call(PyObject *tuple, struct call *call)
{
	Py_ssize_t size = PyTuple_Check(tuple) ? PyTuple_Size(tuple) : 0;
	if (size < 1 || size > 6) {
		PyErr_SetString(PyExc_TypeError, "a call is a tuple of one to six items");
		return -1;
	}
	unsigned long words[6] = {0};
	for (Py_ssize_t n = 0; n < size; n++) {
		PyObject *item = PyTuple_GetItem(tuple, n);
		words[n] = PyBytes_Check(item) ? (unsigned long)PyBytes_AsString(item)
					       : PyLong_AsUnsignedLongMask(item);
		if (PyErr_Occurred())
			return -1;
	}
	call->number = (long)words[0];
	memcpy(call->arguments, words + 1, sizeof call->arguments);
	return 0;
}

const char system_calls_doc[] =
    "system_calls(calls, all_threads, /)\n--\n\n"
    "Make calls, tuples of a syscall(2) number and arguments, on this thread or on all. "
    "None, or what failed: errno, which call (-1: asking for it), the threads' ids and "
    "how many they are.";

PyObject *system_calls(PyObject *module, PyObject *args)
{
	(void)module;
	PyObject *list;
	int all_threads;
	if (!PyArg_ParseTuple(args, "O!p:system_calls", &PyList_Type, &list, &all_threads))
		return NULL;
	struct call calls[160];
	int count = (int)PyList_Size(list);
	if (count > 160)
		return PyErr_Format(PyExc_ValueError, "%d calls are too many", count);
	for (int n = 0; n < count; n++)
		if (convert_call(PyList_GetItem(list, n), &calls[n]) < 0)
			return NULL;
	/* Python's lock is kept at first: where many threads want it, it is long in coming back.
	   Who cannot answer may need it to come so far. */
	struct outcome outcome = {.error = ETIMEDOUT, .call = -1};
	if (all_threads)
		outcome = threads_call(calls, count, AT_ONCE);
	if (outcome.error == ETIMEDOUT && outcome.call < 0) {
		Py_BEGIN_ALLOW_THREADS
		outcome = threads_call(calls, count, all_threads ? PATIENTLY : HERE);
		Py_END_ALLOW_THREADS
	}
	if (!outcome.error)
		Py_RETURN_NONE;
	PyObject *threads = PyList_New(0);
	for (int n = 0; threads && n < outcome.count && n < THREADS_NAMED; n++) {
		PyObject *thread = PyLong_FromLong(outcome.threads[n]);
		if (!thread || PyList_Append(threads, thread) < 0)
			Py_CLEAR(threads);
		Py_XDECREF(thread);
	}
	return threads ? Py_BuildValue("iiNi", outcome.error, outcome.call, threads, outcome.count)
		       : NULL;
}

const char no_new_privs_doc[] =
    "no_new_privs(/)\n--\n\n"
    "Whether execve(2) can give the calling thread no privilege any more. "
    "Calls PR_GET_NO_NEW_PRIVS of prctl(2).";

PyObject *no_new_privs(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyBool_FromLong(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
}

/* 32-bit kernels keep the narrow ids of old under the plain names. */
#ifdef SYS_setresuid32
enum { SETRESUID = SYS_setresuid32, SETRESGID = SYS_setresgid32, SETGROUPS = SYS_setgroups32 };
#else
enum { SETRESUID = SYS_setresuid, SETRESGID = SYS_setresgid, SETGROUPS = SYS_setgroups };
#endif

int add_call_constants(PyObject *module)
{
	static const struct {
		const char *name;
		long value;
	} constants[] = {
	    {"MAX_THREADS", MAX_THREADS},
	    {"CAPSET", SYS_capset},
	    {"CAPSET_VERSION", _LINUX_CAPABILITY_VERSION_3},
	    {"KEYCTL", SYS_keyctl},
	    {"PRCTL", SYS_prctl},
	    {"RENAMEAT2", SYS_renameat2},
	    {"SETGROUPS", SETGROUPS},
	    {"SETRESGID", SETRESGID},
	    {"SETRESUID", SETRESUID},
	    {"UNSHARE", SYS_unshare},
	    {"PR_CAPBSET_DROP", PR_CAPBSET_DROP},
	    {"PR_CAP_AMBIENT", PR_CAP_AMBIENT},
	    {"PR_CAP_AMBIENT_CLEAR_ALL", PR_CAP_AMBIENT_CLEAR_ALL},
	    {"PR_CAP_AMBIENT_RAISE", PR_CAP_AMBIENT_RAISE},
	    {"PR_SET_CHILD_SUBREAPER", PR_SET_CHILD_SUBREAPER},
	    {"PR_SET_KEEPCAPS", PR_SET_KEEPCAPS},
	    {"PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS},
	    {"PR_SET_SECUREBITS", PR_SET_SECUREBITS},
	};
	for (size_t n = 0; n < sizeof constants / sizeof *constants; n++)
		if (PyModule_AddIntConstant(module, constants[n].name, constants[n].value) < 0)
			return -1;
	return 0;
}
