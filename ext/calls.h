/* System calls from Python's tuples, and the numbers they are made of. */
#ifndef CALLS_H
#define CALLS_H

#include <Python.h>

extern const char system_calls_doc[];
PyObject *system_calls(PyObject *module, PyObject *args);
extern const char no_new_privs_doc[];
PyObject *no_new_privs(PyObject *module, PyObject *unused);
int add_call_constants(PyObject *module);

#endif
