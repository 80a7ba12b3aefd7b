"""The limits of the store: every number with its reason."""

MIB = 1 << 20

SEGMENT_BYTES = 128 * MIB
"""Size at which a segment file is rolled: few files on a large chain, yet small enough to prune or repair."""

RECORD_BYTES_MAX = 1 << 30
"""Longest record. Undo of a full block is the largest thing stored; a longer length can only be damage."""

KEEP_BLOCKS_MIN = 288
"""Blocks that no pruning takes, as in Bitcoin Core: what peers that were away for a while still ask for."""

PRUNE_BATCH_KEYS = 2_000
"""Index entries removed per batch while pruning: some 5 ms, as a running node may prune between blocks."""

OPEN_SEGMENTS_MAX = 32
"""Segment files kept open: 4 GiB of recent blocks without a reopen, far under the usual 1024 fds."""

RESYNC_CHUNK_BYTES = MIB
"""Window in which a damaged segment is searched for later records, in constant memory."""

UNINDEXED_RECORDS_MAX = 1024
"""Segment records known only in memory before LevelDB is told; about 0.5 MB of Python objects."""

UNCOMMITTED_BYTES = 64 * MIB
"""Bodies handed back at start in one piece. A chain that stood still may hold more; the newest come first."""

SYNC_EVERY_BATCHES = 100
"""LevelDB batches between two synced ones: bounds what a restart after a power cut has to replay."""

MARKS_MAX = 4096
"""Batch marks kept until LevelDB's memory table is flushed: bounds the check at start to milliseconds."""

CACHE_BYTES = 24 * MIB
"""Default cache budget (LevelDB blocks, coins, contract state) of a node within 128 MiB resident."""

CACHE_ENTRY_BYTES = 200
"""Overhead charged per cached pair: two bytes objects (33 each), dict slot and spare room, rounded up."""

COIN_ENTRY_BYTES = 160
"""Overhead charged per cached coin beside key and value. Measured: 224 bytes resident for a key of 36 and a
value of 37 just after the dict has grown, its worst moment, which is 151."""

SPENT_ENTRY_BYTES = 110
"""Overhead charged per coin that is known to be spent, beside its key: 140 bytes resident, rounded up."""

FLUSH_BLOCKS_MAX = 500
"""Blocks whose coins only memory holds: what a restart after a crash rolls forward in well below a second."""

FLUSH_BODY_BYTES_MAX = 4 * MIB
"""Bodies of these blocks, for the same reason: to roll forward takes 25 ms per MiB, on a Raspberry Pi some
five times that. The default cache asks for a flush after 3 blocks of 2,000 payments."""

FLUSH_BODY_SHARE = 8
"""A store with a larger cache may hold back this part of it instead: who gives a node 256 MiB has a machine
that rolls 24 MiB of bodies forward in a second, and coins that are spent meanwhile never reach LevelDB."""

STATE_ROOTS_KEPT = 4
"""State roots that are remembered: the last one is asked for, the others after reorganisations."""

WRITE_BUFFER_BYTES = 4 * MIB
"""LevelDB memory table; two of them may exist at once, so this costs up to 8 MiB of the resident budget. A
flush of coins within the default budget is 3 MiB."""

LEVELDB_FILE_BYTES = MIB
"""Size of LevelDB's table files. A compaction maps up to 25 of them: with LevelDB's own 2 MiB, following a
chain of a million unspent outputs peaked 20 MiB higher. 10 GB of index are 10,000 files."""

LEVELDB_FILES_MIN = 74
"""Table files LevelDB keeps open and mapped: the fewest that it can be told to, 64 MiB of index."""

LEVELDB_FILES_MAX = 512
"""Most table files kept open, for large caches: leaves room for sockets under the usual 1024 fds."""

CACHE_BYTES_PER_FILE = 64 * 1024
"""Share of LevelDB's block cache that a further open table file asks for: both grow with one setting."""

COMPRESSED_CACHE_BYTES = 16 * MIB
"""Largest block cache with which new table files are compressed. Keys and values are mostly hashes: with a
million unspent outputs it keeps 7 MiB less mapped, for a seventh of the processor time under full load."""

BLOOM_BITS = 10
"""Bits per key of LevelDB's filters: 1 % false positives, so an absent key rarely costs a disk read."""

WAL_RECORD_BYTES_MAX = MIB
"""Longest vote record: a proof of 50 validators is under 5 kB, a longer length can only be damage."""

WAL_BYTES_MAX = 4 * MIB
"""Size past which the vote log asks to be rewritten; it is read and rewritten whole at start."""

SIDE_SLICE_ITEMS = 1_000
"""Entries of an optional index per batch: a few milliseconds of a worker thread, some 150 kB to LevelDB."""

SIDE_SLICE_BYTES = 256 * 1024
"""Keys and values per batch of an optional index: the lock of all writes is held for about a millisecond."""

SIDE_SLICE_BODY_BYTES = MIB
"""Raw blocks read for one batch of an optional index, so that a slice of small changes ends soon too."""

SIDE_SLICE_BLOCKS = 64
"""Blocks of one batch of an optional index: blocks without transactions cost some 30 us each to read."""
