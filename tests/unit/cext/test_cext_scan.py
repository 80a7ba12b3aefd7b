"""The transaction scan: offsets known from how the bytes were built, and every way to refuse."""

import tracemalloc
from types import ModuleType

import pytest
from bitcoin.core import CTransaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cext import _pure

both = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
Parts = tuple[int, int, int, int, int, int]


def size_of(n: int) -> bytes:
    if n < 0xFD:
        return bytes([n])
    width = 2 if n <= 0xFFFF else 4
    return bytes([0xFD if width == 2 else 0xFE]) + n.to_bytes(width, "little")


def sized(data: bytes) -> bytes:
    return size_of(len(data)) + data


def build(
    scripts_in: list[bytes], scripts_out: list[bytes], stacks: list[list[bytes]] | None = None
) -> tuple[bytes, Parts]:
    """Serialise a transaction and say where its parts are."""
    raw = b"\x02\0\0\0" + (b"" if stacks is None else b"\0\1")
    body_at = len(raw)
    raw += size_of(len(scripts_in)) + b"".join(
        b"\xaa" * 36 + sized(script) + b"\xff" * 4 for script in scripts_in
    )
    outputs_at = len(raw)
    raw += size_of(len(scripts_out)) + b"".join(b"\x05" + bytes(7) + sized(script) for script in scripts_out)
    witness_at = 0 if stacks is None else len(raw)
    raw += b"".join(size_of(len(stack)) + b"".join(map(sized, stack)) for stack in stacks or [])
    raw += b"\x11\x22\x33\x44"
    return raw, (len(raw), body_at, len(scripts_in), outputs_at, len(scripts_out), witness_at)


scripts = st.lists(
    st.one_of(st.binary(max_size=40), st.just(bytes(253)), st.just(bytes(300))), min_size=1, max_size=4
)


@st.composite
def transactions(draw: st.DrawFn) -> tuple[bytes, Parts]:
    scripts_in, scripts_out = draw(scripts), draw(scripts)
    if draw(st.booleans()):
        return build(scripts_in, scripts_out)
    stacks = draw(
        st.lists(
            st.lists(st.binary(max_size=300), max_size=3), min_size=len(scripts_in), max_size=len(scripts_in)
        )
    )
    if not any(stacks):
        stacks[-1] = [b""]
    return build(scripts_in, scripts_out, stacks)


def outcome(module: ModuleType, data: bytes, offset: int) -> Parts | str:
    try:
        return module.scan_transaction(data, offset)
    except ValueError as error:
        return str(error)


@both
@given(tx=transactions(), before=st.binary(max_size=5), behind=st.binary(max_size=5))
def test_parts_are_where_they_were_put(
    impl: ModuleType, tx: tuple[bytes, Parts], before: bytes, behind: bytes
) -> None:
    raw, (end, body_at, n_in, outputs_at, n_out, witness_at) = tx
    shift = len(before)
    expected = (
        end + shift,
        body_at + shift,
        n_in,
        outputs_at + shift,
        n_out,
        witness_at and witness_at + shift,
    )
    assert impl.scan_transaction(before + raw + behind, shift) == expected


@both
@given(tx=transactions())
def test_an_independent_library_reads_what_is_accepted(impl: ModuleType, tx: tuple[bytes, Parts]) -> None:
    raw, _ = tx
    judge = CTransaction.deserialize(raw)
    assert judge.serialize() == raw
    _, _, n_in, _, n_out, witness_at = impl.scan_transaction(raw, 0)
    assert (n_in, n_out, witness_at > 0) == (len(judge.vin), len(judge.vout), not judge.wit.is_null())


@both
@given(tx=transactions(), data=st.data())
def test_no_prefix_is_a_transaction(impl: ModuleType, tx: tuple[bytes, Parts], data: st.DataObject) -> None:
    raw, _ = tx
    cut = data.draw(st.integers(0, len(raw) - 1))
    assert outcome(impl, raw[:cut], 0) in {"tx-truncated", "tx-too-many"}


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tx=transactions(), data=st.data())
def test_both_judge_damaged_bytes_alike(
    native: ModuleType, tx: tuple[bytes, Parts], data: st.DataObject
) -> None:
    raw = bytearray(tx[0])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        new = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"\0", b"\1", b"\xfd", b"\xfe", b"\xff"]))
        )
        raw[at : at + data.draw(st.integers(0, 3))] = new
        if not raw:
            return
    assert outcome(native, bytes(raw), 0) == outcome(_pure, bytes(raw), 0)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=120), offset=st.integers(-2, 122))
def test_both_judge_noise_alike(native: ModuleType, data: bytes, offset: int) -> None:
    assert outcome(native, data, offset) == outcome(_pure, data, offset)


def tx(*parts: bytes | str) -> bytes:
    return b"\1\0\0\0" + b"".join(bytes.fromhex(part) if isinstance(part, str) else part for part in parts)


INPUT = bytes(36) + b"\0" + bytes(4)
OUTPUT = bytes(8) + b"\0"
LOCK = bytes(4)

REFUSED = {
    "nothing": (b"", "tx-truncated"),
    "version only": (tx(), "tx-truncated"),
    "segwit marker without flag": (tx("00"), "tx-truncated"),
    "flag 2": (tx("0002", "01", INPUT, "01", OUTPUT, "00", LOCK), "unknown-tx-flags"),
    "flag 3": (tx("0003", "01", INPUT, "01", OUTPUT, "0100", LOCK), "unknown-tx-flags"),
    "segwit without inputs": (tx("0001", "00", "01", OUTPUT, LOCK), "superfluous-witness"),
    "segwit with empty stacks": (tx("0001", "01", INPUT, "01", OUTPUT, "00", LOCK), "superfluous-witness"),
    "input count in 3 bytes": (tx("fd0100", INPUT, "01", OUTPUT, LOCK), "non-canonical-compactsize"),
    "input count in 5 bytes": (tx("fe01000000", INPUT, "01", OUTPUT, LOCK), "non-canonical-compactsize"),
    "input count in 9 bytes": (
        tx("ff0100000000000000", INPUT, "01", OUTPUT, LOCK),
        "non-canonical-compactsize",
    ),
    "252 in 3 bytes": (tx("fdfc00", INPUT * 252, "01", OUTPUT, LOCK), "non-canonical-compactsize"),
    "output count in 3 bytes": (tx("01", INPUT, "fd0100", OUTPUT, LOCK), "non-canonical-compactsize"),
    "script size in 3 bytes": (
        tx("01", bytes(36), "fd0000", bytes(4), "01", OUTPUT, LOCK),
        "non-canonical-compactsize",
    ),
    "witness count in 3 bytes": (
        tx("0001", "01", INPUT, "01", OUTPUT, "fd0100", "00", LOCK),
        "non-canonical-compactsize",
    ),
    "cut compact size": (tx("fd01"), "tx-truncated"),
    "more inputs than bytes": (tx("02", INPUT, "01", OUTPUT, LOCK), "tx-too-many"),
    "a count that would take gigabytes": (tx("feffffff01", INPUT), "tx-too-many"),
    "a count above the largest size": (tx("fe01000002", INPUT), "oversized-compactsize"),
    "a count of 2^64-1": (tx("ffffffffffffffffff", INPUT), "oversized-compactsize"),
    "more outputs than bytes": (tx("01", INPUT, "02", OUTPUT, LOCK), "tx-too-many"),
    "more witness items than bytes": (tx("0001", "01", INPUT, "01", OUTPUT, "fdffff", LOCK), "tx-too-many"),
    "script longer than the rest": (tx("01", bytes(36), "20", bytes(4), "01", OUTPUT, LOCK), "tx-truncated"),
    "output script longer than the rest": (tx("01", INPUT, "01", bytes(8), "05", LOCK), "tx-truncated"),
    "witness item longer than the rest": (
        tx("0001", "01", INPUT, "01", OUTPUT, "0105", LOCK),
        "tx-truncated",
    ),
    "lock time cut": (tx("01", INPUT, "01", OUTPUT, LOCK[:3]), "tx-truncated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(impl: ModuleType, name: str) -> None:
    raw, code = REFUSED[name]
    assert outcome(impl, raw, 0) == code


ACCEPTED = {
    "no inputs and no outputs": (tx("0000", LOCK), (10, 4, 0, 5, 0, 0)),
    "no outputs": (tx("01", INPUT, "00", LOCK), (51, 4, 1, 46, 0, 0)),
    "one empty witness item": (tx("0001", "01", INPUT, "01", OUTPUT, "0100", LOCK), (64, 6, 1, 48, 1, 58)),
    "253 inputs": (
        tx("fdfd00", INPUT * 253, "01", OUTPUT, LOCK),
        (7 + 41 * 253 + 14, 4, 253, 7 + 41 * 253, 1, 0),
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(impl: ModuleType, name: str) -> None:
    raw, parts = ACCEPTED[name]
    assert impl.scan_transaction(raw, 0) == parts


@pytest.mark.parametrize("offset", [-1, 11, 10**9])
def test_an_offset_outside_is_refused(impl: ModuleType, offset: int) -> None:
    assert outcome(impl, tx("0000", LOCK), offset) == "tx-truncated"


def test_a_tiny_message_cannot_allocate(impl: ModuleType) -> None:
    tracemalloc.start()
    try:
        for raw, _ in REFUSED.values():
            outcome(impl, raw, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
