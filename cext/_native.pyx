# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=False
"""The native module: what a profile shows to be worth C. ``cext._pure`` is its twin and its specification."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from cext import _pure

IMPLEMENTATION = "native"

cdef extern from "kernels/sha256.h" nogil:
    ctypedef struct wattd_sha_kernel:
        const char *name
    const wattd_sha_kernel *wattd_sha_kernels[6]
    const wattd_sha_kernel *wattd_sha
    void wattd_sha_init()
    int wattd_sha_use(const char *name)
    void wattd_sha256d(uint8_t *out, const uint8_t *data, size_t size)
    void wattd_sha256d_many(uint8_t *out, const uint8_t *data, size_t item_size, size_t count)
    int wattd_merkle_fold(uint8_t *leaves, size_t count)
    void wattd_tree_leaf(uint8_t *out, const uint8_t *data, size_t size)
    void wattd_tree_fold(uint8_t *nodes, size_t count)
    int64_t wattd_pow_search(const uint8_t *header, uint32_t start, uint64_t count, const uint8_t *target)

cdef extern from "kernels/crc32c.h" nogil:
    ctypedef struct wattd_crc_kernel:
        const char *name
    const wattd_crc_kernel *wattd_crc_kernels[3]
    void wattd_crc_init()
    int wattd_crc_use(const char *name)
    uint32_t wattd_crc32c(uint32_t crc, const uint8_t *data, size_t size)

cdef extern from "kernels/txscan.h" nogil:
    ctypedef struct wattd_tx_parts:
        size_t end, body_at, n_in, outputs_at, n_out, witness_at
    const char *wattd_scan_tx(const uint8_t *data, size_t size, size_t offset, wattd_tx_parts *parts)

wattd_sha_init()
wattd_crc_init()

# Getting the interpreter lock back can take a whole switch interval (5 ms) beside a busy thread, so it is let go
# only for work of about a millisecond and more.
cdef enum:
    RELEASE_HASHES = 16384
    RELEASE_BYTES = 4194304
    RELEASE_SIGNATURES = 24


def sha_kernel():
    """Name the SHA-256 implementation that runs."""
    return wattd_sha.name.decode()


def sha256d(data):
    """Return the 32-byte double SHA-256 of ``data``, in internal byte order."""
    cdef uint8_t out[32]
    cdef Py_buffer view
    if type(data) is bytes:
        wattd_sha256d(out, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    else:
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        wattd_sha256d(out, <const uint8_t *>view.buf, view.len)
        PyBuffer_Release(&view)
    return PyBytes_FromStringAndSize(<char *>out, 32)


def sha256d_many(data, Py_ssize_t item_size):
    """Return the double SHA-256 of each ``item_size``-byte item of ``data``, concatenated."""
    cdef Py_buffer view
    cdef bytes result
    cdef uint8_t *out
    cdef size_t count
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if item_size <= 0 or view.len % item_size:
            raise ValueError("bad-item-size")
        count = view.len // item_size
        result = PyBytes_FromStringAndSize(NULL, 32 * count)
        out = <uint8_t *>PyBytes_AS_STRING(result)
        if count >= RELEASE_HASHES:
            with nogil:
                wattd_sha256d_many(out, <const uint8_t *>view.buf, item_size, count)
        else:
            wattd_sha256d_many(out, <const uint8_t *>view.buf, item_size, count)
    finally:
        PyBuffer_Release(&view)
    return result


def merkle_root(leaves):
    """Return (root, mutated) of concatenated 32-byte leaves."""
    cdef Py_buffer view
    cdef uint8_t *level = NULL
    cdef size_t count
    cdef int mutated
    PyObject_GetBuffer(leaves, &view, PyBUF_SIMPLE)
    try:
        if view.len == 0 or view.len % 32:
            raise ValueError("bad-merkle-leaves")
        count = view.len // 32
        level = <uint8_t *>PyMem_Malloc(view.len + 32)
        if level == NULL:
            raise MemoryError()
        memcpy(level, view.buf, view.len)
        if count >= RELEASE_HASHES:
            with nogil:
                mutated = wattd_merkle_fold(level, count)
        else:
            mutated = wattd_merkle_fold(level, count)
        return PyBytes_FromStringAndSize(<char *>level, 32), mutated != 0
    finally:
        PyMem_Free(level)
        PyBuffer_Release(&view)


def tree_root(list leaves not None):
    """Return the RFC 6962 root over the data of ``leaves``, bytes; 32 zero bytes when there are none."""
    cdef Py_ssize_t count = len(leaves), at
    cdef uint8_t *nodes
    cdef bytes leaf
    if count == 0:
        return bytes(32)
    nodes = <uint8_t *>PyMem_Malloc(32 * count)
    if nodes == NULL:
        raise MemoryError()
    try:
        for at in range(count):
            leaf = <bytes?>leaves[at]
            wattd_tree_leaf(nodes + 32 * at, <const uint8_t *>PyBytes_AS_STRING(leaf), PyBytes_GET_SIZE(leaf))
        wattd_tree_fold(nodes, count)
        return PyBytes_FromStringAndSize(<char *>nodes, 32)
    finally:
        PyMem_Free(nodes)


def pow_search(bytes header not None, start_nonce, count, target):
    """Return the first nonce of ``count`` from ``start_nonce`` on that meets ``target``, None if there is none."""
    cdef int64_t found
    cdef uint32_t start
    cdef uint64_t tries
    cdef bytes goal
    cdef const uint8_t *head_at
    cdef const uint8_t *goal_at
    _pure.check_search(header, start_nonce, count, target)
    start, tries, goal = start_nonce if count else 0, count, target.to_bytes(32, "little")
    head_at = <const uint8_t *>PyBytes_AS_STRING(header)
    goal_at = <const uint8_t *>PyBytes_AS_STRING(goal)
    if tries >= RELEASE_HASHES:
        with nogil:
            found = wattd_pow_search(head_at, start, tries, goal_at)
    else:
        found = wattd_pow_search(head_at, start, tries, goal_at)
    return None if found < 0 else found


def crc32c(data, crc=0):
    """Return the CRC32C of ``data``, continuing from ``crc``."""
    cdef Py_buffer view
    cdef uint32_t value
    if not 0 <= crc < 1 << 32:
        raise OverflowError("crc must fit in 32 bits")
    value = crc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    if view.len >= RELEASE_BYTES:
        with nogil:
            value = wattd_crc32c(value, <const uint8_t *>view.buf, view.len)
    else:
        value = wattd_crc32c(value, <const uint8_t *>view.buf, view.len)
    PyBuffer_Release(&view)
    return value


def scan_transaction(bytes data not None, Py_ssize_t offset):
    """Find the parts of the serialised transaction that starts at ``data[offset]``."""
    cdef wattd_tx_parts parts
    cdef const char *fault = "tx-truncated"
    if offset >= 0:
        fault = wattd_scan_tx(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), offset, &parts)
    if fault != NULL:
        raise ValueError(fault.decode())
    return parts.end, parts.body_at, parts.n_in, parts.outputs_at, parts.n_out, parts.witness_at


# Signature batches call the libsecp256k1 that coincurve bundles through the addresses of its functions, without
# its headers: the opaque structs are 64 bytes each, which the self test below asks cffi to confirm.
ctypedef struct opaque64:
    uint8_t data[64]

ctypedef int (*pubkey_parse_t)(const void *, opaque64 *, const uint8_t *, size_t) noexcept nogil
ctypedef int (*parse_der_t)(const void *, opaque64 *, const uint8_t *, size_t) noexcept nogil
ctypedef int (*normalize_t)(const void *, opaque64 *, const opaque64 *) noexcept nogil
ctypedef int (*ecdsa_verify_t)(const void *, const opaque64 *, const uint8_t *, const opaque64 *) noexcept nogil
ctypedef int (*xonly_parse_t)(const void *, opaque64 *, const uint8_t *) noexcept nogil
ctypedef int (*schnorr_verify_t)(
    const void *, const uint8_t *, const uint8_t *, size_t, const opaque64 *
) noexcept nogil

cdef const void *context = NULL
cdef pubkey_parse_t pubkey_parse
cdef parse_der_t parse_der
cdef normalize_t normalize
cdef ecdsa_verify_t ecdsa_verify
cdef xonly_parse_t xonly_parse
cdef schnorr_verify_t schnorr_verify

# A strict DER signature of two 33-byte integers; a longer one has an integer above the group order, so it is false.
cdef enum:
    MAX_SIGNATURE = 72
    MAX_KEY = 65

# The arguments are copied, so that nothing of Python is looked at while the lock is not held.
ctypedef struct check_t:
    uint8_t message[32]
    uint8_t key[MAX_KEY]
    uint8_t signature[MAX_SIGNATURE]
    uint8_t key_size
    uint8_t signature_size
    uint8_t valid


cdef void run_ecdsa(check_t *checks, Py_ssize_t count) noexcept nogil:
    cdef opaque64 key, signature
    cdef check_t *check
    cdef Py_ssize_t i
    for i in range(count):
        check = checks + i
        check.valid = (
            check.key_size
            and pubkey_parse(context, &key, check.key, check.key_size)
            and parse_der(context, &signature, check.signature, check.signature_size)
        )
        if check.valid:
            normalize(context, &signature, &signature)
            check.valid = ecdsa_verify(context, &signature, check.message, &key)


cdef void run_schnorr(check_t *checks, Py_ssize_t count) noexcept nogil:
    cdef opaque64 key
    cdef check_t *check
    cdef Py_ssize_t i
    for i in range(count):
        check = checks + i
        check.valid = (
            check.key_size == 32
            and check.signature_size == 64
            and xonly_parse(context, &key, check.key)
            and schnorr_verify(context, check.signature, check.message, 32, &key)
        )


cdef int fill(check_t *check, bytes message, bytes key, bytes signature) except -1:
    cdef Py_ssize_t key_size = PyBytes_GET_SIZE(key), signature_size = PyBytes_GET_SIZE(signature)
    if PyBytes_GET_SIZE(message) != 32:
        raise ValueError("bad-message-size")
    # Sizes that no key or signature has become 0, which fails.
    if key_size > MAX_KEY or signature_size > MAX_SIGNATURE:
        key_size = signature_size = 0
    memcpy(check.message, PyBytes_AS_STRING(message), 32)
    memcpy(check.key, PyBytes_AS_STRING(key), key_size)
    memcpy(check.signature, PyBytes_AS_STRING(signature), signature_size)
    check.key_size = <uint8_t>key_size
    check.signature_size = <uint8_t>signature_size
    return 0


cdef list run_batch(items, bint schnorr):
    cdef tuple batch = tuple(items)
    cdef Py_ssize_t count = len(batch), i
    cdef check_t *checks
    if count == 0:
        return []
    checks = <check_t *>PyMem_Malloc(count * sizeof(check_t))
    if checks == NULL:
        raise MemoryError()
    try:
        for i in range(count):
            message, key, signature = batch[i]
            if message is None or key is None or signature is None:
                raise TypeError("a signature check takes bytes")
            fill(checks + i, message, key, signature)
        if count >= RELEASE_SIGNATURES:
            with nogil:
                if schnorr:
                    run_schnorr(checks, count)
                else:
                    run_ecdsa(checks, count)
        elif schnorr:
            run_schnorr(checks, count)
        else:
            run_ecdsa(checks, count)
        return [checks[i].valid != 0 for i in range(count)]
    finally:
        PyMem_Free(checks)


def verify_ecdsa_batch(items):
    """Check ECDSA signatures: one bool per (32-byte message hash, SEC1 public key, strict DER signature)."""
    if context == NULL:
        return _pure.verify_ecdsa_batch(items)
    return run_batch(items, False)


def verify_schnorr_batch(items):
    """Check BIP340 signatures: one bool per (32-byte message, 32-byte x-only key, 64-byte signature)."""
    if context == NULL:
        return _pure.verify_schnorr_batch(items)
    return run_batch(items, True)


def signature_backend():
    """Name the way signature batches are checked: ``"nogil"``, or one ``"coincurve"`` call each."""
    return "coincurve" if context == NULL else "nogil"


cdef uintptr_t address(str name) except 0:
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, name)))


def _bind_signatures():
    """Take the addresses from coincurve's library, and keep them if they pass the self test."""
    global context, pubkey_parse, parse_der, normalize, ecdsa_verify, xonly_parse, schnorr_verify
    for kind in ("secp256k1_pubkey", "secp256k1_ecdsa_signature", "secp256k1_xonly_pubkey"):
        if ffi.sizeof(kind) != sizeof(opaque64):
            return
    pubkey_parse = <pubkey_parse_t>address("secp256k1_ec_pubkey_parse")
    parse_der = <parse_der_t>address("secp256k1_ecdsa_signature_parse_der")
    normalize = <normalize_t>address("secp256k1_ecdsa_signature_normalize")
    ecdsa_verify = <ecdsa_verify_t>address("secp256k1_ecdsa_verify")
    xonly_parse = <xonly_parse_t>address("secp256k1_xonly_pubkey_parse")
    schnorr_verify = <schnorr_verify_t>address("secp256k1_schnorrsig_verify")
    context = <const void *><uintptr_t>int(ffi.cast("uintptr_t", GLOBAL_CONTEXT.ctx))
    for batch, vectors in ((verify_ecdsa_batch, _pure.ECDSA_SELF_TEST), (verify_schnorr_batch, _pure.SCHNORR_SELF_TEST)):
        if batch([vector[:3] for vector in vectors]) != [vector[3] for vector in vectors]:
            context = NULL
            return


def _unbind_signatures():
    """Fall back to coincurve's own calls (for tests)."""
    global context
    context = NULL


# Another build of coincurve may lack a function or a type: then its own calls do the work.
try:
    _bind_signatures()
except Exception:
    _unbind_signatures()


include "payments.pxi"


def _kernels():
    """Name the SHA-256 kernels that run on this machine, best first (for tests)."""
    names = []
    cdef int i = 0
    while wattd_sha_kernels[i] != NULL:
        names.append(wattd_sha_kernels[i].name.decode())
        i += 1
    return tuple(names)


def _use_kernel(str name not None):
    """Run the SHA-256 kernel of that name from now on (for tests). Raises LookupError when it cannot run here."""
    if not wattd_sha_use(name.encode()):
        raise LookupError(name)


def _crc_kernels():
    """Name the CRC32C kernels that run on this machine, best first (for tests)."""
    names = []
    cdef int i = 0
    while wattd_crc_kernels[i] != NULL:
        names.append(wattd_crc_kernels[i].name.decode())
        i += 1
    return tuple(names)


def _use_crc_kernel(str name not None):
    """Run the CRC32C kernel of that name from now on (for tests). Raises LookupError when it cannot run here."""
    if not wattd_crc_use(name.encode()):
        raise LookupError(name)
