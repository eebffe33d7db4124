/* The capabilities of files as libcap text, read and written. */
#ifndef FILES_H
#define FILES_H

#include <Python.h>

extern const char get_file_doc[], set_file_doc[];
PyObject *get_file(PyObject *module, PyObject *file);
PyObject *set_file(PyObject *module, PyObject *args);

#endif
