"""Limits of the contracts: every bound in one place, each with its reason.

Bounds that a chain may choose (orders per slot, participants, budgets) are in the chain file.
"""

MAX_PAYLOAD_BYTES = 65_535
"""Largest payload: what OP_PUSHDATA2 can carry."""

MAX_PAYLOAD_DEPTH = 3
"""Deepest nesting of a payload: a batch is an array of items inside the operation's array."""

MAX_AMOUNT = 2**63 - 1
"""Largest amount that a record holds: coins are signed 64-bit, so nobody can owe more than exists.
Charges and totals stop there; a timer must never fail for want of room."""

MAX_ENERGY_WH = 100_000_000
"""Largest energy of one order, or of one register of one meter in one slot: 100 MWh, 400 MW over a
quarter-hour, is more than a distribution connection carries."""

MAX_SLOT = 2**40
"""Largest slot number read from a payload: its times stay far inside 64 bits."""

ORDER_HORIZON_S = 2 * 86_400
"""How far ahead orders are taken: the day-ahead market plus a day. Bounds the open markets."""

MAX_READINGS_PER_BATCH = 500
"""Most readings in one transaction: at most 124 bytes each, they fill one payload; one batch costs a
worker some 20 ms of signature checks, and the pending batch of one provider cannot fill a block."""

MAX_DEVICES_PER_MEMBER = 16
"""Most meters of one member: settlement looks at each of them for every participant."""

MAX_ORDERS_PER_MEMBER = 16
"""Most live orders of one member for one slot: one member cannot fill the book of a market alone.
The same as the mempool's pending operations per account."""

PAYOUTS_PER_BLOCK = 64
"""Payouts that one coinbase makes: 64 outputs are 9 kB of weight that no leader can avoid."""

MAX_COMMUNITY_CHARS = 64
"""Longest community id: it is part of most keys."""

MAX_ACCOUNT_BYTES = 34
"""Longest scriptPubKey that can act: P2WSH and P2TR. Keys of accounts stay short."""

PARSE_CACHE_BYTES = 2 * 1024 * 1024
"""Payload bytes whose decoded operations are kept, so that admission, signature workers and block
assembly decode a payload once; decoded objects take about five times their bytes."""

DEVICES_DECODED = 16_384
"""Records of meters that are kept decoded, some 600 bytes each: every reading needs that of its meter, slot
after slot, and a registered meter hardly ever changes."""

KEYS_WORTH_A_LOOK = 5
"""Keys that cost the state as much as beginning a scan does: a batch may spread over as many slots as it has
readings."""

OPERATION_UNITS = 1
"""Units of ``op_budget`` that an operation costs; each item of a batch costs as much again."""

GOVERNANCE_UNITS = 50
"""Units of ``op_budget`` that an operation of governance costs: it walks the organisations, and an
application has three signatures to check; half a millisecond each."""

MAX_COMMITTEE = 256
"""Organisations with a vote: far beyond the 31 that a round can employ. A quorum, a name check and an
election walk all of them, and an application lists who approved it."""

MAX_APPROVALS = 50
"""Approvals that any delegate vote can have: one for each seat of the largest validator set."""

USUAL_APPROVALS = 21
"""Approvals of one delegate vote, as in the keyless-signature paper; where the chain file has more seats,
as many as those, or a group with the weight for them could not name whom it wants there."""

MAX_REVEALS = 65_536
"""Longest reveal chain: the owner hashes so often at worst to find its next one, some 30 ms. One reveal per
term lasts a delegate of 21 for months."""

MAX_GENERATION = 2**32 - 1
"""Generations of reveal chains are 32 bits in what a node derives them from."""

MAX_ORGANISATION_NAME_CHARS = 64
"""Longest name of an applicant: what the chain file allows its founders."""

MOTION_LIFETIME_S = 14 * 86_400
"""How long an application or a removal waits for its quorum: time to read an agreement, and an end to
what nobody wants."""

ACTIVITY_STEP_S = 21_600
"""Activity of a meter is noted to six hours: at most four small writes a day for each meter."""

ACTIVITY_STEPS = 8
"""Steps that count, the current one among them: a meter is active if its last accepted reading came in
the last 42 to 48 hours, never later than the two days of CONSENSUS.md, section 2.12."""
