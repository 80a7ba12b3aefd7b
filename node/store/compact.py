"""``wattd store compact``: give back the space of what was deleted or replaced in the database."""

from node.store.progress import Progress
from node.store.target import Target
from storage import schema, swap
from storage.index import Index

_SPACES = (
    schema.BLOCK,
    schema.BRANCH,
    schema.COIN,
    schema.HEADER,
    schema.HEADER_HEIGHT,
    schema.HISTORY,
    schema.INVALID,
    schema.MARK,
    schema.PENDING,
    schema.STATE,
    schema.TX,
    schema.UNSPENT,
)
_STEP = 16
"""First bytes compacted at a time: pieces small enough for a bar that moves and a Ctrl-C that is heard."""


def compact(target: Target, progress: Progress) -> tuple[int, int]:
    """Compact the database piece by piece; return its size before and after, bytes.

    LevelDB leaves old or new tables whenever it is stopped, so a kill loses nothing.
    """
    index = Index.open(target.path / swap.INDEX, target.cache_bytes // 2, create=False)
    try:
        before = index.bytes_on_disk()
        progress.begin("compacting", len(_SPACES) * 256 // _STEP)
        for space in _SPACES:
            for byte in range(0, 256, _STEP):
                last = byte + _STEP > 255
                stop = bytes([space[0] + 1]) if last else space + bytes([byte + _STEP])
                index.compact(space + bytes([byte]), stop)
                progress.advance()
        return before, index.bytes_on_disk()
    finally:
        index.close()
