# Plain payments straight from their raw bytes: signatures, form, fees and the coins that they move.
#
# A transaction that is not plain, or that breaks a rule, is not judged here: the rules in Python judge it, and
# say why. So nothing here raises for what a peer may send, and leaving all to those rules is a valid twin.
# Offsets are those of a `consensus.transaction.Transaction`, which scanned the same bytes.

from cpython.dict cimport PyDict_DelItem, PyDict_GetItem, PyDict_SetItem
from cpython.list cimport PyList_Append, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memset

cdef extern from "kernels/payment.h" nogil:
    ctypedef struct wattd_secp:
        const void *context
        void *pubkey_parse
        void *parse_der
        void *verify
    ctypedef struct wattd_span:
        const uint8_t *data
        size_t size
    ctypedef struct wattd_payment:
        wattd_span raw
        size_t body_at, n_in, outputs_at, n_out, witness_at
        const wattd_span *coins
    enum:
        WATTD_UNJUDGED
        WATTD_COIN_HEAD
        WATTD_P2PKH_COIN
        WATTD_P2WPKH_COIN
    int wattd_is_p2pkh(const uint8_t *script, size_t size)
    int wattd_is_p2wpkh(const uint8_t *script, size_t size)
    size_t wattd_compact_size(const uint8_t *data, size_t *value)
    size_t WATTD_SCRATCH(size_t size)
    void wattd_judge_shared(
        const wattd_payment *payments, size_t count, size_t *next, const wattd_secp *secp, uint8_t *scratch,
        uint8_t *verdicts
    )
    void wattd_ripemd160(uint8_t *out, const uint8_t *data, size_t size)

# Above these, sums and products could leave 64 bits; no chain comes near.
cdef enum:
    MAX_PAIRS = 16

cdef int64_t MOST_MONEY = 1 << 60
cdef int64_t MOST_FEE = 1 << 44
cdef int64_t MOST_FEE_RATE = 1 << 36


cdef int read_tx(object tx, wattd_payment *p) except -1:
    """Look at a Transaction, which must outlive ``p``."""
    cdef ScannedTx scanned
    cdef bytes raw
    if isinstance(tx, ScannedTx):
        scanned = <ScannedTx>tx
        p[0] = scanned.parts()
        return 0
    raw = tx.raw  # one that was made over the pure twin
    p.raw.data = <const uint8_t *>PyBytes_AS_STRING(raw)
    p.raw.size = PyBytes_GET_SIZE(raw)
    p.body_at = tx.body_at
    p.n_in = tx.input_count
    p.outputs_at = tx.outputs_at
    p.n_out = tx.output_count
    p.witness_at = tx.witness_at
    return 0


cdef ScannedTx scan(cls, bytes data, Py_ssize_t offset, Py_ssize_t *end):
    """Return the transaction at ``data[offset]`` as an instance of ``cls``; ``end`` is set to what is behind it."""
    cdef wattd_tx_parts parts
    cdef const char *fault = "tx-truncated"
    cdef ScannedTx tx
    if offset >= 0:
        fault = wattd_scan_tx(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), offset, &parts)
    if fault != NULL:
        raise ValueError(fault.decode())
    tx = cls.__new__(cls)
    end[0] = parts.end
    if offset == 0 and <Py_ssize_t>parts.end == PyBytes_GET_SIZE(data):
        tx.raw = data
    else:
        tx.raw = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + offset, parts.end - offset)
    tx.body_at = parts.body_at - offset
    tx.input_count = parts.n_in
    tx.outputs_at = parts.outputs_at - offset
    tx.output_count = parts.n_out
    tx.witness_at = parts.witness_at - offset if parts.witness_at else 0
    return tx


@cython.no_gc
cdef class ScannedTx:
    """A serialised transaction and where its parts are; ``cext._pure.ScannedTx`` says what the fields mean."""

    cdef readonly bytes raw
    cdef readonly Py_ssize_t body_at, input_count, outputs_at, output_count, witness_at
    cdef public object _vin, _vout
    cdef bytes id, witness_id
    cdef tuple spent

    def __init__(
        self, bytes raw not None, Py_ssize_t body_at, Py_ssize_t n_in, Py_ssize_t outputs_at, Py_ssize_t n_out,
        Py_ssize_t witness_at
    ):
        self.raw = raw
        self.body_at = body_at
        self.input_count = n_in
        self.outputs_at = outputs_at
        self.output_count = n_out
        self.witness_at = witness_at

    cdef wattd_payment parts(self) noexcept:
        cdef wattd_payment p
        p.raw.data = <const uint8_t *>PyBytes_AS_STRING(self.raw)
        p.raw.size = PyBytes_GET_SIZE(self.raw)
        p.body_at = self.body_at
        p.n_in = self.input_count
        p.outputs_at = self.outputs_at
        p.n_out = self.output_count
        p.witness_at = self.witness_at
        p.coins = NULL
        return p

    @classmethod
    def scan_whole(cls, bytes data not None):
        """Return the transaction that ``data`` is."""
        cdef Py_ssize_t end = 0
        cdef ScannedTx tx = scan(cls, data, 0, &end)
        if end != PyBytes_GET_SIZE(data):
            raise ValueError("trailing-bytes")
        return tx

    @classmethod
    def scan_many(cls, bytes data not None, Py_ssize_t offset, Py_ssize_t count):
        """Return the ``count`` transactions that stand one behind the other at ``offset``, and what is behind."""
        cdef Py_ssize_t at = offset
        cdef list found = []
        while count > 0:
            found.append(scan(cls, data, at, &at))
            count -= 1
        return found, at

    @property
    def stripped(self):
        """The serialisation without witness, which the txid covers."""
        if not self.witness_at:
            return self.raw
        return self.raw[:4] + self.raw[self.body_at : self.witness_at] + self.raw[len(self.raw) - 4 :]

    @property
    def stripped_size(self):
        """Bytes without witness."""
        cdef wattd_payment p = self.parts()
        return stripped_size(&p)

    @property
    def weight(self):
        """Weight units: three times the stripped size plus the size (BIP141)."""
        cdef wattd_payment p = self.parts()
        return 3 * stripped_size(&p) + p.raw.size

    @property
    def vsize(self):
        """Virtual bytes: a quarter of the weight, rounded up."""
        cdef wattd_payment p = self.parts()
        return (3 * stripped_size(&p) + p.raw.size + 3) // 4

    @property
    def txid(self):
        """Double SHA-256 without witness, 32 bytes, internal order."""
        if self.id is None:
            self.id = sha256d(self.raw if not self.witness_at else self.stripped)
        return self.id

    @property
    def wtxid(self):
        """Double SHA-256 with witness, 32 bytes, internal order."""
        if not self.witness_at:
            return self.txid
        if self.witness_id is None:
            self.witness_id = sha256d(self.raw)
        return self.witness_id

    @property
    def prevouts(self):
        """The 36-byte outpoints that the inputs spend, in order."""
        cdef const uint8_t *raw
        cdef size_t at, size
        cdef list found
        if self.spent is None:
            raw = <const uint8_t *>PyBytes_AS_STRING(self.raw)
            at = self.body_at
            at += wattd_compact_size(raw + at, &size)
            found = []
            for _ in range(self.input_count):
                found.append(PyBytes_FromStringAndSize(<const char *>raw + at, 36))
                at += 36
                at += wattd_compact_size(raw + at, &size)
                at += size + 4
            self.spent = tuple(found)
        return self.spent

    @property
    def is_coinbase(self):
        """Whether the only input is the null outpoint."""
        cdef const uint8_t *prevout
        if self.input_count != 1:
            return False
        prevout = <const uint8_t *>PyBytes_AS_STRING(self.raw) + self.body_at + 1
        return memcmp(prevout, NULL_HASH, 32) == 0 and memcmp(prevout + 32, b"\xff\xff\xff\xff", 4) == 0


def ripemd160(bytes data not None):
    """Return the RIPEMD-160 digest (for tests)."""
    cdef uint8_t out[20]
    wattd_ripemd160(out, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return PyBytes_FromStringAndSize(<char *>out, 20)


cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, const void *attributes, void *(*run)(void *) noexcept, void *argument)
    int pthread_join(pthread_t thread, void **result)


cdef extern from "unistd.h" nogil:
    ssize_t write(int descriptor, const void *data, size_t size)


cdef struct judging:
    pthread_t thread
    const wattd_payment *payments
    size_t count
    size_t *next
    const wattd_secp *secp
    uint8_t *scratch
    uint8_t *found
    int wake


cdef void *run_judging(void *argument) noexcept nogil:
    """Judge, then add one to an eventfd: all without a look at the interpreter."""
    cdef judging *job = <judging *>argument
    cdef uint64_t one = 1
    wattd_judge_shared(job.payments, job.count, job.next, job.secp, job.scratch, job.found)
    write(job.wake, &one, sizeof(one))
    return NULL


@cython.final
cdef class PaymentBatch:
    """Plain payments to be judged by any number of threads; see ``cext._pure.PaymentBatch``."""

    cdef list held  # what the pointers below point into
    cdef judging *jobs
    cdef Py_ssize_t started
    cdef wattd_payment *payments
    cdef wattd_span *coins
    cdef uint8_t *found
    cdef Py_ssize_t count
    cdef size_t largest, inputs, next
    cdef wattd_secp secp

    def __cinit__(self, list items not None):
        cdef Py_ssize_t total = 0, i, j = 0
        cdef bytes coin
        self.held = []
        self.count = PyList_GET_SIZE(items)
        for i in range(self.count):
            total += len((<tuple?>items[i])[1])
        self.payments = <wattd_payment *>PyMem_Malloc((self.count + 1) * sizeof(wattd_payment))
        self.coins = <wattd_span *>PyMem_Malloc((total + 1) * sizeof(wattd_span))
        self.found = <uint8_t *>PyMem_Malloc(self.count + 1)
        if self.payments == NULL or self.coins == NULL or self.found == NULL:
            raise MemoryError()
        memset(self.found, WATTD_UNJUDGED, self.count)
        self.inputs = total
        self.secp.context = context
        self.secp.pubkey_parse = <void *>pubkey_parse
        self.secp.parse_der = <void *>parse_der
        self.secp.verify = <void *>ecdsa_verify
        for i in range(self.count):
            tx, spent = <tuple>items[i]
            raw = tx.raw
            read_tx(tx, self.payments + i)
            PyList_Append(self.held, raw)
            if self.payments[i].raw.size > self.largest:
                self.largest = self.payments[i].raw.size
            if <size_t>len(spent) != self.payments[i].n_in:
                raise ValueError("one coin per input is wanted")
            self.payments[i].coins = self.coins + j
            for coin in spent:
                if coin is None:
                    raise TypeError("a coin value is bytes")
                if j == total:
                    raise ValueError("one coin per input is wanted")
                self.coins[j].data = <const uint8_t *>PyBytes_AS_STRING(coin)
                self.coins[j].size = PyBytes_GET_SIZE(coin)
                PyList_Append(self.held, coin)
                j += 1

    def __dealloc__(self):
        self._join()
        PyMem_Free(self.payments)
        PyMem_Free(self.coins)
        PyMem_Free(self.found)

    cdef void _join(self):
        cdef Py_ssize_t i
        with nogil:
            for i in range(self.started):
                pthread_join(self.jobs[i].thread, NULL)
        for i in range(self.started):
            PyMem_Free(self.jobs[i].scratch)
        PyMem_Free(self.jobs)
        self.jobs = NULL
        self.started = 0

    def start(self, Py_ssize_t threads, int wake):
        """Start native threads that judge; each adds one to the eventfd ``wake`` when it ends.

        Returns how many run, 0 where there is nothing to do. They never ask for the interpreter lock, which a
        busy event loop gives away and takes back faster than another thread wakes up.
        """
        cdef judging *job
        if self.secp.context == NULL or self.count == 0 or self.jobs != NULL:
            return 0
        self.jobs = <judging *>PyMem_Malloc((threads + 1) * sizeof(judging))
        if self.jobs == NULL:
            raise MemoryError()
        while self.started < threads:
            job = self.jobs + self.started
            job.payments, job.count, job.next = self.payments, self.count, &self.next
            job.secp, job.found, job.wake = &self.secp, self.found, wake
            job.scratch = <uint8_t *>PyMem_Malloc(WATTD_SCRATCH(self.largest))
            if job.scratch == NULL or pthread_create(&job.thread, NULL, run_judging, job) != 0:
                PyMem_Free(job.scratch)
                break
            self.started += 1
        return self.started

    def finish(self):
        """Return when every thread of ``start`` has ended."""
        self._join()

    def judge(self):
        """Judge until nothing is left to be begun."""
        cdef uint8_t *scratch
        if self.secp.context == NULL or self.count == 0:
            return
        scratch = <uint8_t *>PyMem_Malloc(WATTD_SCRATCH(self.largest))
        if scratch == NULL:
            raise MemoryError()
        if self.inputs >= RELEASE_SIGNATURES:
            with nogil:
                wattd_judge_shared(
                    self.payments, self.count, &self.next, &self.secp, scratch, self.found
                )
        else:
            wattd_judge_shared(self.payments, self.count, &self.next, &self.secp, scratch, self.found)
        PyMem_Free(scratch)

    @property
    def verdicts(self):
        """One byte per payment; final when every call of ``judge`` has returned."""
        return PyBytes_FromStringAndSize(<char *>self.found, self.count)

    def marked(self):
        """Return the indices of those that may carry a contract payload: their bytes have its mark."""
        cdef Py_ssize_t i
        cdef list indices = []
        for i in range(self.count):
            if has_mark(self.payments[i].raw.data, self.payments[i].raw.size):
                indices.append(i)
        return indices


def judge_payments(list items not None):
    """Return a verdict per (transaction, coin values): 1 its scripts hold, 0 they do not, 2 not judged here."""
    cdef PaymentBatch batch = PaymentBatch(items)
    batch.judge()
    return batch.verdicts


cdef int64_t load_i64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value |= <uint64_t>at[i] << (8 * i)
    return <int64_t>value


cdef int64_t value_out(const wattd_payment *p, int64_t max_money) noexcept nogil:
    """Return the sum of all outputs, -1 if one of them or the sum is out of range."""
    cdef size_t at = p.outputs_at, size, i
    cdef int64_t total = 0, value
    at += wattd_compact_size(p.raw.data + at, &size)
    for i in range(p.n_out):
        value = load_i64(p.raw.data + at)
        if value < 0 or value > max_money:
            return -1
        total += value
        if total > max_money:
            return -1
        at += 8
        at += wattd_compact_size(p.raw.data + at, &size)
        at += size
    return total


cdef bint has_distinct_inputs(const wattd_payment *p) noexcept nogil:
    """Whether there are few inputs, and no two spend the same output nor one the null output."""
    cdef const uint8_t *seen[MAX_PAIRS]
    cdef size_t at = p.body_at, size, i, j
    if p.n_in > MAX_PAIRS:
        return False
    at += wattd_compact_size(p.raw.data + at, &size)
    for i in range(p.n_in):
        seen[i] = p.raw.data + at
        if memcmp(seen[i], NULL_HASH, 32) == 0:
            return False
        for j in range(i):
            if memcmp(seen[i], seen[j], 36) == 0:
                return False
        at += 36
        at += wattd_compact_size(p.raw.data + at, &size)
        at += size + 4
    return True


cdef uint8_t NULL_HASH[32]
for _at in range(32):
    NULL_HASH[_at] = 0


cdef size_t stripped_size(const wattd_payment *p) noexcept nogil:
    return p.witness_at - p.body_at + 8 if p.witness_at else p.raw.size


def outside_prevouts(list txs not None):
    """Return the prevouts of ``txs`` that are no outputs of one of them, in order."""
    cdef set inside = set()
    cdef list found = []
    cdef tuple prevouts
    cdef bytes parent
    for tx in txs:
        inside.add(tx.txid)
    for tx in txs:
        prevouts = <tuple?>tx.prevouts
        for prevout in prevouts:
            parent = PyBytes_FromStringAndSize(PyBytes_AS_STRING(<bytes?>prevout), 32)
            if parent not in inside:
                PyList_Append(found, prevout)
    return found


cdef bint is_usual(
    const wattd_payment *p, int64_t max_money, size_t max_weight, size_t forbidden_size
) noexcept nogil:
    """Whether the form of a transaction is proven good."""
    cdef size_t stripped = stripped_size(p)
    return (
        p.n_in > 0
        and p.n_out > 0
        and max_money <= MOST_MONEY
        and 3 * stripped + p.raw.size <= max_weight
        and stripped != forbidden_size
        and value_out(p, max_money) >= 0
        and has_distinct_inputs(p)
    )


def next_unusual(list txs not None, Py_ssize_t start, int64_t max_money, size_t max_weight, size_t forbidden_size):
    """Return the index at or behind ``start`` of the first transaction whose form is not proven here.

    The others have inputs and outputs, distinct and not null inputs, amounts in range, and fit the sizes.
    """
    cdef wattd_payment p
    cdef Py_ssize_t i
    for i in range(start, PyList_GET_SIZE(txs)):
        read_tx(<object>PyList_GET_ITEM(txs, i), &p)
        if not is_usual(&p, max_money, max_weight, forbidden_size):
            return i
    return PyList_GET_SIZE(txs)


cdef bint has_mark(const uint8_t *data, size_t size) noexcept nogil:
    """Whether the mark of a contract payload stands anywhere."""
    cdef const uint8_t *at = data
    cdef const uint8_t *end = data + size - 1
    while at < end:
        at = <const uint8_t *>memchr(at, b'W', end - at)
        if at == NULL:
            return False
        if at[1] == b'T':
            return True
        at += 1
    return False


cdef extern from "string.h" nogil:
    void *memchr(const void *data, int byte, size_t size)


cdef bint is_coin_script(const uint8_t *script, size_t size) noexcept nogil:
    """Whether an output script is a standard one that takes coins: P2PKH, P2WPKH, P2SH, P2WSH, P2TR."""
    if wattd_is_p2pkh(script, size) or wattd_is_p2wpkh(script, size):
        return True
    if size == 23:
        return script[0] == 0xA9 and script[1] == 20 and script[22] == 0x87
    return size == 34 and (script[0] == 0 or script[0] == 0x51) and script[1] == 32


cdef bint is_carrier(const uint8_t *script, size_t size) noexcept nogil:
    """Whether an output script carries data: OP_RETURN and at most one push, so it holds no signature check."""
    if size < 2:
        return size == 1 and script[0] == 0x6A
    if script[0] != 0x6A:
        return False
    if script[1] <= 75:
        return size == 2 + <size_t>script[1]
    if script[1] == 76:
        return size > 2 and size == 3 + <size_t>script[2]
    return script[1] == 77 and size > 3 and size == 4 + (<size_t>script[2] | <size_t>script[3] << 8)


cdef bint pays_standard_scripts(const wattd_payment *p) noexcept nogil:
    """Whether every output has a standard script that takes coins, or carries data and no value."""
    cdef const uint8_t *raw = p.raw.data
    cdef size_t at = p.outputs_at, size, i
    cdef int64_t value
    at += wattd_compact_size(raw + at, &size)
    for i in range(p.n_out):
        value = load_i64(raw + at)
        at += 8
        at += wattd_compact_size(raw + at, &size)
        if not is_coin_script(raw + at, size) and (value != 0 or not is_carrier(raw + at, size)):
            return False
        at += size
    return True


cdef bint is_unlocked(const wattd_payment *p) noexcept nogil:
    """Whether no lock time is set, neither for the transaction nor relative to a coin."""
    cdef const uint8_t *raw = p.raw.data
    cdef const uint8_t *lock_time = raw + p.raw.size - 4
    cdef size_t at = p.body_at, size, i
    if lock_time[0] or lock_time[1] or lock_time[2] or lock_time[3]:
        return False
    if raw[0] < 2 and not (raw[1] or raw[2] or raw[3]):
        return True
    at += wattd_compact_size(raw + at, &size)
    for i in range(p.n_in):
        at += 36
        at += wattd_compact_size(raw + at, &size)
        at += size + 4
        if not raw[at - 1] & 0x80:
            return False
    return True


cdef bint is_young(const uint8_t *coin) noexcept nogil:
    """Whether a coin comes from a coinbase behind genesis, and so may have to wait."""
    return coin[0] & 1 and (coin[0] != 1 or coin[1] or coin[2] or coin[3])


cdef int64_t fee_of(
    const wattd_payment *p, const wattd_span *coins, int64_t max_money, int64_t min_fee_per_kvb
) noexcept nogil:
    """Return the fee of an unlocked transaction that moves plain coins only, or -1."""
    cdef const uint8_t *raw = p.raw.data
    cdef size_t i, vsize
    cdef int64_t total = 0, paid, fee, value
    if max_money > MOST_MONEY or min_fee_per_kvb > MOST_FEE_RATE or min_fee_per_kvb < 0:
        return -1
    if p.n_in == 0 or not is_unlocked(p) or has_mark(raw, p.raw.size):
        return -1
    for i in range(p.n_in):
        if not (
            coins[i].size == WATTD_P2PKH_COIN
            and wattd_is_p2pkh(coins[i].data + WATTD_COIN_HEAD, 25)
            or coins[i].size == WATTD_P2WPKH_COIN
            and wattd_is_p2wpkh(coins[i].data + WATTD_COIN_HEAD, 22)
        ):
            return -1
        value = load_i64(coins[i].data + 4)
        if value < 0 or value > max_money or is_young(coins[i].data):
            return -1
        total += value
        if total > max_money:
            return -1
    paid = value_out(p, max_money)
    if paid < 0:
        return -1
    if not pays_standard_scripts(p):
        return -1
    fee = total - paid
    vsize = (3 * stripped_size(p) + p.raw.size + 3) // 4
    if fee < 0 or fee > MOST_FEE or vsize > 1 << 24 or fee * 1000 < min_fee_per_kvb * <int64_t>vsize:
        return -1
    return fee


cdef bint point_at(list spent, const wattd_payment *p, wattd_span *coins) except -1:
    """Let ``coins`` point at the coin values; False if there is not one per input, or there are too many."""
    cdef bytes coin
    cdef Py_ssize_t i
    if p.n_in == 0 or p.n_in > MAX_PAIRS or <size_t>PyList_GET_SIZE(spent) != p.n_in:
        return False
    for i in range(<Py_ssize_t>p.n_in):
        coin = <bytes?>spent[i]
        coins[i].data = <const uint8_t *>PyBytes_AS_STRING(coin)
        coins[i].size = PyBytes_GET_SIZE(coin)
    return True


def plain_fee(tx, list spent not None, int64_t max_money, int64_t min_fee_per_kvb):
    """Return the fee of a plain payment that spends the coin values ``spent``, -1 if it is not judged here."""
    cdef wattd_payment p
    cdef wattd_span coins[MAX_PAIRS]
    read_tx(tx, &p)
    if not point_at(spent, &p, coins):
        return -1
    return fee_of(&p, coins, max_money, min_fee_per_kvb)


def usual_fee(
    tx, list spent not None, int64_t max_money, int64_t min_fee_per_kvb, size_t max_weight, size_t forbidden_size
):
    """Return ``plain_fee`` of what ``next_unusual`` finds nothing unusual at, -1 of anything else."""
    cdef wattd_payment p
    cdef wattd_span coins[MAX_PAIRS]
    read_tx(tx, &p)
    if not point_at(spent, &p, coins) or not is_usual(&p, max_money, max_weight, forbidden_size):
        return -1
    return fee_of(&p, coins, max_money, min_fee_per_kvb)


def output_coin(tx, size_t index, uint32_t code):
    """Return output ``index`` as a coin value that begins with ``code``, None if there is no such output."""
    cdef wattd_payment p
    cdef const uint8_t *amount
    cdef size_t at, size, i
    read_tx(tx, &p)
    if index >= p.n_out:
        return None
    at = p.outputs_at
    at += wattd_compact_size(p.raw.data + at, &size)
    for i in range(index):
        at += 8
        at += wattd_compact_size(p.raw.data + at, &size)
        at += size
    amount = p.raw.data + at
    at += 8
    at += wattd_compact_size(p.raw.data + at, &size)
    return coin_value(code, amount, p.raw.data + at, size)


cdef bytes coin_value(uint32_t code, const uint8_t *amount, const uint8_t *script, size_t size):
    cdef bytes value = PyBytes_FromStringAndSize(NULL, WATTD_COIN_HEAD + size)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(value)
    to[0] = <uint8_t>code
    to[1] = <uint8_t>(code >> 8)
    to[2] = <uint8_t>(code >> 16)
    to[3] = <uint8_t>(code >> 24)
    memcpy(to + 4, amount, 8)
    memcpy(to + WATTD_COIN_HEAD, script, size)
    return value


cdef bytes outpoint_of(const uint8_t *txid, uint32_t index):
    cdef bytes key = PyBytes_FromStringAndSize(NULL, 36)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(key)
    memcpy(to, txid, 32)
    to[32] = <uint8_t>index
    to[33] = <uint8_t>(index >> 8)
    to[34] = <uint8_t>(index >> 16)
    to[35] = <uint8_t>(index >> 24)
    return key


cdef bint pushes_only(const wattd_payment *p) noexcept nogil:
    """Whether every scriptSig is empty or pushes two strings, so that it holds no signature check."""
    cdef const uint8_t *script
    cdef size_t at = p.body_at, size, first, i
    at += wattd_compact_size(p.raw.data + at, &size)
    for i in range(p.n_in):
        at += 36
        at += wattd_compact_size(p.raw.data + at, &size)
        script = p.raw.data + at
        if size:
            first = script[0]
            if first > 75 or size < first + 2 or script[first + 1] > 75 or size != first + script[first + 1] + 2:
                return False
        at += size + 4
    return True


@cython.final
cdef class Ledger:
    """What one block's plain payments do to the coins; see ``move_payments``."""

    cdef dict coins, undo, known
    cdef object get
    cdef uint32_t code
    cdef int64_t max_money, min_fee_per_kvb
    cdef Py_ssize_t legacy_inputs, witness_inputs, legacy_outputs

    cdef bytes find(self, bytes prevout):
        """Return a coin value, None if there is none."""
        cdef PyObject *found = PyDict_GetItem(self.coins, prevout)
        if found == NULL:
            found = PyDict_GetItem(self.known, prevout)
            if found == NULL:
                return self.get(prevout)
        return <object>found

    cdef int64_t move(self, object tx, list items) except -2:
        """Move the coins of ``tx`` and return its fee; -1 if it is not judged here, and nothing changes."""
        cdef wattd_payment p
        cdef wattd_span spans[MAX_PAIRS]
        cdef tuple prevouts
        cdef list spent = []
        cdef bytes coin, txid
        cdef Py_ssize_t i
        cdef int64_t fee
        read_tx(tx, &p)
        if p.n_in > MAX_PAIRS or not has_distinct_inputs(&p) or not pushes_only(&p):
            return -1
        prevouts = tx.prevouts
        for i in range(<Py_ssize_t>p.n_in):
            coin = self.find(prevouts[i])
            if coin is None:
                return -1
            spans[i].data = <const uint8_t *>PyBytes_AS_STRING(coin)
            spans[i].size = PyBytes_GET_SIZE(coin)
            spent.append(coin)
        fee = fee_of(&p, spans, self.max_money, self.min_fee_per_kvb)
        if fee < 0:
            return -1
        txid = tx.txid
        for i in range(<Py_ssize_t>p.n_in):
            prevout = prevouts[i]
            if PyDict_GetItem(self.coins, prevout) != NULL:
                PyDict_DelItem(self.coins, prevout)
                PyDict_DelItem(self.undo, prevout)
            else:
                PyDict_SetItem(self.coins, prevout, None)
                PyDict_SetItem(self.undo, prevout, spent[i])
            if spans[i].size == WATTD_P2PKH_COIN:
                self.legacy_inputs += 1
            else:
                self.witness_inputs += 1
        self.create(&p, <const uint8_t *>PyBytes_AS_STRING(txid))
        PyList_Append(items, (tx, spent))
        return fee

    cdef int create(self, const wattd_payment *p, const uint8_t *txid) except -1:
        cdef const uint8_t *raw = p.raw.data
        cdef const uint8_t *amount
        cdef size_t at = p.outputs_at, size, i
        cdef bytes key
        at += wattd_compact_size(raw + at, &size)
        for i in range(p.n_out):
            amount = raw + at
            at += 8
            at += wattd_compact_size(raw + at, &size)
            if is_carrier(raw + at, size):
                at += size
                continue
            self.legacy_outputs += wattd_is_p2pkh(raw + at, size)
            key = outpoint_of(txid, <uint32_t>i)
            PyDict_SetItem(self.coins, key, coin_value(self.code, amount, raw + at, size))
            PyDict_SetItem(self.undo, key, None)
            at += size
        return 0


def plain_cost(tx, list spent not None):
    """Return the signature operation cost of a plain payment, -1 if it is not judged here."""
    cdef wattd_payment p
    cdef bytes coin
    cdef const uint8_t *raw
    cdef size_t at, size, i
    cdef Py_ssize_t cost = 0
    read_tx(tx, &p)
    if not pays_standard_scripts(&p) or not pushes_only(&p):
        return -1
    for coin in spent:
        size = PyBytes_GET_SIZE(coin)
        raw = <const uint8_t *>PyBytes_AS_STRING(coin) + WATTD_COIN_HEAD
        if size == WATTD_P2WPKH_COIN and wattd_is_p2wpkh(raw, 22):
            cost += 1
        elif not (size == WATTD_P2PKH_COIN and wattd_is_p2pkh(raw, 25)):
            return -1
    raw = p.raw.data
    at = p.outputs_at
    at += wattd_compact_size(raw + at, &size)
    for i in range(p.n_out):
        at += 8
        at += wattd_compact_size(raw + at, &size)
        cost += 4 * wattd_is_p2pkh(raw + at, size)
        at += size
    return cost


def create_coins(tx, dict coins not None, dict undo not None, uint32_t code):
    """Create the outputs of ``tx`` if all have standard scripts or just carry data; return whether they do."""
    cdef Ledger ledger
    cdef wattd_payment p
    cdef bytes txid
    read_tx(tx, &p)
    if not pays_standard_scripts(&p):
        return False
    ledger = Ledger.__new__(Ledger)
    ledger.coins, ledger.undo, ledger.code = coins, undo, code
    txid = tx.txid
    ledger.create(&p, <const uint8_t *>PyBytes_AS_STRING(txid))
    return True


def move_payments(
    list txs not None,
    Py_ssize_t start,
    list items not None,
    dict coins not None,
    dict undo not None,
    dict known not None,
    get,
    uint32_t code,
    int64_t max_money,
    int64_t min_fee_per_kvb,
):
    """Move the coins of plain payments, whose scriptSigs only push, from ``start`` to the first other one.

    Returns (its index, sum of fees, P2PKH inputs, P2WPKH inputs, P2PKH outputs).
    ``coins`` and ``undo`` are those of a block under way, ``code`` what its coins begin with (height << 1),
    ``known`` coin values read ahead, ``get`` the view below; (transaction, coin values) go to ``items``.
    """
    cdef Ledger ledger = Ledger.__new__(Ledger)
    cdef Py_ssize_t at = start, count = PyList_GET_SIZE(txs)
    cdef int64_t fee, fees = 0
    ledger.coins, ledger.undo, ledger.known, ledger.get = coins, undo, known, get
    ledger.code, ledger.max_money, ledger.min_fee_per_kvb = code, max_money, min_fee_per_kvb
    while at < count and fees < MOST_MONEY:
        fee = ledger.move(<object>PyList_GET_ITEM(txs, at), items)
        if fee < 0:
            break
        fees += fee
        at += 1
    return at, fees, ledger.legacy_inputs, ledger.witness_inputs, ledger.legacy_outputs
