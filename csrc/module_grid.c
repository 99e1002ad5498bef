/* The Python side of grids (grid.h), beside module.c: buffers in, every length checked here and nowhere below. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fpenv.h"
#include "grid.h"
#include "module_grid.h"

/* A grid of checked size; row_bytes and all of its rows in bytes. False with ValueError. */
static bool grid_of(Py_ssize_t n_rows, Py_ssize_t n_cols, Py_ssize_t group, mf_grid *grid, size_t *n_bytes) {
    const Py_ssize_t most = PY_SSIZE_T_MAX / 64;
    if (n_rows < 0 || n_cols <= 0 || group <= 0 || n_cols > most || n_cols % group) {
        PyErr_Format(PyExc_ValueError, "no grid has %zd rows of %zd columns in groups of %zd", n_rows, n_cols, group);
        return false;
    }
    *grid = (mf_grid){(size_t)n_rows, (size_t)n_cols, (size_t)group};
    if (__builtin_mul_overflow(mf_grid_row_bytes(*grid), (size_t)n_rows, n_bytes) || *n_bytes > (size_t)most * 32) {
        PyErr_Format(PyExc_ValueError, "%zd rows of %zd columns are more bytes than memory can hold", n_rows, n_cols);
        return false;
    }
    return true;
}

static bool long_enough(const Py_buffer *buffer, size_t n_bytes, const char *what) {
    if ((size_t)buffer->len == n_bytes) return true;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected exactly %zu", what, buffer->len, n_bytes);
    return false;
}

/* Bytes of the packed codes of a grid; false with ValueError where the packing does not fit it. */
static bool packed_bytes(mf_packing packing, mf_grid grid, size_t *n_bytes) {
    const size_t bits = grid.n_cols * packing.bits;
    size_t lines = grid.n_rows, least = (bits + 7) / 8;
    bool fits = packing.bits >= 1 && packing.bits <= 8 && packing.flip < 1u << packing.bits;
    if (packing.lay == MF_LAY_WORDS) {
        fits = fits && bits % 32 == 0 && (packing.bits % 2 == 0 || packing.bits == 3) && packing.order == MF_ORDER_LOW;
        lines = bits / 32;
        least = grid.n_rows * 4;
    } else if (packing.lay == MF_LAY_COLUMNS) {
        fits = fits && packing.bits == 4 && grid.n_rows % 8 == 0 &&
               (packing.order == MF_ORDER_LOW || packing.order == MF_ORDER_AWQ);
        lines = grid.n_cols;
        least = grid.n_rows / 2;
    } else {
        fits = fits && packing.lay == MF_LAY_ROWS &&
               (packing.order == MF_ORDER_LOW || (packing.order == MF_ORDER_HIGH && packing.bits == 4));
    }
    if (fits && packing.stride >= least && !__builtin_mul_overflow(lines, packing.stride, n_bytes)) return true;
    PyErr_Format(PyExc_ValueError, "codes of %u bits in lines of %zu bytes do not make %zu rows of %zu columns",
                 packing.bits, packing.stride, grid.n_rows, grid.n_cols);
    return false;
}

static bool packing_of(int lay, int order, int bits, int flip, Py_ssize_t stride, mf_packing *packing) {
    if (lay < 0 || order < 0 || bits < 0 || flip < 0 || stride < 0) {
        PyErr_SetString(PyExc_ValueError, "a packing has no negative numbers");
        return false;
    }
    *packing = (mf_packing){(mf_lay)lay, (mf_order)order, (unsigned)bits, (unsigned)flip, (size_t)stride};
    return true;
}

PyObject *mf_py_grid_unpack(PyObject *module, PyObject *args) {
    (void)module;
    int lay, order, bits, flip;
    Py_ssize_t stride, n_rows, n_cols, group;
    Py_buffer packed, rows;
    if (!PyArg_ParseTuple(args, "(iiiin)(nnn)y*w*:grid_unpack", &lay, &order, &bits, &flip, &stride, &n_rows, &n_cols,
                          &group, &packed, &rows))
        return NULL;
    PyObject *result = NULL;
    mf_packing packing;
    mf_grid grid;
    size_t n_packed, n_grid;
    if (packing_of(lay, order, bits, flip, stride, &packing) && grid_of(n_rows, n_cols, group, &grid, &n_grid) &&
        packed_bytes(packing, grid, &n_packed) && long_enough(&packed, n_packed, "packed") &&
        long_enough(&rows, n_grid, "rows")) {
        Py_BEGIN_ALLOW_THREADS mf_active_grid() -> unpack(packing, grid, packed.buf, rows.buf);
        Py_END_ALLOW_THREADS result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&packed);
    PyBuffer_Release(&rows);
    return result;
}

PyObject *mf_py_grid_pack(PyObject *module, PyObject *args) {
    (void)module;
    int lay, order, bits, flip, rezero;
    Py_ssize_t stride, n_rows, n_cols, group;
    Py_buffer packed, rows;
    if (!PyArg_ParseTuple(args, "(iiiin)(nnn)y*w*i:grid_pack", &lay, &order, &bits, &flip, &stride, &n_rows, &n_cols,
                          &group, &rows, &packed, &rezero))
        return NULL;
    PyObject *result = NULL;
    mf_packing packing;
    mf_grid grid;
    size_t n_packed, n_grid;
    if (packing_of(lay, order, bits, flip, stride, &packing) && grid_of(n_rows, n_cols, group, &grid, &n_grid) &&
        packed_bytes(packing, grid, &n_packed) && long_enough(&packed, n_packed, "packed") &&
        long_enough(&rows, n_grid, "rows")) {
        if (rezero < MF_REZERO_NONE || rezero > 255) {
            PyErr_Format(PyExc_ValueError, "no code is %d", rezero);
        } else {
            mf_fault fault = {0, 0};
            bool fits;
            Py_BEGIN_ALLOW_THREADS fits = mf_active_grid()->pack(packing, grid, rows.buf, packed.buf, rezero, &fault);
            Py_END_ALLOW_THREADS result =
                fits ? Py_NewRef(Py_None) : Py_BuildValue("(nn)", (Py_ssize_t)fault.row, (Py_ssize_t)fault.column);
        }
    }
    PyBuffer_Release(&packed);
    PyBuffer_Release(&rows);
    return result;
}

PyObject *mf_py_grid_values(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t n_rows, n_cols, group;
    Py_buffer rows, values, table = {0};
    PyObject *given;
    if (!PyArg_ParseTuple(args, "(nnn)y*Ow*:grid_values", &n_rows, &n_cols, &group, &rows, &given, &values))
        return NULL;
    PyObject *result = NULL;
    mf_grid grid;
    size_t n_grid;
    double entries[256];
    if (!grid_of(n_rows, n_cols, group, &grid, &n_grid) || !long_enough(&rows, n_grid, "rows") ||
        !long_enough(&values, grid.n_rows * grid.n_cols * sizeof(double), "values"))
        goto done;
    if ((uintptr_t)values.buf % sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "values are not aligned to float64");
        goto done;
    }
    if (given != Py_None) {
        if (PyObject_GetBuffer(given, &table, PyBUF_SIMPLE) < 0) goto done;
        if (!long_enough(&table, sizeof entries, "table")) goto done;
        for (size_t i = 0; i < sizeof entries; i++) ((uint8_t *)entries)[i] = ((const uint8_t *)table.buf)[i];
    }
    Py_BEGIN_ALLOW_THREADS const mf_fpenv saved = mf_fpenv_default();
    mf_active_grid()->values(grid, rows.buf, given != Py_None ? entries : NULL, values.buf);
    mf_fpenv_restore(saved);
    Py_END_ALLOW_THREADS result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&rows);
    PyBuffer_Release(&values);
    PyBuffer_Release(&table);
    return result;
}

/* Rows of blocks of a type: their bytes; false with ValueError. */
static bool block_bytes(int type_id, mf_grid grid, size_t *n_bytes) {
    const mf_type *type = mf_find_type(mf_active_level(), type_id);
    if (!type || grid.n_cols % type->block_elements) {
        PyErr_Format(PyExc_ValueError, "%zu columns are no blocks of the type %d", grid.n_cols, type_id);
        return false;
    }
    *n_bytes = grid.n_rows * (grid.n_cols / type->block_elements) * type->block_bytes;
    return true;
}

PyObject *mf_py_grid_to_blocks(PyObject *module, PyObject *args) {
    (void)module;
    int type, limit;
    Py_ssize_t n_rows, n_cols, group;
    Py_buffer rows, blocks = {0};
    PyObject *wanted;
    if (!PyArg_ParseTuple(args, "i(nnn)iy*O:grid_to_blocks", &type, &n_rows, &n_cols, &group, &limit, &rows, &wanted))
        return NULL;
    PyObject *result = NULL;
    mf_grid grid;
    size_t n_grid, n_blocks;
    if (!grid_of(n_rows, n_cols, group, &grid, &n_grid) || !long_enough(&rows, n_grid, "rows") ||
        !block_bytes(type, grid, &n_blocks))
        goto done;
    if (limit < 1 || limit > 255) {
        PyErr_Format(PyExc_ValueError, "no largest code is %d", limit);
        goto done;
    }
    if (wanted != Py_None) {
        if (PyObject_GetBuffer(wanted, &blocks, PyBUF_WRITABLE) < 0) goto done;
        if (!long_enough(&blocks, n_blocks, "blocks")) goto done;
    }
    mf_fit fit;
    bool known;
    Py_BEGIN_ALLOW_THREADS const mf_fpenv saved = mf_fpenv_default();
    known = mf_active_grid()->to_blocks(type, grid, (unsigned)limit, rows.buf, blocks.buf, &fit);
    mf_fpenv_restore(saved);
    Py_END_ALLOW_THREADS if (known) result = Py_BuildValue("(dNnn)", fit.worst, PyBool_FromLong(fit.fits),
                                                           (Py_ssize_t)fit.fault.row, (Py_ssize_t)fit.fault.column);
    else PyErr_Format(PyExc_ValueError, "no grid becomes blocks of the type %d", type);
done:
    PyBuffer_Release(&rows);
    PyBuffer_Release(&blocks);
    return result;
}

PyObject *mf_py_grid_from_blocks(PyObject *module, PyObject *args) {
    (void)module;
    int type;
    Py_ssize_t n_rows, n_cols, group;
    Py_buffer rows, blocks;
    if (!PyArg_ParseTuple(args, "i(nnn)y*w*:grid_from_blocks", &type, &n_rows, &n_cols, &group, &blocks, &rows))
        return NULL;
    PyObject *result = NULL;
    mf_grid grid;
    size_t n_grid, n_blocks;
    if (grid_of(n_rows, n_cols, group, &grid, &n_grid) && long_enough(&rows, n_grid, "rows") &&
        block_bytes(type, grid, &n_blocks) && long_enough(&blocks, n_blocks, "blocks")) {
        bool known;
        Py_BEGIN_ALLOW_THREADS const mf_fpenv saved = mf_fpenv_default();
        known = mf_active_grid()->from_blocks(type, grid, blocks.buf, rows.buf);
        mf_fpenv_restore(saved);
        Py_END_ALLOW_THREADS if (known) result = Py_NewRef(Py_None);
        else PyErr_Format(PyExc_ValueError, "blocks of the type %d are no grid of groups of %zd", type, group);
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&blocks);
    return result;
}

PyObject *mf_py_grid_round(PyObject *module, PyObject *args) {
    (void)module;
    int bits, symmetric, half, records;
    Py_ssize_t n_rows, n_cols, group;
    Py_buffer values, rows;
    if (!PyArg_ParseTuple(args, "(ippp)(nnn)y*w*:grid_round", &bits, &symmetric, &half, &records, &n_rows, &n_cols,
                          &group, &values, &rows))
        return NULL;
    PyObject *result = NULL;
    mf_grid grid;
    size_t n_grid;
    if (bits < 1 || bits > 8 || (uintptr_t)values.buf % sizeof(float)) {
        PyErr_Format(PyExc_ValueError, "codes have 1 to 8 bits, not %d, and values are aligned to float32", bits);
    } else if (grid_of(n_rows, n_cols, group, &grid, &n_grid) &&
               long_enough(&rows, records ? grid.n_rows * mf_grid_head(grid) : n_grid, "rows") &&
               long_enough(&values, grid.n_rows * grid.n_cols * sizeof(float), "values")) {
        const mf_rounded how = {(unsigned)bits, symmetric, half, records};
        mf_fault fault = {0, 0};
        bool fits;
        Py_BEGIN_ALLOW_THREADS const mf_fpenv saved = mf_fpenv_default();
        fits = mf_active_grid()->round(how, grid, values.buf, rows.buf, &fault);
        mf_fpenv_restore(saved);
        Py_END_ALLOW_THREADS result =
            fits ? Py_NewRef(Py_None) : Py_BuildValue("(nn)", (Py_ssize_t)fault.row, (Py_ssize_t)fault.column);
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&rows);
    return result;
}

enum { MOVE_BYTES = 1 << 18, MOVE_ROWS = 32 };

/* Blocks from packed codes and records, some rows at a time, so that the grid between them stays in the cache. */
static void move_rows(mf_packing packing, mf_grid grid, const uint8_t *packed, const uint8_t *records, int type,
                      unsigned limit, uint8_t *blocks, size_t block_row, uint8_t *scratch, size_t at_once,
                      mf_fit *fit) {
    const size_t head = mf_grid_head(grid), size = mf_grid_row_bytes(grid);
    const mf_grid_level *level = mf_active_grid();
    *fit = (mf_fit){0.0, true, {0, 0}};
    for (size_t row = 0; row < grid.n_rows && fit->fits; row += at_once) {
        const size_t n = grid.n_rows - row < at_once ? grid.n_rows - row : at_once;
        const mf_grid piece = {n, grid.n_cols, grid.group};
        const size_t skip = packing.lay == MF_LAY_ROWS    ? row * packing.stride
                            : packing.lay == MF_LAY_WORDS ? row * 4
                                                          : row / 2;
        for (size_t r = 0; r < n; r++) memcpy(scratch + r * size, records + (row + r) * head, head);
        level->unpack(packing, piece, packed + skip, scratch);
        level->to_blocks(type, piece, limit, scratch, blocks + row * block_row, fit);
        fit->fault.row += row;
    }
}

PyObject *mf_py_grid_move(PyObject *module, PyObject *args) {
    (void)module;
    int lay, order, bits, flip, type, limit;
    Py_ssize_t stride, n_rows, n_cols, group;
    Py_buffer packed, records, blocks;
    if (!PyArg_ParseTuple(args, "(iiiin)(nnn)y*y*iiw*:grid_move", &lay, &order, &bits, &flip, &stride, &n_rows, &n_cols,
                          &group, &packed, &records, &type, &limit, &blocks))
        return NULL;
    PyObject *result = NULL;
    uint8_t *scratch = NULL;
    mf_packing packing;
    mf_grid grid;
    size_t n_packed, n_grid, n_blocks;
    if (!packing_of(lay, order, bits, flip, stride, &packing) || !grid_of(n_rows, n_cols, group, &grid, &n_grid) ||
        !packed_bytes(packing, grid, &n_packed) || !long_enough(&packed, n_packed, "packed") ||
        !long_enough(&records, grid.n_rows * mf_grid_head(grid), "records") || !block_bytes(type, grid, &n_blocks) ||
        !long_enough(&blocks, n_blocks, "blocks"))
        goto done;
    if (limit < 1 || limit > 255) {
        PyErr_Format(PyExc_ValueError, "no largest code is %d", limit);
        goto done;
    }
    const size_t size = mf_grid_row_bytes(grid), fitting = MOVE_BYTES / size / MOVE_ROWS * MOVE_ROWS;
    const size_t at_once = fitting ? fitting : MOVE_ROWS;
    scratch = PyMem_Malloc(at_once * size);
    if (!scratch) {
        PyErr_NoMemory();
        goto done;
    }
    mf_fit fit = {0.0, true, {0, 0}};
    if (grid.n_rows) {
        Py_BEGIN_ALLOW_THREADS const mf_fpenv saved = mf_fpenv_default();
        move_rows(packing, grid, packed.buf, records.buf, type, (unsigned)limit, blocks.buf, n_blocks / grid.n_rows,
                  scratch, at_once, &fit);
        mf_fpenv_restore(saved);
        Py_END_ALLOW_THREADS
    }
    result =
        fit.fits ? Py_NewRef(Py_None) : Py_BuildValue("(nn)", (Py_ssize_t)fit.fault.row, (Py_ssize_t)fit.fault.column);
done:
    PyMem_Free(scratch);
    PyBuffer_Release(&packed);
    PyBuffer_Release(&records);
    PyBuffer_Release(&blocks);
    return result;
}

/* Lines of a file that lie `stride` bytes apart, one behind the other in the buffer: one call where a strip of a matrix
 * would be thousands. Returns how many lines are whole. */
PyObject *mf_py_read_strip(PyObject *module, PyObject *args) {
    (void)module;
    int handle;
    long long offset;
    Py_ssize_t stride, size;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "iLnnw*:read_strip", &handle, &offset, &stride, &size, &out)) return NULL;
    PyObject *result = NULL;
    long long last;
    const Py_ssize_t n = size > 0 ? out.len / size : 0;
    if (offset < 0 || stride < 0 || size <= 0 || out.len % size ||
        __builtin_mul_overflow((long long)n, stride, &last) || __builtin_add_overflow(last, offset, &last)) {
        PyErr_Format(PyExc_ValueError, "no strip of lines of %zd bytes, %zd apart, fills %zd bytes", size, stride,
                     out.len);
    } else {
        Py_ssize_t done = 0;
        int failure = 0;
        Py_BEGIN_ALLOW_THREADS while (done < n) {
            const ssize_t got =
                pread(handle, (char *)out.buf + done * size, (size_t)size, (off_t)(offset + done * stride));
            if (got < 0 && errno == EINTR) continue;
            if (got != size) {
                failure = got < 0 ? errno : 0;
                break;
            }
            done++;
        }
        Py_END_ALLOW_THREADS if (failure) {
            errno = failure;
            PyErr_SetFromErrno(PyExc_OSError);
        }
        else result = PyLong_FromSsize_t(done);
    }
    PyBuffer_Release(&out);
    return result;
}
