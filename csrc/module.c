/* The Python side: modelfmt._kernels, CPython's limited API of 3.11. Buffers in, lengths checked here and nowhere
 * below, GIL released while kernels run, status codes out as exceptions. The contracts are in _kernels.pyi. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <string.h>

#include "mf.h"
#include "module_grid.h"

typedef struct {
    PyObject *kernel_error;
} module_state;

static const mf_type *type_or_error(int id) {
    const mf_type *type = mf_find_type(mf_active_level(), id);
    if (!type) PyErr_Format(PyExc_ValueError, "no tensor type has the id %d", id);
    return type;
}

/* n elements in bytes; false with ValueError where they are no whole blocks or too many for a size. */
static bool bytes_of(const mf_type *type, size_t n_rows, size_t n_cols, size_t *n_bytes) {
    if (n_cols % type->block_elements) {
        PyErr_Format(PyExc_ValueError, "%s needs a multiple of %u columns, got %zu", type->name, type->block_elements,
                     n_cols);
        return false;
    }
    size_t row_bytes;
    if (__builtin_mul_overflow(n_cols / type->block_elements, (size_t)type->block_bytes, &row_bytes) ||
        __builtin_mul_overflow(row_bytes, n_rows, n_bytes) || *n_bytes > PY_SSIZE_T_MAX) {
        PyErr_Format(PyExc_ValueError, "%zu rows of %zu columns of %s are more bytes than memory can hold", n_rows,
                     n_cols, type->name);
        return false;
    }
    return true;
}

static bool has_length(const Py_buffer *buffer, size_t n_bytes, const char *what) {
    if ((size_t)buffer->len == n_bytes) return true;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected exactly %zu", what, buffer->len, n_bytes);
    return false;
}

static bool are_apart(const Py_buffer *a, const Py_buffer *b) {
    uintptr_t p = (uintptr_t)a->buf, q = (uintptr_t)b->buf;
    if (p + (size_t)a->len <= q || q + (size_t)b->len <= p) return true;
    PyErr_SetString(PyExc_ValueError, "source and destination overlap");
    return false;
}

static bool are_not_negative(Py_ssize_t a, Py_ssize_t b) {
    if (a >= 0 && b >= 0) return true;
    PyErr_Format(PyExc_ValueError, "counts must not be negative, got %zd and %zd", a, b);
    return false;
}

static void set_kernel_error(PyObject *module, const mf_type *from, const mf_type *to, mf_status status,
                             mf_fault fault) {
    static const char *const text[] = {
        [MF_BAD_SIZE] = "columns are not a multiple of the block",
        [MF_BAD_VALUE] = "NaN or infinity, which blocks cannot hold",
        [MF_BAD_IMPORTANCE] = "an importance that is negative, NaN or infinite",
        [MF_NEEDS_IMPORTANCE] = "this type can only be quantized with importance",
        [MF_UNSUPPORTED] = "there is no kernel for this pair of types",
    };
    module_state *state = PyModule_GetState(module);
    PyObject *error = PyObject_CallFunction(state->kernel_error, "N",
                                            PyUnicode_FromFormat("%s to %s: %s (row %zu, column %zu)", from->name,
                                                                 to->name, text[status], fault.row, fault.column));
    if (!error) return;
    PyObject *parts[] = {PyLong_FromLong(status), PyLong_FromSize_t(fault.row), PyLong_FromSize_t(fault.column)};
    static const char *const names[] = {"status", "row", "column"};
    bool complete = true;
    for (size_t i = 0; i < 3; i++) {
        complete = complete && parts[i] && PyObject_SetAttrString(error, names[i], parts[i]) == 0;
        Py_XDECREF(parts[i]);
    }
    if (complete) PyErr_SetObject(state->kernel_error, error);
    Py_DECREF(error);
}

static PyObject *types(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    const mf_level *level = mf_active_level();
    PyObject *rows = PyList_New(0);
    for (size_t i = 0; rows && i < level->n_types; i++) {
        const mf_type *type = &level->types[i];
        size_t n_swaps = 0;
        while (n_swaps < MF_MAX_SWAPS && type->swaps[n_swaps].count) n_swaps++;
        PyObject *swaps = PyTuple_New((Py_ssize_t)n_swaps);
        for (size_t k = 0; swaps && k < n_swaps; k++) {
            mf_swap swap = type->swaps[k];
            PyObject *field = Py_BuildValue("(iii)", swap.offset, swap.size, swap.count);
            if (!field || PyTuple_SetItem(swaps, (Py_ssize_t)k, field) < 0) Py_CLEAR(swaps);
        }
        PyObject *row =
            !swaps ? NULL
                   : Py_BuildValue("(siIINNNNN)", type->name, type->id, type->block_elements, type->block_bytes,
                                   PyBool_FromLong(type->quantize != NULL), PyBool_FromLong(type->dequantize != NULL),
                                   PyBool_FromLong(type->flags & MF_FLAG_NEEDS_IMPORTANCE), swaps,
                                   PyBool_FromLong(type->refine != NULL));
        if (!row || PyList_Append(rows, row) < 0) Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

static PyObject *convert(PyObject *module, PyObject *args, PyObject *keywords) {
    static char *names[] = {"src_type", "src", "dst_type", "dst", "n_rows", "n_cols", "importance", "rounding", NULL};
    Py_buffer src = {0}, dst = {0}, importance = {0};
    PyObject *weights = Py_None;
    int src_type, dst_type, rounding = MF_ROUNDING_GGML;
    Py_ssize_t n_rows, n_cols;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iy*iw*nn|Oi:convert", names, &src_type, &src, &dst_type, &dst,
                                     &n_rows, &n_cols, &weights, &rounding))
        return NULL;

    PyObject *result = NULL;
    float *scratch = NULL;
    size_t src_bytes, dst_bytes;
    const mf_type *from = type_or_error(src_type);
    const mf_type *to = from ? type_or_error(dst_type) : NULL;
    if (!to || !are_not_negative(n_rows, n_cols) || !bytes_of(from, (size_t)n_rows, (size_t)n_cols, &src_bytes) ||
        !bytes_of(to, (size_t)n_rows, (size_t)n_cols, &dst_bytes) || !has_length(&src, src_bytes, "src") ||
        !has_length(&dst, dst_bytes, "dst") || !are_apart(&src, &dst))
        goto done;
    if (rounding != MF_ROUNDING_GGML && rounding != MF_ROUNDING_BEST) {
        PyErr_Format(PyExc_ValueError, "no rounding has the number %d", rounding);
        goto done;
    }
    if (weights != Py_None) {
        if (PyObject_GetBuffer(weights, &importance, PyBUF_SIMPLE) < 0) goto done;
        if (!has_length(&importance, (size_t)n_cols * sizeof(float), "importance")) goto done;
        if ((uintptr_t)importance.buf % sizeof(float)) {
            PyErr_SetString(PyExc_ValueError, "importance is not aligned to float32");
            goto done;
        }
    }
    scratch = PyMem_Malloc(mf_scratch_elements((size_t)n_cols, importance.buf != NULL) * sizeof(float));
    if (!scratch) {
        PyErr_NoMemory();
        goto done;
    }
    mf_fault fault = {0, 0};
    mf_status status;
    Py_BEGIN_ALLOW_THREADS status = mf_convert(src_type, src.buf, dst_type, dst.buf, (size_t)n_rows, (size_t)n_cols,
                                               importance.buf, (mf_rounding)rounding, scratch, &fault);
    Py_END_ALLOW_THREADS if (status == MF_OK) result = Py_NewRef(Py_None);
    else set_kernel_error(module, from, to, status, fault);
done:
    PyMem_Free(scratch);
    PyBuffer_Release(&src);
    PyBuffer_Release(&dst);
    PyBuffer_Release(&importance);
    return result;
}

static PyObject *error_sums(PyObject *module, PyObject *args) {
    Py_buffer src = {0}, dst = {0};
    int src_type, dst_type;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "iy*iy*n:error_sums", &src_type, &src, &dst_type, &dst, &n)) return NULL;

    PyObject *result = NULL;
    float *scratch = NULL;
    size_t src_bytes, dst_bytes;
    const mf_type *from = type_or_error(src_type);
    const mf_type *to = from ? type_or_error(dst_type) : NULL;
    if (!to || !are_not_negative(n, 0) || !bytes_of(from, 1, (size_t)n, &src_bytes) ||
        !bytes_of(to, 1, (size_t)n, &dst_bytes) || !has_length(&src, src_bytes, "src") ||
        !has_length(&dst, dst_bytes, "dst"))
        goto done;
    scratch = PyMem_Malloc(mf_scratch_elements(0, false) * sizeof(float));
    if (!scratch) {
        PyErr_NoMemory();
        goto done;
    }
    mf_error_sums sums = {0};
    mf_status status;
    Py_BEGIN_ALLOW_THREADS status = mf_compare(src_type, src.buf, dst_type, dst.buf, (size_t)n, scratch, &sums);
    Py_END_ALLOW_THREADS if (status == MF_OK) result =
        Py_BuildValue("(ddd)", sums.sum_sq_diff, sums.sum_sq, sums.max_abs);
    else set_kernel_error(module, from, to, status, (mf_fault){0, 0});
done:
    PyMem_Free(scratch);
    PyBuffer_Release(&src);
    PyBuffer_Release(&dst);
    return result;
}

/* The bytes of a float32 matrix; false with ValueError where they are too many, or the buffer is not aligned. */
static bool is_matrix(const Py_buffer *buffer, Py_ssize_t n_rows, Py_ssize_t n_cols, const char *what) {
    size_t n_bytes;
    if (__builtin_mul_overflow((size_t)n_rows, (size_t)n_cols, &n_bytes) ||
        __builtin_mul_overflow(n_bytes, sizeof(float), &n_bytes)) {
        PyErr_Format(PyExc_ValueError, "%zd rows of %zd columns are more bytes than memory can hold", n_rows, n_cols);
        return false;
    }
    if ((uintptr_t)buffer->buf % sizeof(float)) {
        PyErr_Format(PyExc_ValueError, "%s is not aligned to float32", what);
        return false;
    }
    return has_length(buffer, n_bytes, what);
}

static PyObject *add_product(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer a, b, sums;
    Py_ssize_t n_rows, n_cols, rank;
    if (!PyArg_ParseTuple(args, "y*y*w*nnn:add_product", &a, &b, &sums, &n_rows, &n_cols, &rank)) return NULL;
    PyObject *result = NULL;
    if (are_not_negative(n_rows, n_cols) && are_not_negative(rank, 0) && is_matrix(&a, rank, n_cols, "a") &&
        is_matrix(&b, n_rows, rank, "b") && is_matrix(&sums, n_rows, n_cols, "sums") && are_apart(&a, &sums) &&
        are_apart(&b, &sums)) {
        Py_BEGIN_ALLOW_THREADS mf_add_product(a.buf, b.buf, sums.buf, (size_t)n_rows, (size_t)n_cols, (size_t)rank);
        Py_END_ALLOW_THREADS result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&a);
    PyBuffer_Release(&b);
    PyBuffer_Release(&sums);
    return result;
}

static PyObject *row_lengths(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer x, lengths;
    Py_ssize_t n_rows, n_cols;
    if (!PyArg_ParseTuple(args, "y*w*nn:row_lengths", &x, &lengths, &n_rows, &n_cols)) return NULL;
    PyObject *result = NULL;
    if (are_not_negative(n_rows, n_cols) && is_matrix(&x, n_rows, n_cols, "x") &&
        is_matrix(&lengths, n_rows, 1, "lengths") && are_apart(&x, &lengths)) {
        Py_BEGIN_ALLOW_THREADS mf_row_lengths(x.buf, lengths.buf, (size_t)n_rows, (size_t)n_cols);
        Py_END_ALLOW_THREADS result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&lengths);
    return result;
}

static PyObject *mark_words(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer words, seen;
    if (!PyArg_ParseTuple(args, "y*w*:mark_words", &words, &seen)) return NULL;
    PyObject *result = NULL;
    if (words.len % 2 || seen.len != 1 << 16) {
        PyErr_Format(PyExc_ValueError, "%zd bytes are no words of two, or %zd bytes are not one for each word",
                     words.len, seen.len);
    } else {
        Py_BEGIN_ALLOW_THREADS mf_mark_words(words.buf, (size_t)words.len / 2, seen.buf);
        Py_END_ALLOW_THREADS result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&words);
    PyBuffer_Release(&seen);
    return result;
}

static PyObject *swap_bytes(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer buffer;
    int id;
    if (!PyArg_ParseTuple(args, "iw*:swap_bytes", &id, &buffer)) return NULL;
    PyObject *result = NULL;
    const mf_type *type = type_or_error(id);
    if (type && (size_t)buffer.len % type->block_bytes)
        PyErr_Format(PyExc_ValueError, "%zd bytes are not a whole number of %s blocks of %u bytes", buffer.len,
                     type->name, type->block_bytes);
    else if (type) {
        Py_BEGIN_ALLOW_THREADS mf_swap_bytes(type, buffer.buf, (size_t)buffer.len / type->block_bytes);
        Py_END_ALLOW_THREADS result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&buffer);
    return result;
}

static PyObject *gather_rows(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer src, dst, indices;
    Py_ssize_t row_bytes;
    if (!PyArg_ParseTuple(args, "y*w*ny*:gather_rows", &src, &dst, &row_bytes, &indices)) return NULL;
    PyObject *result = NULL;
    size_t n_indices = (size_t)indices.len / sizeof(int64_t), n_bytes, bad = 0;
    if (row_bytes <= 0 || src.len % row_bytes || (size_t)indices.len % sizeof(int64_t) ||
        __builtin_mul_overflow(n_indices, (size_t)row_bytes, &n_bytes)) {
        PyErr_Format(PyExc_ValueError, "%zd source bytes and %zd index bytes do not fit rows of %zd bytes", src.len,
                     indices.len, row_bytes);
    } else if (has_length(&dst, n_bytes, "dst") && are_apart(&src, &dst)) {
        size_t n_src_rows = (size_t)src.len / (size_t)row_bytes;
        bool inside;
        Py_BEGIN_ALLOW_THREADS inside =
            mf_gather_rows(src.buf, n_src_rows, dst.buf, (size_t)row_bytes, indices.buf, n_indices, &bad);
        Py_END_ALLOW_THREADS if (inside) result = Py_NewRef(Py_None);
        else PyErr_Format(PyExc_ValueError, "index %zu is outside the %zu source rows", bad, n_src_rows);
    }
    PyBuffer_Release(&src);
    PyBuffer_Release(&dst);
    PyBuffer_Release(&indices);
    return result;
}

static PyObject *skip_strings(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer buffer, begins = {0};
    Py_ssize_t at, n;
    int width, is_big;
    PyObject *target = Py_None, *result = NULL;
    if (!PyArg_ParseTuple(args, "y*nnip|O:skip_strings", &buffer, &at, &n, &width, &is_big, &target)) return NULL;
    if (at < 0 || n < 0 || at > buffer.len || (width != 4 && width != 8)) {
        PyErr_Format(PyExc_ValueError, "%zd strings of %d-byte lengths from %zd on, in %zd bytes", n, width, at,
                     buffer.len);
    } else if (target == Py_None || PyObject_GetBuffer(target, &begins, PyBUF_WRITABLE) == 0) {
        if (begins.buf &&
            ((size_t)begins.len / sizeof(uint64_t) < (size_t)n || (uintptr_t)begins.buf % sizeof(uint64_t))) {
            PyErr_Format(PyExc_ValueError, "no room for %zd positions in %zd bytes", n, begins.len);
        } else {
            size_t end = (size_t)at, done;
            Py_BEGIN_ALLOW_THREADS done =
                mf_skip_strings(buffer.buf, (size_t)buffer.len, &end, (size_t)n, (size_t)width, is_big, begins.buf);
            Py_END_ALLOW_THREADS result = Py_BuildValue("(nn)", (Py_ssize_t)done, (Py_ssize_t)end);
        }
        if (begins.buf) PyBuffer_Release(&begins);
    }
    PyBuffer_Release(&buffer);
    return result;
}

static PyObject *isa(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    const mf_level *level = mf_active_level();
    if (mf_refused_level())
        return PyErr_Format(PyExc_ValueError, "MODELFMT_ISA=%s is unknown or not for this CPU; running at %s",
                            mf_refused_level(), level->name);
    return PyUnicode_FromString(level->name);
}

static PyObject *isa_levels(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    const mf_level *runs[8];
    size_t n = mf_levels(runs, sizeof runs / sizeof runs[0]);
    PyObject *names = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; names && i < n; i++) {
        PyObject *name = PyUnicode_FromString(runs[i]->name);
        if (!name || PyTuple_SetItem(names, (Py_ssize_t)i, name) < 0) Py_CLEAR(names);
    }
    return names;
}

static PyObject *set_isa(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    if (!PyArg_ParseTuple(args, "s:set_isa", &name)) return NULL;
    if (!mf_set_level(name)) return PyErr_Format(PyExc_ValueError, "%s is unknown or not for this CPU", name);
    Py_RETURN_NONE;
}

static int execute(PyObject *module) {
    module_state *state = PyModule_GetState(module);
    state->kernel_error = PyErr_NewExceptionWithDoc(
        "modelfmt._kernels.KernelError", "A conversion that cannot be done. Attributes: status, row, column.",
        PyExc_ValueError, NULL);
    if (!state->kernel_error || PyModule_AddObjectRef(module, "KernelError", state->kernel_error) < 0) return -1;
    static const struct {
        const char *name;
        long value;
    } constants[] = {{"BAD_SIZE", MF_BAD_SIZE},
                     {"BAD_VALUE", MF_BAD_VALUE},
                     {"BAD_IMPORTANCE", MF_BAD_IMPORTANCE},
                     {"NEEDS_IMPORTANCE", MF_NEEDS_IMPORTANCE},
                     {"UNSUPPORTED", MF_UNSUPPORTED},
                     {"ROUNDING_GGML", MF_ROUNDING_GGML},
                     {"ROUNDING_BEST", MF_ROUNDING_BEST},
                     {"XXH32_STATE", sizeof(mf_xxh32)}};
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0) return -1;
    mf_active_level();
    return 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->kernel_error);
    return 0;
}

static int clear(PyObject *module) {
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->kernel_error);
    return 0;
}

/* lz4_block(src, history, out, /) -> int: bytes made; ValueError where the block is damaged or does not fit out. */
static PyObject *lz4_block(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer src, history, out;
    if (!PyArg_ParseTuple(args, "y*y*w*:lz4_block", &src, &history, &out)) return NULL;
    PyObject *result = NULL;
    size_t made = 0;
    bool done = false;
    if (are_apart(&src, &out) && are_apart(&history, &out)) {
        Py_BEGIN_ALLOW_THREADS done =
            mf_lz4_block(src.buf, (size_t)src.len, history.buf, (size_t)history.len, out.buf, (size_t)out.len, &made);
        Py_END_ALLOW_THREADS if (done) result = PyLong_FromSize_t(made);
        else PyErr_SetString(PyExc_ValueError, "a damaged block of LZ4");
    }
    PyBuffer_Release(&src);
    PyBuffer_Release(&history);
    PyBuffer_Release(&out);
    return result;
}

/* xxh32(data, state=None, /) -> int: the hash of data, after what was added to a state.
 * xxh32_add(state, data, /): add to a state, a writable buffer of XXH32_STATE bytes; zeros are a new one. */
static bool load_state(const Py_buffer *buffer, mf_xxh32 *state) {
    if (!has_length(buffer, sizeof *state, "state")) return false;
    memcpy(state, buffer->buf, sizeof *state);
    if (state->n_total == 0) mf_xxh32_start(state);
    if (state->n_held < 16) return true;
    PyErr_SetString(PyExc_ValueError, "not a state");
    return false;
}

static PyObject *xxh32(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, buffer;
    PyObject *given = NULL;
    if (!PyArg_ParseTuple(args, "y*|O:xxh32", &data, &given)) return NULL;
    mf_xxh32 state;
    mf_xxh32_start(&state);
    bool is_good = true;
    if (given && given != Py_None) {
        is_good = PyObject_GetBuffer(given, &buffer, PyBUF_SIMPLE) == 0;
        if (is_good) {
            is_good = load_state(&buffer, &state);
            PyBuffer_Release(&buffer);
        }
    }
    if (is_good) mf_xxh32_add(&state, data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return is_good ? PyLong_FromUnsignedLong(mf_xxh32_end(&state)) : NULL;
}

static PyObject *xxh32_add(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, buffer;
    if (!PyArg_ParseTuple(args, "w*y*:xxh32_add", &buffer, &data)) return NULL;
    mf_xxh32 state;
    bool is_good = are_apart(&data, &buffer) && load_state(&buffer, &state);
    if (is_good) {
        mf_xxh32_add(&state, data.buf, (size_t)data.len);
        memcpy(buffer.buf, &state, sizeof state);
    }
    PyBuffer_Release(&buffer);
    PyBuffer_Release(&data);
    if (!is_good) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"types", types, METH_NOARGS, NULL},
    {"convert", (PyCFunction)(void (*)(void))convert, METH_VARARGS | METH_KEYWORDS, NULL},
    {"error_sums", error_sums, METH_VARARGS, NULL},
    {"add_product", add_product, METH_VARARGS, NULL},
    {"row_lengths", row_lengths, METH_VARARGS, NULL},
    {"mark_words", mark_words, METH_VARARGS, NULL},
    {"swap_bytes", swap_bytes, METH_VARARGS, NULL},
    {"gather_rows", gather_rows, METH_VARARGS, NULL},
    {"skip_strings", skip_strings, METH_VARARGS, NULL},
    {"grid_unpack", mf_py_grid_unpack, METH_VARARGS, NULL},
    {"grid_pack", mf_py_grid_pack, METH_VARARGS, NULL},
    {"grid_values", mf_py_grid_values, METH_VARARGS, NULL},
    {"grid_to_blocks", mf_py_grid_to_blocks, METH_VARARGS, NULL},
    {"grid_from_blocks", mf_py_grid_from_blocks, METH_VARARGS, NULL},
    {"grid_round", mf_py_grid_round, METH_VARARGS, NULL},
    {"grid_move", mf_py_grid_move, METH_VARARGS, NULL},
    {"grid_numbers", mf_py_grid_numbers, METH_VARARGS, NULL},
    {"grid_spread", mf_py_grid_spread, METH_VARARGS, NULL},
    {"grid_rounding", mf_py_grid_rounding, METH_VARARGS, NULL},
    {"read_strip", mf_py_read_strip, METH_VARARGS, NULL},
    {"lz4_block", lz4_block, METH_VARARGS, NULL},
    {"xxh32", xxh32, METH_VARARGS, NULL},
    {"xxh32_add", xxh32_add, METH_VARARGS, NULL},
    {"isa", isa, METH_NOARGS, NULL},
    {"isa_levels", isa_levels, METH_NOARGS, NULL},
    {"set_isa", set_isa, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "modelfmt._kernels",
    .m_doc = "The compiled kernels of modelfmt; see _kernels.pyi.",
    .m_size = sizeof(module_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__kernels(void);
PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&definition); }
