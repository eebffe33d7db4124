/* Capabilities that are effective for a block, counted for each thread. */
#ifndef RAISED_H
#define RAISED_H

#include <Python.h>

int add_raised(PyObject *module);

#endif
