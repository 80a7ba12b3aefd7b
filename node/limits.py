"""Limits of the daemon: every bound in one place, each with its reason."""

SIGNATURE_CACHE_ITEMS = 200_000
"""Witness ids whose signatures are known to hold: about four full mempools of small transactions,
some 20 MB."""

SIGNATURE_PART_TXS = 100
"""A batch is cut into parts of at least so many transactions, some 2.5 ms of work each: waking a thread
and getting the interpreter lock back costs a fraction of that."""

SIGNATURE_INLINE_BYTES = 8_000
"""A block with no more bytes of unchecked transactions is judged at once, on the event loop: some 35
payments, a millisecond or two of work. Every signature takes 64 bytes and more. The same for what native
threads leave of a batch, if its scripts have been judged."""

THREAD_SWITCH_S = 0.001
"""A thread that comes back from a signature batch waits no longer for the busy event loop; Python's 5 ms
are nearly half of what a batch of 500 takes."""

SIGNATURE_THREADS_MAX = 16
"""More threads would wait for the one that feeds them."""

MEMPOOL_MAX_BYTES = 32 * 1024 * 1024
"""Default byte budget of the mempool: a day of readings of 5,000 meters, and small beside the
128 MiB that the node may take on a Raspberry Pi."""

MEMPOOL_MIN_BYTES = 1024 * 1024
"""Smallest configurable mempool: it must hold the largest transaction."""

CACHE_MAX_BYTES = 16 * 1024 * 1024
"""Default budget of the coin cache and LevelDB's block cache: keeps a Pi below 128 MiB."""

CACHE_MIN_BYTES = 1024 * 1024
"""Smallest configurable cache: below it every block reads from disk."""

PRUNE_KEEP_MIN_MB = 256
"""Smallest size of segment files that pruning may be told to keep: whole files of 128 MiB go, and the one
that is written to stays."""

MAX_PEER_ENTRIES = 256
"""Most [[peers]] entries: a consortium has at most 50 validators, with room for followers."""

MINING_MAX_THREADS = 64
"""Most threads of the miner: beyond the machine's cores they only get in each other's way."""

MINING_SLICE_S = 0.02
"""Searching is asked every so often whether it should go on: a new tip ends it that soon, and a thread
takes the interpreter lock fifty times a second for some microseconds."""

MINING_FIRST_SLICE = 4_096
"""Hashes of a thread's first slice: some 10 ms of the slowest kernel; it then grows to MINING_SLICE_S."""

MINING_MAX_SLICE = 1 << 26
"""Hashes of the longest slice: a clock that jumps must not make one that never ends."""

MINING_REFRESH_S = 5.0
"""After so long a template takes in new transactions (Bitcoin Core's getblocktemplate)."""

MINING_RETRY_S = 1.0
"""How often the miner looks whether it can mine again, while it cannot."""

MINING_RATE_WINDOW_S = 30
"""Seconds over which the hash rate is measured: a slice is 20 ms, so it is good to a percent."""

MINING_MAX_BEHIND_BLOCKS = 10
"""With so many headers ahead of the tip the node still catches up, and mining on an old tip is in vain.
Somebody who withholds blocks to stop a miner needs as many proofs of work in a row."""

TEMPLATE_CACHE = 4
"""Templates kept, one per payout script: each holds references to transactions of the mempool, and its
coinbase."""

MAX_LONG_POLLS = 16
"""Calls of getblocktemplate that wait for a change at once: a quarter of RPC_WORK_QUEUE."""

LONG_POLL_S = 10.0
"""A waiting getblocktemplate looks for new transactions every so often; a new tip ends it at once."""

LONG_POLL_MAX_S = 60.0
"""It is answered after so long in any case, with a fresh time."""

MAX_CLOCK_SPEED = 86_400
"""Fastest time-lapse, a day per second: beyond it a block would span more than a trading day."""

MAX_CONFIG_BYTES = 1024 * 1024
"""Largest configuration or key file read: a person wrote it, anything larger is a mistake."""

RPC_MAX_BODY_BYTES = 32 * 1024 * 1024
"""Largest RPC request (Bitcoin Core's MAX_SIZE): a batch of 500 readings' transactions fits."""

RPC_MAX_HEADER_BYTES = 8192
"""Longest HTTP header line or field (Bitcoin Core's MAX_HEADERS_SIZE)."""

RPC_MAX_BATCH = 10_000
"""Most calls in one batch: bounds the memory of the reply, well above what clients send."""

RPC_BATCH_PARALLEL = 1_000
"""Submissions of one batch that wait for their verdict at once: one admission batch."""

RPC_MAX_INFLIGHT_BYTES = 64 * 1024 * 1024
"""Request bodies held at once by all connections: two of the largest."""

RPC_MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Largest reply: a batch stops answering with results beyond it, so that 10,000 calls for a full
block cannot fill the memory. The largest single result, a block as JSON, is below."""

RPC_WORK_QUEUE = 64
"""Most requests under way at once (Bitcoin Core's default); more are refused with 503, so that a
flood of clients costs them time and not our memory."""

RPC_MAX_CONNECTIONS = 256
"""Most open client connections: one file descriptor and some 50 kB each."""

RPC_SERVER_TIMEOUT_S = 30
"""Time for a request to arrive, and for a connection to lie idle (Bitcoin Core's rpcservertimeout)."""

RPC_AUTH_DELAY_S = 0.25
"""Pause before a wrong password is answered (Bitcoin Core): slows down guessing."""

RPC_STOP_GRACE_S = 2.0
"""Time for requests under way to end at stop: the daemon has 5 s in all."""

RPC_YIELD_EVERY = 50
"""Items of a large result shaped before other tasks may run, about 2 ms: a reply must not keep the
engine from its timers."""

RPC_TX_COUNT_CACHE = 4096
"""Blocks whose number of transactions is remembered for getblockheader, 100 bytes each."""

RPC_MAX_TEST_ACCEPT = 25
"""Transactions of one testmempoolaccept, as in Bitcoin Core."""

CLIENT_TIMEOUT_S = 30.0
"""Time in which the RPC client expects an answer: the slowest call walks the coins of a chain."""

LOG_FIELD_CHARS = 1000
"""Longest value of a log field: what a peer sends cannot fill the disk by one line."""

LOOP_LAG_INTERVAL_S = 0.5
"""Period of the event loop's lag probe: cheap, and finds every stall that the engine would notice."""

ENTRY_OVERHEAD_BYTES = 700
"""What a mempool entry costs beside its raw bytes and parts: objects and index slots on CPython 3.11."""

INPUT_OVERHEAD_BYTES = 300
"""What an input costs once it was looked at: prevout, script, index slot. A transaction of many small
parts takes ten times its raw size, so that counting raw bytes would not bound anything."""

OUTPUT_OVERHEAD_BYTES = 150
"""The same for an output, measured: a tuple, a number, a script."""

KNOWN_OUTPUTS_PROBED = 4
"""Outputs looked up to tell "already in the chain" from "inputs missing": a transaction can have 40,000,
and each look is a read from disk that the sender does not pay for."""

MAX_ANCESTORS = 25
MAX_DESCENDANTS = 25
"""Unconfirmed transactions that one depends on, and that depend on it, itself included (Bitcoin Core):
bound what a change of one entry costs, and cascades of eviction."""

MAX_ANCESTOR_VSIZE = 101_000
MAX_DESCENDANT_VSIZE = 101_000
"""Virtual bytes of those (Bitcoin Core): a package always fits a block."""

MAX_REPLACED = 100
"""Transactions that one may replace, with their descendants (BIP125, rule 5)."""

INCREMENTAL_FEE_PER_KVB = 1_000
"""What a replacement must pay more, and an eviction raises the minimum by, on a chain without a minimum
fee (Bitcoin Core's incremental relay fee): else relaying would be free."""

FEE_HALF_LIFE_S = 12 * 3600
"""Chain time in which the minimum fee of a pool that was full halves (Bitcoin Core)."""

FEE_DECAY_STEP_S = 10
"""The minimum fee decays no more often, so that asking for it costs nothing (Bitcoin Core)."""

MEMPOOL_EXPIRY_S = 14 * 86_400
"""Default chain time after which a pending transaction leaves (Bitcoin Core's 336 hours)."""

MEMPOOL_MIN_EXPIRY_S = 60
"""Shortest configurable expiry: some blocks must have a chance."""

MEMPOOL_SAVE_S = 600
"""How often the mempool is written while the node runs (real time): what a kill can lose of the fee
estimates and of what no peer holds."""

MEMPOOL_FILE_EXTRA_BYTES = 64 << 20
"""Bytes that the mempool's file may take beyond the budget of the pool: fee estimates and deltas, and
an operator may have lowered the budget."""

MEMPOOL_RESTORE_TXS = 500
MEMPOOL_RESTORE_BYTES = 4 << 20
"""Saved transactions that are in admission at once: clients and peers find room beside them."""

MAX_REPORTED_CONFLICTS = 1_000
"""Pending transactions whose first double spend is remembered, so that each is reported once and a
sender of many rivals has only one of them checked."""

MAX_PRIORITISED = 1_000
"""Transactions with a fee delta of an operator (prioritisetransaction)."""

MAX_PENDING_PER_ACCOUNT = 16
"""Pending operations of one account: each runs again on every new tip."""

MAX_PENDING_OPERATIONS = 8_192
"""Pending operations of all accounts: at some 40 us they run again on a new tip in a third of a second;
two slots' orders of a large market fit."""

ADMISSION_BATCH_TXS = 1_000
"""Transactions admitted at once: a native call of about 25 ms, so commits never wait longer."""

ADMISSION_BATCH_BYTES = 1 << 20
"""Raw bytes of those, unless one is larger: what runs through the interpreter is slow, and the batch
behind it waits."""

JOB_OVERHEAD_BYTES = 700
"""What a queued transaction costs beside its raw bytes."""

ADMISSION_QUEUE_BYTES = 32 << 20
"""Bytes that wait for admission; a flood beyond it is refused or left to be offered again."""

MAX_ORPHANS = 100
"""Relayed transactions that wait for a parent, as in Bitcoin Core."""

MAX_ORPHANS_PER_PEER = 25
"""Of those, how many one peer may have: four noisy peers cannot push out what others sent."""

MAX_ORPHAN_BYTES = 4 << 20
"""Raw bytes of those."""

ORPHAN_EXPIRY_MS = 20 * 60 * 1000
"""Real time after which an orphan is given up, as in Bitcoin Core."""

MAX_ORPHAN_PARENTS = 24
"""Unknown parents that are asked for per orphan: more ancestors than that would not be taken."""

MAX_PARKED_PROPOSALS = 8
"""Proposals that wait for bodies of their transactions; a newer one pushes the oldest out."""

BODY_RETRY_MS = 150
"""After this a peer that owes transactions or a body is passed over for the next."""

STALL_TIMEOUTS = 8
"""Time-outs (idle interval and T0) without a final block after which a bft chain stands still: /ready turns
red and an alarm is raised. Three leaders in a row that are down cost about six, the patience growing by half
from the second on; more than that is no rotation any more."""

MIN_STALL_MS = 5_000
"""Real time below which nothing counts as a standstill, however short the time-outs of a chain are: a busy
machine or a slow disk pauses for seconds."""

REVEAL_CHECKPOINT_STEP = 256
"""Values of a reveal chain between two that are kept: 256 of them for the longest, and 256 hashes at most for
a reveal."""

MAX_EVIDENCE = 256
"""Contradictions kept, the oldest makes room: five for each of 50 validators."""

MAX_EVIDENCE_BYTES = 128 << 10
"""Size of their file: 256 times two statements of 130 bytes, and as much to spare."""

EVIDENCE_REPEAT_MS = 30_000
"""How often evidence is told again that no block has carried yet: with 50 nodes that tell four pieces each,
seven messages a second for each of them."""

PASSED_OVER_BLOCKS = 20
"""T_tx: blocks of one leader that had room for a transaction and took cheaper ones instead, before this node
gives the leader's term up (CONSENSUS.md, section 2.5)."""

ROOMY_SHARE = (9, 10)
"""A block under this share of weight and of operation budget had room; fuller ones say nothing."""

MAX_WATCHED_TXS = 256
"""Pending transactions watched for being passed over, half of them the best paying, half the oldest: blocks
with room leave few behind, and one that is censored is soon among the oldest."""

MAX_COUNTED_OPERATIONS = 4_096
"""Transactions of a block that are decoded to see whether it had room for a watched operation: some 50 ms.
A longer block counts as busy."""

MAX_JUDGED_TXS = 8
"""Transactions over the limit that are tried on the tip per block; one that executes is enough."""

EVENTS_PER_GROUP = 64
"""Engine events stepped before their records are synced together: one quorum of votes and more."""

MAX_WANTED_BODIES = 16
"""Blocks asked for by hash at once: an unasked one is dropped unread. Those that came and were offered
are held as long as the engine knows them, which holds as many."""

MAX_FETCH_DEPTH = 8
"""Blocks above the tip that are fetched one by one, from the newest down; further behind, block sync is
faster, and the engine's table of blocks could not hold the way down."""

SYNC_TICK_S = 0.1
"""How often block sync looks at its deadlines; they are seconds."""

GC_YOUNG_OBJECTS = 20_000
GC_GENERATIONS = 20
"""Garbage collection looks at young objects each time so many more exist, at all of them every 8 million:
a block's transactions come and go without forming a cycle, so looking more often finds nothing."""

STOP_BUDGET_S = 5.0
"""A stop takes no longer: then tasks that do not end are left and the exit status says so."""

TESTNET_READY_TIMEOUT_S = 30.0
"""Time for a testnet's nodes to become ready: starts of a second each on two busy cores, with room."""

TESTNET_STOP_TIMEOUT_S = 8.0
"""Time for a node to stop on SIGTERM before SIGKILL: its own budget is five."""

TESTNET_POLL_S = 0.05
"""How often a testnet asks whether a node is ready."""

RETURNING_BYTES = 20 << 20
"""Raw bytes of transactions that a reorganisation gives back to the mempool, as in Bitcoin Core; of the
deepest ones those beyond it are left to whoever sent them."""

FRESH_BODIES_BYTES = 16 << 20
"""Parsed blocks kept between their arrival and their turn, in raw bytes; others are read from disk again."""

BODIES_PER_PEER = 16
"""Blocks asked of one peer at once: one `getdata`; so many of the common size fit its send queue."""

BODY_TIMEOUT_MS = 20_000
"""After this another peer is asked for a block: a full one over 2 Mbit/s."""

BODY_REST_MS = 30_000
"""A peer that owed a block, or sent a bad one, is asked only where there is no other for so long."""

BODY_AGAIN_MS = 250
"""A peer whose send queue was full, or that had not the block yet, is asked for it again after this."""

HEADER_SOURCES = 3
"""Peers asked for headers at once when it does not matter whom: one may stall, one may lie."""

POW_TICK_S = 1.0
"""How often the proof-of-work engine looks at its clock: its spans are many seconds."""

STALE_READY_INTERVALS = 20
"""A tip older than so many block intervals turns /ready red on a proof-of-work chain: by chance once in
e^20 blocks."""

STATE_ROOT_SLICE = 256
"""Coins or keys that the background hashes in one go: a millisecond of the interpreter."""

STATE_ROOT_PAUSE_S = 0.001
"""Pause behind each slice: half of the time stays with the node, and a million coins take some 10 s."""

ROLLBACK_BYTES = 16 << 20
"""Former values held while the state of an earlier block is read; what does not fit is read in ranges."""

ROLLBACK_ENTRY_BYTES = 150
"""Overhead charged per former value beside key and value: two bytes objects and a dict slot."""

INDEX_NEAR_BLOCKS = 1
"""An index no farther behind takes each block at once; farther behind, it is being built."""

INDEX_PAUSE = 1.0
"""Pause after a slice of an index that is being built, by the slice's time: half of a core stays free."""

INDEX_WAIT_BLOCKS = 100
"""A query waits for an index that is no farther behind; one that is takes longer than a client waits."""

INDEX_WAIT_S = 2.0
"""Longest wait of a query for the index to take the last block: slices take milliseconds, blocks seconds."""

RPC_MAX_ADDRESSES = 100
"""Addresses of one query: each holds a LevelDB iterator open."""

RPC_ADDRESS_ROWS = 10_000
"""Most rows of an answer by address, some 2 MB of JSON; more are asked for page by page."""

RPC_ADDRESS_SCAN = 500_000
"""Most rows that a balance is summed up from: about 2 s of a thread."""

RPC_DEFAULT_PAGE = 100
"""Entries of a list that has no bound of its own, where the caller names none."""

RPC_MAX_PAGE = 1_000
"""Most entries of such a list in one reply: half a megabyte of applications."""

MAX_RESTART_FILES = 16
"""Restarts of one chain: each is a catastrophe, and each is looked at when the node starts."""

MAX_REPORT_FILE_BYTES = 64 * 1024
"""Report of a survivor before a restart: a certificate of 50 signatures is 3.3 kB."""

HISTORY_SLICE = 500
"""Blocks whose hashes enter a proof by history between two turns of the event loop: some 5 ms."""
