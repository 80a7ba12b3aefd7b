"""Every limit of the peer-to-peer layer, each with its reason.

Sizes are bytes, durations milliseconds, unless the name says otherwise.
"""

from dataclasses import dataclass

# --- wire ------------------------------------------------------------------------------------------------
MAX_NOISE_BYTES = 65_535
"""A Noise message (Noise specification, section 3); its length fits the u16 before it."""
NOISE_TAG_BYTES = 16
"""Poly1305 tag at the end of every Noise transport message."""
MAX_NOISE_PLAIN_BYTES = MAX_NOISE_BYTES - NOISE_TAG_BYTES
"""65,519: what one Noise message carries."""
MIN_FRAME_BYTES = 2
"""Shortest message: array header and type."""
UNKNOWN_MESSAGE_BYTES = 65_536
"""A type that this version does not know: large enough for small additions, cheap to skip."""

# --- what messages carry ---------------------------------------------------------------------------------
MAX_BLOCK_BYTES = 4_194_304
"""Above the 4,000,000 bytes that the largest block weight of Bitcoin allows."""
MAX_CERTIFICATE_BYTES = 16_384
"""A commit certificate of 50 validators takes 2.2 KB, an election certificate 6 KB; rounded up."""
HEADER_BYTES = 80
"""A block header, as in Bitcoin."""
MAX_HEADERS = 2_000
"""Headers in one message, as in Bitcoin: 164 KB; whoever sends so many has more."""
MAX_LOCATOR_HASHES = 101
"""Hashes in one question for headers, as in Bitcoin Core; they thin out exponentially, so 40 reach far."""
MAX_RELAY_TX_BYTES = 400_000
"""Bitcoin Core's standard weight limit; a larger transaction reaches a block only through its leader."""
MAX_INV_HASHES = 8_192
"""Two seconds of 4,000 transactions/s in one message of 279 KB."""
MAX_BLOCK_HASHES = 16
"""Blocks in one `inv` or `getdata`: each answer is a whole block; ranges are for `getblocks`."""
MAX_TXS_PER_MESSAGE = 8_192
"""No more than one `inv` can announce, so no more than one `getdata` can ask for."""
TX_BATCH_BYTES = 262_144
"""A sender starts another `tx` message beyond this: short enough not to delay what waits behind it."""
MAX_TX_MESSAGE_BYTES = 524_288
"""Room for a full batch or for one transaction of MAX_RELAY_TX_BYTES."""
MAX_GETTXS_HASHES = 20_000
"""A block of 4,000,000 weight holds at most 16,666 transactions of 60 bytes."""
MAX_BLOCKS_PER_REPLY = 200
"""Upper end of what one certificate is worth: more would only delay the first block."""
SYNC_EXTRA_BLOCKS = 2
"""Blocks that a reply may have beyond those asked for: so many may lie between a block and the
descendant whose certificate covers it (the uncommitted suffix)."""
BLOCKS_REPLY_BYTES = 1_048_576
"""The sender of `blocks` stops after the block that crosses this; one block is always sent."""
MAX_BFT_BYTES = 1_048_576
"""A proposal of 16,666 ids (534 KB) with coinbase and certificates, rounded up."""
MAX_USER_AGENT_CHARS = 64
"""Shown to operators; long enough for name, version and platform."""
MAX_CODE_CHARS = 48
"""Longest code that `bye` carries; ours are half of it."""

# --- connection timers -----------------------------------------------------------------------------------
HANDSHAKE_TIMEOUT_MS = 5_000
"""From connect to authenticated hello: two round trips, generous for a Raspberry Pi over a mobile link."""
FRAME_TIMEOUT_MS = 60_000
"""A message that has begun must end: 4 MiB at 70 KB/s. Stops a peer that drips bytes (slow loris)."""
PING_INTERVAL_MS = 10_000
"""How soon a vanished machine is noticed (with the time-out below, 30 s), at 2 small messages."""
PONG_TIMEOUT_MS = 20_000
"""Longer than any pause of an overloaded honest node; waits while a frame is arriving."""
TICK_MS = 250
"""How often the shell lets connections look at their deadlines."""
CONNECT_TIMEOUT_MS = 5_000
"""TCP connect: beyond it the address is as good as dead."""
CLOSE_LINGER_MS = 1_000
"""How long a closing socket may take to deliver its last bytes before it is aborted."""
RETRANSMIT_CAP_MS = 2_000
"""How long TCP may wait before it tries to deliver again. Its own back-off grows to minutes, so that a link
cut for ten seconds stays silent for up to ten more; above any round trip of a link that works."""
TCP_RTO_MAX = (6, 44, RETRANSMIT_CAP_MS)
"""The same as a socket option: IPPROTO_TCP, and TCP_RTO_MAX_MS of Linux 6.15, not named by ``socket``."""

# --- redial ----------------------------------------------------------------------------------------------
REDIAL_FIRST_MS = 250
"""A restarted process is back within a second."""
REDIAL_CAP_MS = 10_000
"""Manual peers are dialled for ever; once in 5 to 10 s costs nothing and finds them soon."""
REDIAL_STABLE_MS = 5_000
"""A connection that lived this long resets the back-off; a flapping one does not."""
REDIAL_POLITE_MS = 150
"""Head start that the higher identity gives the lower one, so that two seldom dial each other at once."""

# --- peers -----------------------------------------------------------------------------------------------
MAX_INBOUND = 32
"""Ready inbound peers beside the pinned ones; each may make us hold one largest unasked message (1 MiB)."""
MAX_PROTECTED = 64
"""Identities with a place of their own though nobody configured them: the 50 validators of the largest round
and its 10 alternates."""
MAX_HANDSHAKING = 32
"""Inbound connections that have not said hello yet; they hold under 1 KB each."""
MAX_HANDSHAKING_PER_ADDRESS = 8
"""So that one address cannot fill the places above. Loopback is exempt."""

# --- queues ----------------------------------------------------------------------------------------------
SEND_URGENT_BYTES = 4_194_304
"""Consensus messages waiting for one peer: 4 largest proposals. Overflow closes the connection."""
SEND_BULK_BYTES = 8_388_608
"""Other messages waiting for one peer: one largest `blocks` and as much again. Overflow drops the message."""
SEND_TOTAL_BYTES = 67_108_864
"""Bulk waiting for all peers together: half of the memory budget of a small node."""
TRANSPORT_HIGH_BYTES = 262_144
"""Bytes given to the operating system's socket ahead of need; what is behind can still be overtaken."""

GOSSIP_RESERVE_BYTES = 524_288
"""Bulk room that gossip leaves free for answers and for its own headers."""

# --- gossip ----------------------------------------------------------------------------------------------
FLUSH_INTERVAL_MS = 20
"""New transactions wait this long for company: 80 in one message at 4,000/s."""
ANNOUNCE_INTERVAL_MS = 60
"""What came from a peer is announced less often: its origin's push should get there first."""
PUSH_MAX_PEERS = 8
"""Up to so many peers a new transaction is pushed whole; beyond, announcing costs less than duplicates."""
PUSH_MAX_TX_BYTES = 4_096
"""A larger transaction is announced: a duplicate of it would cost more than a round trip."""
MAX_OUTBOX_IDS = 50_000
"""Transactions waiting for one peer: 3 s at PACE_TX_RATE; beyond it the oldest quarter is forgotten."""
MAX_WANTED_PER_PEER = 8_192
"""Unknown transactions that one peer's announcements may make us track: one full `inv`, 3 MB."""
MAX_IN_FLIGHT_PER_PEER = 4_096
"""Transactions asked of one peer and not yet here: a second at 4,000/s."""
GETDATA_TIMEOUT_MS = 2_000
"""Then another announcer is asked: above a round trip and a 1 MiB queue at 1 MB/s."""
GETDATA_ROUNDS = 3
"""How often each announcer is asked: a full send queue may have swallowed the question."""
MAX_JUDGING_TXS = 50_000
"""Transactions handed to the node and not yet judged: 12 s at 4,000/s."""
MAX_JUDGING_BYTES = 33_554_432
"""The same in bytes; beyond either, unasked transactions are dropped unread."""
JUDGING_TIMEOUT_MS = 60_000
"""A verdict that never came frees its place: the node lost it in an overload."""
SEEN_IDS = 32_768
"""Ids remembered per generation (of two), so that what was judged is not fetched again for 8 s."""
MAX_SERVING_IDS = 10_000
"""Transactions that one peer has asked for and that still wait for room in its send queue."""

# --- block sync ------------------------------------------------------------------------------------------
SYNC_BLOCKS_PER_REQUEST = 100
"""Between 30 and 200: one certificate per reply, the reply ends early at BLOCKS_REPLY_BYTES."""
SYNC_PARALLEL = 4
"""Replies on the way at once, each from another peer."""
SYNC_BUFFER_BYTES = 16_777_216
"""Replies that wait for their turn; a range that is not next is not asked for beyond it."""
SYNC_WINDOW_BLOCKS = 1_600
"""How far ahead of our tip ranges are asked for: 4 rounds of 4 replies."""
SYNC_TIMEOUT_MS = 10_000
"""Then another peer is asked: a 1 MiB reply at 100 KB/s."""
SYNC_COOLDOWN_MS = 30_000
"""A peer that stalled is not asked again this long, unless there is no other."""
SYNC_GRACE_MS = 500
"""A lag of up to SYNC_GRACE_BLOCKS is normal while consensus runs; asked for only when it lasts."""
SYNC_GRACE_BLOCKS = 2
"""The engine itself votes from its committed tip plus 2."""

# --- misbehaviour ----------------------------------------------------------------------------------------
BAN_SCORE = 100
"""Bitcoin Core's threshold."""
SCORE_DECAY_MS = 10_000
"""One point is forgiven this often, so that rare faults of an honest peer never add up."""
BAN_MS = 600_000
"""Ten minutes: outlasts a nuisance, and does not lock out an organisation for a bug of a day."""
BAN_PINNED_MS = 5_000
"""Pinned peers (validators) are only slowed down: losing them for long would cost us liveness."""
MAX_BANS = 1_000
"""Entries in the ban table; the one that ends soonest makes room."""
MAX_SCORES = 1_000
"""Identities whose score is remembered across connections."""
UNKNOWN_PER_MINUTE = 60
"""Messages of unknown types that are ignored for free."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: ``per_s`` tokens per second, at most ``burst`` of them saved up."""

    per_s: int
    burst: int


RATES: dict[str, Rate] = {
    "control": Rate(20, 100),  # ping, pong, bye: one of each per 10 s is normal
    "status": Rate(50, 200),  # ten blocks/s is normal; a syncing node may exceed it and is not punished
    "gossip": Rate(2_000, 8_000),  # 50 flushes/s times a few messages, and 32 MB/s by their size
    "fetch": Rate(50, 200),  # each makes us read up to 1 MiB of blocks
    "headers": Rate(200, 2_000),  # 200 blocks announced per second, or 35 full answers in a row
    "request": Rate(200, 1_000),  # a proposal's missing transactions, asked for in bursts
    "bft": Rate(1_000, 4_000),  # 50 validators x 2 votes x 10 blocks/s
}
"""Message tokens per second and peer, by class. Answers (class "reply") are limited by what we ask."""

MESSAGE_TOKEN_BYTES = 16_384
"""A message costs one token and one more per so many bytes: a full `inv` costs 18."""

SYNC_ASK_RATE = Rate(40, 100)
"""What block sync asks of one peer: below the "fetch" rate, so that a fast disk never looks like a flood."""

PEER_TX_RATE = Rate(20_000, 80_000)
"""Per second and peer: ids announced, ids asked for, transactions sent (each counted alone). Five times
what we aim at; at 5 us each a tenth of a core. What is beyond is ignored unread."""

PACE_TX_RATE = Rate(16_000, 40_000)
"""What we send ourselves stays below that, so that a burst is spread instead of lost."""
PACE_ID_RATE = Rate(16_000, 4_096)
"""The same for announcements; the burst is half of what a peer tracks (MAX_WANTED_PER_PEER)."""

BYTES_RATE = Rate(134_217_728, 134_217_728)
"""Bytes per second and peer: a gigabit link; more is not punished, only read later."""


FLAT_MESSAGE_BYTES = 512
"""Longest message that is read at once instead of field by field: votes have some 250 bytes. The worst of
this length costs 0.1 ms."""


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """The limits that an operator or a test may set; defaults are the constants of this file."""

    max_inbound: int = MAX_INBOUND
    handshake_timeout_ms: int = HANDSHAKE_TIMEOUT_MS
    ping_interval_ms: int = PING_INTERVAL_MS
    pong_timeout_ms: int = PONG_TIMEOUT_MS
    frame_timeout_ms: int = FRAME_TIMEOUT_MS
    redial_first_ms: int = REDIAL_FIRST_MS
    redial_cap_ms: int = REDIAL_CAP_MS
    send_bulk_bytes: int = SEND_BULK_BYTES
    send_urgent_bytes: int = SEND_URGENT_BYTES
    ban_ms: int = BAN_MS


DEFAULT_LIMITS = NetworkLimits()

SYNC_LIMITED_BLOCKS = 288
"""Blocks below its tip that a pruned node still has, as in Bitcoin Core (BIP159); no pruning takes them."""
