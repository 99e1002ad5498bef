/* Functions of module_grid.c, for the table in module.c. */
#ifndef MF_MODULE_GRID_H
#define MF_MODULE_GRID_H

#include <Python.h>

PyObject *mf_py_grid_unpack(PyObject *module, PyObject *args);
PyObject *mf_py_grid_pack(PyObject *module, PyObject *args);
PyObject *mf_py_grid_values(PyObject *module, PyObject *args);
PyObject *mf_py_grid_to_blocks(PyObject *module, PyObject *args);
PyObject *mf_py_grid_from_blocks(PyObject *module, PyObject *args);
PyObject *mf_py_grid_round(PyObject *module, PyObject *args);
PyObject *mf_py_grid_move(PyObject *module, PyObject *args);
PyObject *mf_py_grid_numbers(PyObject *module, PyObject *args);
PyObject *mf_py_grid_spread(PyObject *module, PyObject *args);
PyObject *mf_py_grid_rounding(PyObject *module, PyObject *args);
PyObject *mf_py_read_strip(PyObject *module, PyObject *args);

#endif
