"""What the demo itself submitted: the base on which the chain is judged at the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.operations import ReadingItem
from node.demo.scenario import Wish


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """An order as it was signed; ``account`` is the owner's script, ``value`` what rides on it."""

    account: bytes
    wish: Wish
    value: int


@dataclass(slots=True)
class Journal:
    """Everything submitted. Scripts and hashes are raw bytes; money in base units.

    ``brought`` is what an account's operations carried into the contracts, ``withdrawn`` what it
    asked back, ``fees`` what its transactions paid, ``allocated`` what the genesis gave it.
    """

    orders: dict[bytes, PlacedOrder] = field(default_factory=dict)
    readings: dict[bytes, ReadingItem] = field(default_factory=dict)
    brought: Counter[bytes] = field(default_factory=Counter)
    withdrawn: Counter[bytes] = field(default_factory=Counter)
    fees: Counter[bytes] = field(default_factory=Counter)
    allocated: Counter[bytes] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    transactions: int = 0

    def readings_of(self, slot: int) -> Sequence[ReadingItem]:
        """Return the readings of one slot."""
        return [item for item in self.readings.values() if item.slot == slot]
