/* What `raised` does to its thread, on entering and on leaving a block.
   1. Nothing of Python's runs between a change of the effective set and the count of it.
   2. The counts are the thread's, as its sets are, so a child of fork(2) goes on with both.
   3. A capability is lowered when the last block that raised it is left; when the last of all is
      left, the effective set is what it was before the first. */
#ifdef CAPS_LIMITED_API
#define Py_LIMITED_API CAPS_LIMITED_API
#endif
#define PY_SSIZE_T_CLEAN
#include "raised.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BITS = 64 };

static _Thread_local struct {
	unsigned int count, counts[BITS];
	uint64_t before; /* effective when the first of the open blocks was entered */
	uint64_t raised; /* by an open block, and not effective before it */
} blocks;

struct raised {
	PyObject_HEAD unsigned long long mask; /* 0: whatever is permitted */
};

static bool counts(const struct raised *self, int bit)
{
	return !self->mask || self->mask >> bit & 1;
}

struct change {
	uint64_t lower, raise;
	bool only_permitted; /* what is not permitted of `raise` is left out, not refused */
};

/* Changes the effective set, and gives what it was; no signal comes between the two calls, since
   threads.c may change the same sets in a handler. */
static int change_effective(struct change change, uint64_t *was)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2];
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	bool failed = syscall(SYS_capget, &header, sets);
	*was = sets[0].effective | (uint64_t)sets[1].effective << 32;
	uint64_t permitted = sets[0].permitted | (uint64_t)sets[1].permitted << 32;
	uint64_t raise = change.only_permitted ? change.raise & permitted : change.raise;
	uint64_t now = (*was & ~change.lower) | raise;
	sets[0].effective = (uint32_t)now;
	sets[1].effective = (uint32_t)(now >> 32);
	failed = failed || syscall(SYS_capset, &header, sets);
	int error = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = error;
	return failed ? -1 : 0;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\n"
			"What is effective in the block, after _check() has allowed it. "
			"Calls capset(2).");

static PyObject *enter(PyObject *object, PyObject *unused)
{
	(void)unused;
	const struct raised *self = (const struct raised *)object;
	PyObject *effective = PyObject_CallMethod(object, "_check", NULL);
	if (!effective)
		return NULL;
	struct change change = {.raise = self->mask ? self->mask : UINT64_MAX,
				.only_permitted = !self->mask};
	uint64_t was;
	if (change_effective(change, &was) < 0) {
		Py_DECREF(effective);
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	if (blocks.count++ == 0)
		blocks.before = was;
	for (int bit = 0; bit < BITS; bit++)
		if (counts(self, bit) && blocks.counts[bit]++ == 0)
			blocks.raised |= ~was & UINT64_C(1) << bit;
	return effective;
}

PyDoc_STRVAR(leave_doc, "__exit__($self, kind, error, traceback, /)\n--\n\n"
			"Lower what no other open block of the thread has raised. "
			"Calls capset(2).");

static PyObject *leave(PyObject *object, PyObject *args)
{
	(void)args;
	const struct raised *self = (const struct raised *)object;
	for (int bit = 0; bit < BITS; bit++)
		if (counts(self, bit) && blocks.counts[bit] == 0) {
			PyErr_SetString(PyExc_RuntimeError,
					"the block was not entered in this thread");
			return NULL;
		}
	struct change change = {0};
	for (int bit = 0; bit < BITS; bit++)
		if (counts(self, bit) && --blocks.counts[bit] == 0)
			change.lower |= blocks.raised & UINT64_C(1) << bit;
	blocks.raised &= ~change.lower;
	if (--blocks.count == 0)
		change = (struct change){UINT64_MAX, blocks.before, .only_permitted = true};
	uint64_t was;
	if (change_effective(change, &was) < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"__enter__", enter, METH_NOARGS, enter_doc},
    {"__exit__", leave, METH_VARARGS, leave_doc},
    {0},
};

static PyMemberDef members[] = {
    {"_mask", T_ULONGLONG, offsetof(struct raised, mask), 0, NULL},
    {0},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Capabilities that are effective in a block; caps.raised says when they may be."},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0},
};

static PyType_Spec spec = {
    .name = "caps._caps.Raised",
    .basicsize = sizeof(struct raised),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int add_raised(PyObject *module)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
	if (!type)
		return -1;
	int failed = PyModule_AddObjectRef(module, "Raised", type);
	Py_DECREF(type);
	return failed;
}
