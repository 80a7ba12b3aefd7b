"""The keys of a chain file: types, defaults and bounds, and a reader that collects every problem."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from consensus.address import decode_address
from consensus.errors import RuleError
from consensus.ledger_limits import (
    DAY_S,
    FUTURE_SPACINGS,
    HALF_LIFE_SPACINGS,
    MAX_BLOCK_WEIGHT,
    MAX_BUDGET_UNITS,
    MAX_COINBASE_MATURITY,
    MAX_DELEGATES,
    MAX_FUTURE_S,
    MAX_HALF_LIFE_S,
    MAX_MONEY_LIMIT,
    MAX_NAME_CHARS,
    MAX_SNAPSHOT_INTERVAL,
    MAX_SPACING_S,
    MAX_TIME_S,
    MAX_TIMER_MS,
    MAX_UTC_OFFSET_S,
    MAX_VALIDATORS,
    MIN_BLOCK_WEIGHT,
    MIN_VALIDATORS,
)
from consensus.limits import MAX_SCRIPT_SIZE
from consensus.params import COIN, AddressPrefixes


class IntField(NamedTuple):
    """An integer key: ``default`` is None where the chain file must give it; bounds are inclusive."""

    default: int | None
    low: int
    high: int
    unit: str


CHAIN_INTEGERS = {
    "genesis_time_s": IntField(None, 1, MAX_TIME_S, "seconds since 1970 UTC"),
}

LEDGER_INTEGERS = {
    "max_money": IntField(21_000_000 * COIN, 1, MAX_MONEY_LIMIT, "base units"),
    "max_block_weight": IntField(4_000_000, MIN_BLOCK_WEIGHT, MAX_BLOCK_WEIGHT, "weight units"),
    "min_fee_per_kvb": IntField(1_000, 1, COIN, "base units per 1000 virtual bytes"),
    "min_payout": IntField(10_000, 1, MAX_MONEY_LIMIT, "base units"),
    "op_budget": IntField(20_000, 1, MAX_BUDGET_UNITS, "units per block"),
    "timer_budget": IntField(10_000, 1, MAX_BUDGET_UNITS, "units per block"),
    "coinbase_maturity_blocks": IntField(0, 0, MAX_COINBASE_MATURITY, "blocks"),
    "snapshot_interval_blocks": IntField(0, 0, MAX_SNAPSHOT_INTERVAL, "blocks"),
}

BFT_INTEGERS = {
    "bits": IntField(0x207FFFFF, 1, 2**32 - 1, "compact target"),
    "round_s": IntField(DAY_S, 1, 366 * DAY_S, "seconds of block time"),
    "substitution_s": IntField(DAY_S // 8, 1, 366 * DAY_S, "seconds of block time"),
    "delegates": IntField(MAX_DELEGATES, MIN_VALIDATORS, MAX_VALIDATORS, "delegates"),
    "max_drift_s": IntField(2, 1, 3_600, "seconds"),
    "tenure_blocks": IntField(64, 0, 1_000_000, "blocks"),
    "progress_timeout_ms": IntField(2_000, 10, MAX_TIMER_MS, "milliseconds"),
    "slot_step_ms": IntField(300, 1, MAX_TIMER_MS, "milliseconds"),
    "idle_interval_ms": IntField(1_000, 10, MAX_TIMER_MS, "milliseconds"),
    "block_interval_ms": IntField(250, 1, MAX_TIMER_MS, "milliseconds"),
    "min_batch_txs": IntField(1_000, 1, 1_000_000, "transactions"),
}

POW_INTEGERS = {
    "bits": IntField(0x207FFFFF, 1, 2**32 - 1, "compact target"),
    "max_target": IntField(0x207FFFFF, 1, 2**32 - 1, "compact target"),
    "spacing_s": IntField(15, 1, MAX_SPACING_S, "seconds"),
    "half_life_s": IntField(HALF_LIFE_SPACINGS * 15, 1, MAX_HALF_LIFE_S, "seconds"),
    "future_limit_s": IntField(FUTURE_SPACINGS * 15, 1, MAX_FUTURE_S, "seconds"),
    "subsidy": IntField(50 * COIN, 0, MAX_MONEY_LIMIT, "base units per block"),
    "subsidy_halving_blocks": IntField(210_000, 1, 2**31 - 1, "blocks"),
    "reorg_warn_depth": IntField(6, 1, 2**31 - 1, "blocks"),
}
"""Defaults of half-life and future limit follow from the spacing; those here are for its default."""

CHECKPOINT_HEIGHT = IntField(None, 1, 2**31 - 1, "height")

ENERGY_INTEGERS = {
    "slot_s": IntField(900, 1, DAY_S, "seconds of block time"),
    "gate_lead_s": IntField(300, 0, DAY_S, "seconds of block time"),
    "reading_window_s": IntField(3_600, 1, 7 * DAY_S, "seconds of block time"),
    "day_offset_s": IntField(0, -MAX_UTC_OFFSET_S, MAX_UTC_OFFSET_S, "seconds east of UTC"),
    "grid_price_per_kwh": IntField(30_000_000, 0, MAX_MONEY_LIMIT, "base units per kWh"),
    "feed_in_price_per_kwh": IntField(8_000_000, 0, MAX_MONEY_LIMIT, "base units per kWh"),
    "max_price_per_kwh": IntField(10 * COIN, 1, MAX_MONEY_LIMIT, "base units per kWh"),
    "max_orders_per_slot": IntField(4_000, 1, MAX_BUDGET_UNITS, "orders"),
    "max_participants": IntField(4_000, 1, MAX_BUDGET_UNITS, "accounts"),
}

PREFIX_INTEGERS = {
    "p2pkh": IntField(None, 0, 255, "version byte"),
    "p2sh": IntField(None, 0, 255, "version byte"),
    "wif": IntField(None, 0, 255, "version byte"),
}

ADDRESS_PRESETS = {
    "main": AddressPrefixes(p2pkh=0, p2sh=5, wif=128, bech32_hrp="bc"),
    "test": AddressPrefixes(p2pkh=111, p2sh=196, wif=239, bech32_hrp="tb"),
    "regtest": AddressPrefixes(p2pkh=111, p2sh=196, wif=239, bech32_hrp="bcrt"),
}

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
_HRP = re.compile(r"[a-z]{1,10}\Z")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*\Z")
_SHOWN_CHARS = 80


def is_slug(text: str) -> bool:
    """Tell whether ``text`` can name a chain or a community: it becomes part of keys and file names."""
    return _SLUG.match(text) is not None


def is_name(text: str) -> bool:
    """Tell whether ``text`` can name an organisation: one printable line."""
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable() and text == text.strip()


def is_hrp(text: str) -> bool:
    """Tell whether ``text`` can start bech32 addresses; lower-case letters, so that none ends in ``1``."""
    return _HRP.match(text) is not None


class Problems:
    """Every fault found so far, in order, and which fields are among them."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._paths: list[str] = []

    def add(self, path: str, what: str, fix: str) -> None:
        """Note that the field at ``path`` is wrong: ``what`` was found, and the fix."""
        self.found.append(f"{path}: {what}; {fix}")
        self._paths.append(path)

    def clear_of(self, *prefixes: str) -> bool:
        """Tell whether no field at or under any of ``prefixes`` is wrong, so it can be judged further."""
        return not any(path.startswith(prefix) for path in self._paths for prefix in prefixes)


def show(value: object) -> str:
    """Return a value as it may stand in a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


class Table:
    """One table of the file. Readers note a problem and return a stand-in where a value is wrong."""

    def __init__(self, data: Mapping[str, object], path: str, problems: Problems) -> None:
        self._data = data
        self._known: list[str] = []
        self.path = path
        self.problems = problems

    def at(self, key: str) -> str:
        """Return the path of ``key``."""
        return f"{self.path}.{key}" if self.path else key

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._data.get(key)

    def integers(self, fields: Mapping[str, IntField]) -> dict[str, int]:
        """Return all integer keys of ``fields``, with defaults."""
        return {key: self._integer(key, spec) for key, spec in fields.items()}

    def integer(self, key: str, spec: IntField) -> int:
        """Return one integer key."""
        return self._integer(key, spec)

    def _integer(self, key: str, spec: IntField) -> int:
        value = self._take(key)
        if value is None:
            if spec.default is None:
                self._missing(key, f"give an integer, {spec.unit}")
                return spec.low
            return spec.default
        if type(value) is not int or not spec.low <= value <= spec.high:
            fix = f"give an integer from {spec.low} to {spec.high} ({spec.unit})"
            self.problems.add(self.at(key), f"found {show(value)}", fix)
            return spec.low
        return value

    def text(self, key: str, valid: Callable[[str], bool], fix: str, default: str | None = None) -> str:
        """Return a string key that ``valid`` accepts."""
        value = self._take(key)
        if value is None:
            if default is None:
                self._missing(key, fix)
            return default or ""
        if not isinstance(value, str) or not valid(value):
            self.problems.add(self.at(key), f"found {show(value)}", fix)
            return ""
        return value

    def data(self, key: str, size: int, what: str) -> bytes:
        """Return a key of ``size`` bytes, given in hex."""
        fix = f"give {size * 2} hex digits ({what})"
        value = self._take(key)
        if value is None:
            self._missing(key, fix)
        elif not isinstance(value, str) or not _HEX.match(value):
            self.problems.add(self.at(key), f"found {show(value)}", fix)
        elif len(value) != size * 2:
            self.problems.add(self.at(key), f"found {len(value)} hex digits", fix)
        else:
            return bytes.fromhex(value)
        return bytes(size)

    def script(
        self, key: str, prefixes: AddressPrefixes | None, valid: Callable[[bytes], bool], fix: str
    ) -> bytes:
        """Return a scriptPubKey, given as an address of the chain or in hex, that ``valid`` accepts.

        ``prefixes`` is None where the file's own are wrong: then an address cannot be judged.
        """
        value = self._take(key)
        if value is None:
            self._missing(key, fix)
            return b""
        if prefixes is None and isinstance(value, str):
            return b""
        script = parse_script(value, prefixes) if prefixes and isinstance(value, str) else None
        if script is None or not valid(script):
            self.problems.add(self.at(key), f"found {show(value)}", fix)
            return b""
        return script

    def table(self, key: str) -> "Table":
        """Return a sub-table; an absent one is empty."""
        value = self._take(key)
        if value is not None and not isinstance(value, dict):
            self.problems.add(self.at(key), f"found {show(value)}", f"write a table: [{self.at(key)}]")
        return Table(value if isinstance(value, dict) else {}, self.at(key), self.problems)

    def tables(self, key: str, most: int) -> list["Table"]:
        """Return an array of at most ``most`` tables; an absent one is empty."""
        value = self._take(key)
        items = value if isinstance(value, list) else []
        if value is not None and not (isinstance(value, list) and all(isinstance(i, dict) for i in value)):
            self.problems.add(self.at(key), f"found {show(value)}", f"write tables: [[{self.at(key)}]]")
            return []
        if len(items) > most:
            self.problems.add(self.at(key), f"found {len(items)} entries", f"give at most {most}")
        return [
            Table(item, f"{self.at(key)}[{index}]", self.problems) for index, item in enumerate(items[:most])
        ]

    def value(self, key: str) -> object:
        """Return a key of whatever type, None if absent; the caller judges it."""
        return self._take(key)

    def close(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._data:
            if key not in self._known:
                near = get_close_matches(key, self._known, n=1)
                fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(self._known)}"
                self.problems.add(self.at(key), "unknown key", fix)

    def _missing(self, key: str, fix: str) -> None:
        self.problems.add(self.at(key), "missing", fix)


def parse_script(text: str, prefixes: AddressPrefixes) -> bytes | None:
    """Return the scriptPubKey of an address, or of hex; None if ``text`` is neither."""
    try:
        return decode_address(text, prefixes)
    except RuleError:
        if text and len(text) <= 2 * MAX_SCRIPT_SIZE and _HEX.match(text):
            return bytes.fromhex(text)
        return None
