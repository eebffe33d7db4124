/* Capability state in and out as libcap text; all arithmetic on it is Python's. Each function
   wraps the libcap call that its docstring names and raises OSError where that call fails. */
#ifdef CAPS_LIMITED_API
#define Py_LIMITED_API CAPS_LIMITED_API
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "calls.h"
#include "capstate.h"
#include "files.h"
#include "find.h"
#include "raised.h"
#include "text.h"

static PyObject *iab_text(cap_iab_t iab)
{
	CAPS_OWNED char *text = iab ? cap_iab_to_text(iab) : NULL;
	return text ? PyUnicode_FromString(text) : os_error();
}

PyDoc_STRVAR(get_process_doc, "get_process(pid, /)\n--\n\n"
			      "The text of a thread's three sets, the calling one's for 0. "
			      "Wraps cap_get_pid(3).");

static PyObject *get_process(PyObject *module, PyObject *args)
{
	(void)module;
	int pid;
	if (!PyArg_ParseTuple(args, "i:get_process", &pid))
		return NULL;
	CAPS_OWNED cap_t caps = cap_get_pid(pid);
	return cap_text(caps);
}

PyDoc_STRVAR(set_process_doc, "set_process(text, /)\n--\n\n"
			      "Set the calling thread's three sets. Wraps cap_set_proc(3).");

static PyObject *set_process(PyObject *module, PyObject *args)
{
	(void)module;
	const char *text;
	if (!PyArg_ParseTuple(args, "s:set_process", &text))
		return NULL;
	CAPS_OWNED cap_t caps = cap_from_text(text);
	if (!caps || cap_set_proc(caps) < 0)
		return os_error();
	Py_RETURN_NONE;
}

/* As cap_iab_get_proc(3), without asking whether what is not inheritable is ambient. */
static cap_iab_t own_iab(void)
{
	CAPS_OWNED cap_t caps = cap_get_proc();
	cap_iab_t iab = caps ? cap_iab_init() : NULL;
	cap_iab_fill(iab, CAP_IAB_INH, caps, CAP_INHERITABLE);
	for (cap_value_t cap = cap_max_bits(); cap-- > 0;) {
		if (cap_iab_get_vector(iab, CAP_IAB_INH, cap) && cap_get_ambient(cap) > 0)
			cap_iab_set_vector(iab, CAP_IAB_AMB, cap, CAP_SET);
		if (cap_get_bound(cap) == 0)
			cap_iab_set_vector(iab, CAP_IAB_BOUND, cap, CAP_SET);
	}
	return iab;
}

PyDoc_STRVAR(get_iab_doc, "get_iab(pid, /)\n--\n\n"
			  "The inheritable, ambient and bounding vectors of a thread, the calling "
			  "one's for 0. Wraps cap_iab_get_pid(3).");

static PyObject *get_iab(PyObject *module, PyObject *args)
{
	(void)module;
	int pid;
	if (!PyArg_ParseTuple(args, "i:get_iab", &pid))
		return NULL;
	errno = 0;
	CAPS_OWNED cap_iab_t iab = pid ? cap_iab_get_pid(pid) : own_iab();
	return iab_text(iab);
}

PyDoc_STRVAR(canonical_doc, "canonical(text, /)\n--\n\n"
			    "libcap's own spelling of a state. Wraps cap_from_text(3) and "
			    "cap_to_text(3).");

static PyObject *canonical(PyObject *module, PyObject *args)
{
	(void)module;
	const char *text;
	if (!PyArg_ParseTuple(args, "s:canonical", &text))
		return NULL;
	CAPS_OWNED cap_t caps = cap_from_text(text);
	return cap_text(caps);
}

PyDoc_STRVAR(canonical_iab_doc, "canonical_iab(text, /)\n--\n\n"
				"libcap's own spelling of three vectors. Wraps "
				"cap_iab_from_text(3) and cap_iab_to_text(3).");

static PyObject *canonical_iab(PyObject *module, PyObject *args)
{
	(void)module;
	const char *text;
	if (!PyArg_ParseTuple(args, "s:canonical_iab", &text))
		return NULL;
	CAPS_OWNED cap_iab_t iab = cap_iab_from_text(text);
	return iab_text(iab);
}

PyDoc_STRVAR(names_doc, "names(/)\n--\n\n"
			"libcap's name of every bit that a set can hold, a number where it has "
			"none. Wraps cap_to_name(3).");

static PyObject *names(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	PyObject *result = PyTuple_New(64); /* _LINUX_CAPABILITY_U32S_3 words */
	for (int cap = 0; result && cap < 64; cap++) {
		CAPS_OWNED char *name = cap_to_name(cap);
		PyObject *item = name ? PyUnicode_FromString(name) : os_error();
		if (!item || PyTuple_SetItem(result, cap, item) < 0)
			Py_CLEAR(result);
	}
	return result;
}

PyDoc_STRVAR(securebits_doc, "securebits(/)\n--\n\n"
			     "The calling thread's secure bits. Wraps cap_get_secbits(3).");

static PyObject *securebits(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyLong_FromUnsignedLong(cap_get_secbits());
}

PyDoc_STRVAR(max_bits_doc, "max_bits(/)\n--\n\n"
			   "How many capabilities the running kernel has. Wraps cap_max_bits(3).");

static PyObject *max_bits(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyLong_FromLong(cap_max_bits());
}

#define FUNCTION(name, flags) {#name, name, flags, name##_doc}
static PyMethodDef methods[] = {
    FUNCTION(get_process, METH_VARARGS),
    FUNCTION(set_process, METH_VARARGS),
    FUNCTION(get_file, METH_O),
    FUNCTION(set_file, METH_VARARGS),
    FUNCTION(get_iab, METH_VARARGS),
    FUNCTION(canonical, METH_VARARGS),
    FUNCTION(canonical_iab, METH_VARARGS),
    FUNCTION(system_calls, METH_VARARGS),
    FUNCTION(securebits, METH_NOARGS),
    FUNCTION(no_new_privs, METH_NOARGS),
    FUNCTION(names, METH_NOARGS),
    FUNCTION(max_bits, METH_NOARGS),
    FUNCTION(find_in, METH_VARARGS),
    {0},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_call_constants},
    {Py_mod_exec, add_raised},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0}, /* see below */
    {0},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "caps._caps",
    .m_doc = "Capability state in and out as libcap text.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__caps(void)
{
	/* Py_mod_multiple_interpreters, for those with their own GIL: our version of the limited
	   API hides it, and the interpreters before 3.12 refuse it. */
	if (strtol(strchr(Py_GetVersion(), '.') + 1, NULL, 10) >= 12)
		slots[sizeof slots / sizeof *slots - 2] = (PyModuleDef_Slot){3, (void *)2};
	return PyModuleDef_Init(&definition);
}
