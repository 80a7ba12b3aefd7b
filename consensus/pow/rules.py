"""What proof of work asks of a header, and the schedule of what it issues."""

from collections.abc import Sequence

from consensus.block import BlockHeader
from consensus.chain import ChainTip
from consensus.errors import ConfigError, RuleError
from consensus.limits import MAX_HALVINGS
from consensus.params import ChainParams, PowParams
from consensus.ports import BlockTimes
from consensus.pow.asert import next_target
from consensus.pow.limits import MEDIAN_SPAN
from consensus.pow.target import check_proof, encode_compact, target_of
from consensus.transaction import hash_hex


def pow_of(params: ChainParams) -> PowParams:
    """Return the parameters of proof of work. Raises ConfigError on a chain of another engine."""
    if params.pow is None:
        raise ConfigError("bad-chain-file", (f"chain.engine: {params.engine!r} is no proof of work",))
    return params.pow


def median(times: Sequence[int]) -> int:
    """Return the median of the last 11 header times; of an even number the later middle one, as Core."""
    last = sorted(times[-MEDIAN_SPAN:])
    return last[len(last) // 2]


def expected_bits(params: ChainParams, height: int, time_s: int) -> int:
    """Return nBits of the block after one of this height and header time.

    The anchor is genesis, as if its parent had come one interval before it.
    """
    rules = pow_of(params)
    anchor, most = target_of(rules.bits), target_of(rules.max_target)
    if anchor is None or most is None:
        raise ConfigError("bad-chain-file", ("pow.bits, pow.max_target: no targets",))
    target = next_target(
        anchor,
        time_s - (params.genesis_time_s - rules.spacing_s),
        height,
        spacing_s=rules.spacing_s,
        half_life_s=rules.half_life_s,
        max_target=most,
    )
    return encode_compact(target)


def check_header(header: BlockHeader, parent: ChainTip, params: ChainParams) -> None:
    """Check a header against its parent and the chain.

    Raises RuleError "bad-prevblk", "bad-diffbits", "high-hash" or "time-too-old".
    """
    check_template_header(header, parent, params)
    most = target_of(pow_of(params).max_target)
    check_proof(header, most or 0)


def check_template_header(header: BlockHeader, parent: ChainTip, params: ChainParams) -> None:
    """Check a header that nobody has searched a nonce for: ``check_header`` without the proof."""
    if header.prev_hash != parent.block_hash:
        raise RuleError("bad-prevblk", f"its parent is {hash_hex(header.prev_hash)}", permanent=False)
    check_bits(header, expected_bits(params, parent.height, parent.time_s))
    check_time(header, median(parent.times))


def check_bits(header: BlockHeader, expected: int) -> None:
    """Raise RuleError "bad-diffbits" unless a header's nBits are those that ASERT asks for."""
    if header.bits != expected:
        raise RuleError("bad-diffbits", f"bits {header.bits:#010x}, the chain asks for {expected:#010x}")


def check_time(header: BlockHeader, median_time_s: int) -> None:
    """Raise RuleError "time-too-old" unless a header's time is after the median of the 11 before."""
    if header.time_s <= median_time_s:
        raise RuleError("time-too-old", f"time {header.time_s}, the median before it is {median_time_s}")


def check_clock(header: BlockHeader, now_s: int, params: ChainParams) -> None:
    """Raise RuleError "time-too-new", not permanent, for a time beyond the future limit."""
    ahead_s = header.time_s - now_s
    if ahead_s > pow_of(params).future_limit_s:
        raise RuleError("time-too-new", f"{ahead_s} s ahead of this node's clock", permanent=False)


def subsidy_at(params: ChainParams, height: int, issued: int) -> int:
    """Return what the coinbase at ``height`` issues, base units; ``issued`` is what the chain has issued.

    The schedule halves every ``subsidy_halving_blocks`` and stops at ``max_money``. Genesis issues the
    allocations alone.
    """
    rules = pow_of(params)
    halvings = height // rules.subsidy_halving_blocks
    due = 0 if halvings >= MAX_HALVINGS or height < 1 else rules.subsidy >> halvings
    return max(0, min(due, params.ledger.max_money - issued))


class MedianTimes:
    """The clock of relative lock times (BIP68, BIP113) over header times by height.

    The time of a coin is the median time past of the block before the one that made it. ``recent`` are
    the header times up to the block at ``height``, the parent of the block in question.
    """

    def __init__(self, height: int, recent: Sequence[int], older: BlockTimes | None) -> None:
        self._height = height
        self._recent = recent
        self._older = older

    def time_at(self, height: int, /) -> int | None:
        """Return the median time past of the block before the one at ``height``; None if not known."""
        last = max(0, height - 1)
        times = []
        for at in range(max(0, last - MEDIAN_SPAN + 1), last + 1):
            back = self._height - at
            if back < len(self._recent):
                times.append(self._recent[-1 - back])
            elif self._older is None:
                return None
            else:
                known = self._older.time_at(at)
                if known is None:
                    return None
                times.append(known)
        return median(times)
