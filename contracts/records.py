"""Values of the contract state as typed records; the encoding is the canonical array of the fields."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import msgpack

from consensus.canonical import pack_plain

BUY = "buy"
SELL = "sell"

OPEN = "open"
CLEARED = "cleared"
SETTLED = "settled"


class ReadableState(Protocol):
    """What reading records needs; a StateView or a SessionState."""

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value of ``key``, None if there is none."""
        ...

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) under ``prefix`` in ascending order."""
        ...


class WritableState(ReadableState, Protocol):
    """State that a contract changes."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key``."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove ``key``."""
        ...


class Account(NamedTuple):
    """Money of one account, base units. ``first_debt`` to ``next_debt`` is the queue of its debts."""

    available: int = 0
    locked: int = 0
    first_debt: int = 0
    next_debt: int = 0


class Member(NamedTuple):
    """A member of a community; ``devices`` are the keys of its meters in use, in order of registration."""

    provider: bytes
    height: int
    devices: tuple[bytes, ...] = ()


class Device(NamedTuple):
    """A registered meter. ``revoked_at`` is a height, None while it is in use."""

    owner: bytes
    provider: bytes
    community: str
    height: int
    revoked_at: int | None = None


class Market(NamedTuple):
    """One slot of one community: order book, clearing and settlement.

    ``orders`` counts live orders, after the gate those that took part. ``price_per_kwh`` is None
    if nothing was traded. Energies are sums over participants.
    """

    status: str = OPEN
    orders: int = 0
    price_per_kwh: int | None = None
    volume_wh: int = 0
    trades: int = 0
    participants: int = 0
    import_wh: int = 0
    export_wh: int = 0
    from_grid_wh: int = 0
    to_grid_wh: int = 0
    missing: int = 0


class Order(NamedTuple):
    """An order. ``collateral`` is what is locked for it until its slot is settled.

    After the gate ``filled_wh`` and ``amount`` say what was traded and for how much.
    """

    account: bytes
    side: str
    energy_wh: int
    limit_price_per_kwh: int
    collateral: int
    height: int
    filled_wh: int = 0
    amount: int = 0


class Trade(NamedTuple):
    """One trade of a cleared slot."""

    buy_id: bytes
    sell_id: bytes
    energy_wh: int
    amount: int


class Reading(NamedTuple):
    """An accepted reading: who is charged, what was metered, and the hash of the item."""

    owner: bytes
    import_wh: int
    export_wh: int
    item_hash: bytes
    height: int


class Outcome(NamedTuple):
    """What became of a reading. ``txid`` is in internal order."""

    code: str
    height: int
    txid: bytes


class Totals(NamedTuple):
    """Energy and money of one member over a slot or a day; money in base units.

    ``import_wh`` and ``export_wh`` are the sums of each slot's net consumption and net feed-in.
    ``tariff_paid`` and ``tariff_received`` are what the grid alone would have charged and paid for
    them. ``missing`` counts meters without a reading, one for a participant without a meter.
    """

    bought_wh: int = 0
    sold_wh: int = 0
    from_grid_wh: int = 0
    to_grid_wh: int = 0
    trade_paid: int = 0
    trade_received: int = 0
    grid_paid: int = 0
    grid_received: int = 0
    import_wh: int = 0
    export_wh: int = 0
    tariff_paid: int = 0
    tariff_received: int = 0
    slots: int = 0
    missing: int = 0


class Bill(NamedTuple):
    """What a member is told at the end of a day: whose bill it is, and the fields of ``Totals``."""

    community: str
    day: int
    account: bytes
    totals: Totals


def pack(record: tuple[Any, ...]) -> bytes:
    """Encode a record: canonical MessagePack, as ``consensus.canonical`` would write it.

    The packer of msgpack is canonical for what records hold (int, bytes, str, None and arrays), and
    many times faster; a settlement writes thousands of records. A test compares the two.
    """
    return pack_plain(record)


def unpack(value: bytes) -> tuple[Any, ...]:
    """Decode a record; only for values of the state, which our own rules wrote."""
    fields: tuple[Any, ...] = msgpack.unpackb(value, use_list=False, raw=False)
    return fields
