"""The tip of a chain and the result of connecting a block to it, as values."""

from dataclasses import dataclass

from consensus import canonical
from consensus.errors import DecodeError
from consensus.ledger_limits import MEDIAN_TIME_SPAN

_VERSION = 1


@dataclass(frozen=True, slots=True)
class ChainTip:
    """What connecting the next block needs to know of the last one.

    ``history`` holds the peaks (``consensus.history``) over the header hashes of heights 0 to
    ``height``, so the next block commits to their root. ``issued`` is the sum of all tokens ever
    issued, base units; ``time_s`` and ``term`` are the header's time and nonce. ``times`` holds the
    header times of the last blocks, at most MEDIAN_TIME_SPAN, the tip's own last.
    """

    height: int
    block_hash: bytes
    time_s: int
    effects_digest: bytes
    history: tuple[bytes, ...]
    issued: int
    term: int
    times: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes that storage keeps."""
        return canonical.encode(
            [
                _VERSION,
                self.height,
                self.block_hash,
                self.time_s,
                self.effects_digest,
                list(self.history),
                self.issued,
                self.term,
                list(self.times),
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> "ChainTip":
        """Return the tip that ``encode`` wrote. Raises DecodeError "bad-chain-tip"."""
        match canonical.decode(data):
            case [
                int(version),
                int(height),
                bytes(block_hash),
                int(time_s),
                bytes(digest),
                [*history],
                int(issued),
                int(term),
                [*recent],
            ] if version == _VERSION and len(block_hash) == 32 and len(digest) == 32:
                peaks = tuple(peak for peak in history if isinstance(peak, bytes) and len(peak) == 32)
                times = tuple(time for time in recent if type(time) is int)
                if (
                    bool not in map(type, (version, height, time_s, issued, term))
                    and height >= 0
                    and len(peaks) == len(history) == (height + 1).bit_count()
                    and len(times) == len(recent) == min(height + 1, MEDIAN_TIME_SPAN)
                    and times[-1] == time_s
                ):
                    return cls(height, block_hash, time_s, digest, peaks, issued, term, times)
        raise DecodeError("bad-chain-tip", "not a chain tip of this version")


@dataclass(frozen=True, slots=True)
class Connected:
    """What a block changes: the new tip and the final value per key, None where a key goes away.

    ``coins`` maps 36-byte prevouts to coin values, ``state`` contract keys to values. Each
    ``*_undo`` has exactly the keys of its diff with the value before the block; writing those
    values back takes the block off again. ``state_undo`` is empty where nobody ever asks for it
    (``ChainParams.keeps_state_undo``). ``txids`` are in block order, ``fees`` base units.
    """

    tip: ChainTip
    txids: tuple[bytes, ...]
    coins: dict[bytes, bytes | None]
    coins_undo: dict[bytes, bytes | None]
    state: dict[bytes, bytes | None]
    state_undo: dict[bytes, bytes | None]
    fees: int
