"""The same attacks as random walks, nothing but who finds the next block: for statistics of many runs."""

from collections.abc import Callable, Iterable, Iterator
from random import Random


def lottery(dice: Random, share: float) -> Iterator[bool]:
    """Yield for ever whether the attacker finds the next block."""
    while True:
        yield dice.random() < share


def rewrites(
    order: Iterable[bool], confirmations: int, *, lead: int, patience: int, ties: bool = False
) -> bool:
    """Tell whether an alternative history gets ahead once the payment has its confirmations.

    ``order`` says of each block whether the attacker found it. It gives up ``patience`` blocks behind;
    where ``order`` ends before, it has not succeeded. With ``ties`` it is enough to draw level.
    """
    own, public = lead, 0
    for mine in order:
        if mine:
            own += 1
        else:
            public += 1
        if public >= confirmations and own + ties > public:
            return True
        if public - own > patience:
            return False
    return False


def selfish_walk(order: Iterable[int], joins: Callable[[int, int], bool]) -> tuple[int, int]:
    """Play Eyal and Sirer's state machine; return (own, all) blocks on the chain.

    ``order`` has who finds the next block, 0 the selfish miner. ``joins(finder, rival)`` tells whether the
    honest ``finder`` of a block mined on the selfish miner's, in a tie with a block of ``rival``.
    """
    own = others = lead = rival = 0
    for finder in order:
        if rival:
            if finder == 0:
                own += 2
            elif joins(finder, rival):
                own += 1
                others += 1
            else:
                others += 2
            rival = 0
        elif finder == 0:
            lead += 1
        elif lead == 0:
            others += 1
        elif lead == 1:
            lead, rival = 0, finder
        elif lead == 2:
            own += 2
            lead = 0
        else:
            own += 1
            lead -= 1
    return own, own + others
