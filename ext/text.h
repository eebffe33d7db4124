/* What a failed call and a state of libcap become in Python. */
#ifndef TEXT_H
#define TEXT_H

#include <Python.h>

#include "capstate.h"

static inline PyObject *os_error(void)
{
	if (errno == 0) /* libcap has paths that fail without saying why */
		errno = EINVAL;
	return PyErr_SetFromErrno(PyExc_OSError);
}

static inline PyObject *cap_text(cap_t caps)
{
	CAPS_OWNED char *text = caps ? cap_to_text(caps, NULL) : NULL;
	return text ? PyUnicode_FromString(text) : os_error();
}

#endif
