/* One directory of a search for files with capabilities. */
#ifndef FIND_H
#define FIND_H

#include <Python.h>

extern const char find_in_doc[];
PyObject *find_in(PyObject *module, PyObject *args);

#endif
