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
               (packing.order == MF_ORDER_LOW || (packing.bits == 4 && packing.order <= MF_ORDER_AWQ));
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
    known = mf_active_grid()->to_blocks(type, grid, (unsigned)limit, rows.buf, blocks.buf,
                                        grid.n_rows ? n_blocks / grid.n_rows : 0, &fit);
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
        known =
            mf_active_grid()->from_blocks(type, grid, blocks.buf, grid.n_rows ? n_blocks / grid.n_rows : 0, rows.buf);
        mf_fpenv_restore(saved);
        Py_END_ALLOW_THREADS if (known) result = Py_NewRef(Py_None);
        else PyErr_Format(PyExc_ValueError, "blocks of the type %d are no grid of groups of %zd", type, group);
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&blocks);
    return result;
}

/* Whether a rule of rounding is one that there is: numbers of enumerations, codes that are bytes, sizes that fit. */
static bool is_rule(const mf_rounded *how, mf_grid grid) {
    size_t n;
    return how->found <= MF_FOUND_EDGE && how->codes <= MF_CODES_BOOK && how->via <= MF_KEPT_POWER_ABOVE &&
           how->stored <= MF_KEPT_POWER_ABOVE && how->limit <= 255 && how->shift <= how->limit && how->size > 0 &&
           how->size % grid.group == 0 && how->rows > 0 && how->size <= PY_SSIZE_T_MAX / 64 &&
           !__builtin_mul_overflow(how->size + MF_PIECE, how->rows, &n) && n <= PY_SSIZE_T_MAX / 64;
}

PyObject *mf_py_grid_round(PyObject *module, PyObject *args) {
    (void)module;
    int found, codes, via, stored, limit, shift, divide, records, type_id;
    Py_ssize_t size, n_shared, n_rows, n_cols, group;
    mf_rounded how = {0};
    Py_buffer book, values, rows;
    if (!PyArg_ParseTuple(args, "(iiiiiipp)(ffffff)y*(nn)(nnn)iy*w*:grid_round", &found, &codes, &via, &stored, &limit,
                          &shift, &divide, &records, &how.reach, &how.times, &how.over, &how.least, &how.floor,
                          &how.top, &book, &size, &n_shared, &n_rows, &n_cols, &group, &type_id, &values, &rows))
        return NULL;
    PyObject *result = NULL;
    mf_grid grid;
    size_t n_grid;
    const mf_type *type = mf_find_type(mf_active_level(), type_id);
    const bool known = type && type->dequantize && type->block_elements == 1;
    if (!grid_of(n_rows, n_cols, group, &grid, &n_grid)) goto done;
    how.found = (mf_found)found;
    how.codes = (mf_codes)codes;
    how.via = (mf_kept)via;
    how.stored = (mf_kept)stored;
    how.limit = (unsigned)limit;
    how.shift = (unsigned)shift;
    how.divide = divide;
    how.records = records;
    how.size = (size_t)size;
    how.rows = (size_t)n_shared;
    if (!known || size < 0 || n_shared < 0 || !is_rule(&how, grid)) {
        PyErr_SetString(PyExc_ValueError, "values are not rounded so, or not of this type");
        goto done;
    }
    const size_t wanted = records ? mf_grid_head(grid) * grid.n_rows : n_grid;
    if (!long_enough(&book, sizeof how.thresholds + sizeof how.book, "codebook") ||
        !long_enough(&values, grid.n_rows * grid.n_cols * type->block_bytes, "values") ||
        !long_enough(&rows, wanted, "rows"))
        goto done;
    memcpy(how.thresholds, book.buf, sizeof how.thresholds);
    memcpy(how.book, (const char *)book.buf + sizeof how.thresholds, sizeof how.book);
    void *scratch = PyMem_Malloc(mf_active_grid()->round_scratch(&how));
    if (!scratch) {
        PyErr_NoMemory();
        goto done;
    }
    mf_fault fault = {0, 0};
    mf_rounded_status status;
    Py_BEGIN_ALLOW_THREADS const mf_fpenv saved = mf_fpenv_default();
    status = mf_active_grid()->round(&how, grid, type, values.buf, scratch, rows.buf, &fault);
    mf_fpenv_restore(saved);
    Py_END_ALLOW_THREADS PyMem_Free(scratch);
    result = status == MF_ROUNDED_OK ? Py_NewRef(Py_None)
                                     : Py_BuildValue("(nnN)", (Py_ssize_t)fault.row, (Py_ssize_t)fault.column,
                                                     PyBool_FromLong(status == MF_ROUNDED_BAD_SCALE));
done:
    PyBuffer_Release(&book);
    PyBuffer_Release(&values);
    PyBuffer_Release(&rows);
    return result;
}

/* A plane: a number, or as many doubles as there are groups. False with an exception. */
static bool plane_of(PyObject *given, mf_grid grid, Py_buffer *buffer, mf_plane *plane) {
    if (PyFloat_Check(given)) {
        plane->all = PyFloat_AsDouble(given);
        return true;
    }
    if (PyObject_GetBuffer(given, buffer, PyBUF_SIMPLE) < 0) return false;
    if ((uintptr_t)buffer->buf % sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "a plane is not aligned to float64");
        return false;
    }
    plane->each = buffer->buf;
    return long_enough(buffer, grid.n_rows * (grid.n_cols / grid.group) * sizeof(double), "plane");
}

/* A strip of lines, of which the last may end where its codes do: rows that are some of those in its words. */
static bool strip_is_long_enough(const Py_buffer *buffer, mf_packing packing, mf_grid grid, size_t n_bytes,
                                 const char *name) {
    const bool crosses = packing.lay == MF_LAY_WORDS || packing.lay == MF_LAY_COLUMNS;
    const size_t codes = packing.lay == MF_LAY_WORDS ? grid.n_rows * 4 : grid.n_rows / 2;
    if (crosses && n_bytes && (size_t)buffer->len <= n_bytes && (size_t)buffer->len >= n_bytes - packing.stride + codes)
        return true;
    return long_enough(buffer, n_bytes, name);
}

/* Bytes of one side of a move; false with ValueError. */
static bool side_bytes(mf_packing packing, mf_grid grid, bool is_target, size_t *n_bytes) {
    if (packing.lay != MF_LAY_BLOCKS) return packed_bytes(packing, grid, n_bytes);
    size_t whole;
    if (!block_bytes((int)packing.bits, grid, &whole)) return false;
    const bool values = mf_find_type(mf_active_level(), (int)packing.bits)->block_elements == 1;
    if ((!values || is_target) && packing.stride >= whole / (grid.n_rows ? grid.n_rows : 1) &&
        !__builtin_mul_overflow(grid.n_rows, packing.stride, n_bytes))
        return true;
    PyErr_Format(PyExc_ValueError, "rows of %zu bytes are not %zu columns of the type %u", packing.stride, grid.n_cols,
                 packing.bits);
    return false;
}

static PyObject *moved(const mf_move *move, const void *source, void *target) {
    mf_fault fault = {0, 0};
    mf_status status = MF_OK;
    void *scratch = PyMem_Malloc(mf_move_scratch(move));
    if (!scratch) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS status = mf_grid_move(move, source, target, scratch, &fault);
    Py_END_ALLOW_THREADS PyMem_Free(scratch);
    if (status == MF_OK) return Py_NewRef(Py_None);
    if (status == MF_BAD_VALUE) return Py_BuildValue("(nn)", (Py_ssize_t)fault.row, (Py_ssize_t)fault.column);
    PyErr_SetString(PyExc_ValueError, "a type that no grid is made from, or that is made from none, or another group");
    return NULL;
}

PyObject *mf_py_grid_move(PyObject *module, PyObject *args) {
    (void)module;
    int from[4], to[4], limit, rezero;
    Py_ssize_t from_stride, to_stride, n_rows, n_cols, group;
    PyObject *scale, *offset, *zero, *given;
    Py_buffer source, target, planes[3] = {{0}}, table = {0};
    if (!PyArg_ParseTuple(args, "(iiiin)(iiiin)(nnn)y*(OOO)iiOw*:grid_move", &from[0], &from[1], &from[2], &from[3],
                          &from_stride, &to[0], &to[1], &to[2], &to[3], &to_stride, &n_rows, &n_cols, &group, &source,
                          &scale, &offset, &zero, &limit, &rezero, &given, &target))
        return NULL;
    PyObject *result = NULL;
    mf_move move = {.limit = (unsigned)limit, .rezero = rezero};
    size_t n_source, n_target, n_grid;
    double entries[256];
    if (!packing_of(from[0], from[1], from[2], from[3], from_stride, &move.source) ||
        !packing_of(to[0], to[1], to[2], to[3], to_stride, &move.target) ||
        !grid_of(n_rows, n_cols, group, &move.grid, &n_grid) || !side_bytes(move.source, move.grid, false, &n_source) ||
        !strip_is_long_enough(&source, move.source, move.grid, n_source, "source") ||
        !side_bytes(move.target, move.grid, true, &n_target) ||
        !strip_is_long_enough(&target, move.target, move.grid, n_target, "target") ||
        !plane_of(scale, move.grid, &planes[0], &move.scale) ||
        !plane_of(offset, move.grid, &planes[1], &move.offset) || !plane_of(zero, move.grid, &planes[2], &move.zero))
        goto done;
    if (limit < 1 || limit > 255 || rezero < MF_REZERO_NONE || rezero > 255) {
        PyErr_Format(PyExc_ValueError, "no code is %d or %d", limit, rezero);
        goto done;
    }
    if (given != Py_None) {
        if (PyObject_GetBuffer(given, &table, PyBUF_SIMPLE) < 0) goto done;
        if (!long_enough(&table, sizeof entries, "table")) goto done;
        memcpy(entries, table.buf, sizeof entries);
        move.table = entries;
    }
    result = moved(&move, source.buf, target.buf);
done:
    for (size_t i = 0; i < 3; i++) PyBuffer_Release(&planes[i]);
    PyBuffer_Release(&table);
    PyBuffer_Release(&source);
    PyBuffer_Release(&target);
    return result;
}

PyObject *mf_py_grid_numbers(PyObject *module, PyObject *args) {
    (void)module;
    int type;
    Py_ssize_t n_rows, n_cols, group;
    Py_buffer blocks, planes;
    if (!PyArg_ParseTuple(args, "i(nnn)y*w*:grid_numbers", &type, &n_rows, &n_cols, &group, &blocks, &planes))
        return NULL;
    PyObject *result = NULL;
    void *row = NULL;
    mf_grid grid;
    size_t n_grid, n_blocks;
    if (!grid_of(n_rows, n_cols, group, &grid, &n_grid) || !block_bytes(type, grid, &n_blocks) ||
        !long_enough(&blocks, n_blocks, "blocks"))
        goto done;
    const size_t n = grid.n_rows * (grid.n_cols / grid.group);
    if (!long_enough(&planes, 3 * n * sizeof(double), "planes")) goto done;
    if ((uintptr_t)planes.buf % sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "planes are not aligned to float64");
        goto done;
    }
    row = PyMem_Malloc(mf_grid_row_bytes(grid));
    if (!row) {
        PyErr_NoMemory();
        goto done;
    }
    double *to = planes.buf;
    bool known;
    Py_BEGIN_ALLOW_THREADS known =
        mf_grid_numbers(type, grid, blocks.buf, grid.n_rows ? n_blocks / grid.n_rows : 0, row, to, to + n, to + 2 * n);
    Py_END_ALLOW_THREADS if (known) result = Py_NewRef(Py_None);
    else PyErr_Format(PyExc_ValueError, "blocks of the type %d are no grid of groups of %zd", type, group);
done:
    PyMem_Free(row);
    PyBuffer_Release(&blocks);
    PyBuffer_Release(&planes);
    return result;
}

PyObject *mf_py_grid_rounding(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t n;
    int integer;
    PyObject *given[3];
    Py_buffer buffers[3] = {{0}};
    mf_plane planes[3] = {{0}};
    mf_stored stored;
    if (!PyArg_ParseTuple(args, "(OOO)n(iidpd):grid_rounding", &given[0], &given[1], &given[2], &n, &stored.scale,
                          &stored.offset, &stored.top, &integer, &stored.rezero))
        return NULL;
    stored.integer = integer;
    PyObject *result = NULL;
    mf_grid grid;
    size_t n_bytes;
    if (!grid_of(n, 1, 1, &grid, &n_bytes)) return NULL;
    bool good = true;
    for (size_t i = 0; i < 3 && good; i++) good = plane_of(given[i], grid, &buffers[i], &planes[i]);
    if (good) {
        double worst;
        Py_BEGIN_ALLOW_THREADS worst = mf_grid_rounding(&stored, planes[0], planes[1], planes[2], grid.n_rows);
        Py_END_ALLOW_THREADS result = PyFloat_FromDouble(worst);
    }
    for (size_t i = 0; i < 3; i++) PyBuffer_Release(&buffers[i]);
    return result;
}

/* Whether every element that a spread reads is one of n. */
static bool inside(const mf_spread *from, size_t n_rows, size_t n_groups, size_t n) {
    const size_t lines = from->rows ? (from->start + n_rows - 1) / from->rows - from->start / from->rows : 0;
    size_t last = 0, along, across;
    for (size_t g = 0; g < n_groups; g++)
        if (from->groups[g] > last) last = from->groups[g];
    return !__builtin_mul_overflow(lines, from->line, &across) && !__builtin_mul_overflow(last, from->item, &along) &&
           !__builtin_add_overflow(across, along, &along) && along < n;
}

PyObject *mf_py_grid_spread(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t line, item, start, rows, n_rows, n_groups;
    int is_bytes, how, turned;
    Py_buffer numbers, groups, plane;
    mf_spread from = {0};
    if (!PyArg_ParseTuple(args, "y*p(nn)(nn)y*di(nn)pw*:grid_spread", &numbers, &is_bytes, &line, &item, &start, &rows,
                          &groups, &from.plus, &how, &n_rows, &n_groups, &turned, &plane))
        return NULL;
    PyObject *result = NULL;
    const size_t width = is_bytes ? 1 : sizeof(float);
    if (line < 0 || item < 0 || start < 0 || rows < 0 || n_rows < 0 || n_groups < 0 || how < 0 || how > 2 ||
        n_rows > PY_SSIZE_T_MAX / 2 - start || (n_groups && n_rows > PY_SSIZE_T_MAX / 8 / n_groups)) {
        PyErr_SetString(PyExc_ValueError, "no numbers are spread so");
        goto done;
    }
    if ((uintptr_t)plane.buf % sizeof(double) || (uintptr_t)numbers.buf % width ||
        (uintptr_t)groups.buf % sizeof(size_t)) {
        PyErr_SetString(PyExc_ValueError, "numbers or a plane are not aligned");
        goto done;
    }
    if (!long_enough(&groups, (size_t)n_groups * sizeof(size_t), "groups") ||
        !long_enough(&plane, (size_t)n_rows * (size_t)n_groups * sizeof(double), "plane"))
        goto done;
    if (is_bytes)
        from.bytes = numbers.buf;
    else
        from.floats = numbers.buf;
    from.line = (size_t)line;
    from.item = (size_t)item;
    from.start = (size_t)start;
    from.rows = (size_t)rows;
    from.groups = groups.buf;
    from.how = how;
    if (n_rows && n_groups && !inside(&from, (size_t)n_rows, (size_t)n_groups, (size_t)numbers.len / width)) {
        PyErr_SetString(PyExc_ValueError, "a group has no number");
        goto done;
    }
    bool finite;
    Py_BEGIN_ALLOW_THREADS finite = mf_grid_spread(&from, plane.buf, (size_t)n_rows, (size_t)n_groups, turned);
    Py_END_ALLOW_THREADS result = PyBool_FromLong(finite);
done:
    PyBuffer_Release(&numbers);
    PyBuffer_Release(&groups);
    PyBuffer_Release(&plane);
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
