"""The limits of the proof-of-work engine, each with its reason."""

MAX_HEADERS = 2_000
"""Headers of one event: Bitcoin's message of headers, 160 kB."""

KEEP_DEPTH = 10_000
"""Headers of the active chain kept in the tree below the tip, some 4 MB; older ones are flat on disk and
come back by ``Recalled``. At 15 s a block it is 41 hours, far beyond any honest fork."""

PRUNE_STEP = 1_000
"""The tree is cut once per so many blocks, so that the cost of cutting it is spread."""

RECALL_HOLD_S = 600
"""How long recalled headers stay: time for a rival to show the rest of its headers."""

MAX_AHEAD = 20_000
"""Headers ahead of the connected tip: a sync fetches bodies meanwhile, and 10 batches of work unproven
by bodies is all that a header chain may occupy. More is asked for as blocks are connected."""

MAX_TREE = 65_536
"""Headers in the tree: KEEP_DEPTH, MAX_AHEAD, and as much again for rival branches; about 30 MB at worst.
Beyond it the branches with the least work are dropped, never the active or the best one."""

MAX_ORPHANS = 500
"""Headers without known parent: they need proof of work, but at the easiest target of the chain that is
cheap. The remedy for a gap is asking for headers; orphans only save a round trip."""

MAX_ORPHANS_PER_SENDER = 100
"""So that one peer cannot push out those of all others."""

HEADERS_RETRY_S = 30
"""While headers without parent keep coming, somebody else is asked so often: one lost answer must not leave
the node on its own branch."""

MAX_LOCKED = 128
"""Headers kept back until their time comes: all that honest miners with fast clocks produce. Where there
are more, those furthest in the future go, and can be sent again."""

MAX_FETCHING = 64
"""Bodies being fetched at once: 64 full blocks are 256 MB on their way at worst, over all peers."""

FETCH_WINDOW = 512
"""How far above the first missing body of the best headers' chain bodies are fetched: bounds those that wait
for it."""

FETCH_RETRY_S = 30
"""A body asked for so long ago is asked for again, from somebody else."""

STALE_INTERVALS = 20
"""A tip without successor for so many intervals is reported: by chance once in e^20, 485 million blocks."""

INVALID_LEAD_BLOCKS = 6
"""An invalid branch with this many blocks' work more than ours is reported (Bitcoin Core): perhaps we err."""

SWEPT_AT_ONCE = 64
"""Candidates for the tip that are looked through at every block; more of them only every so many blocks."""

MEDIAN_SPAN = 11
"""Header times under the median time past (Bitcoin)."""
