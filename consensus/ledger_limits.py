"""Limits of the ledger rules and of the chain file, each with its reason.

Values that belong to one chain live in the chain file; what stands here bounds them or is the
same for every chain.
"""

BLOCK_VERSION = 0x20000000
"""The only block version: BIP9's top bits and no signal, since rules activate by height."""

COMMITMENT_VERSION = 1
"""First element of the array in the ``WC`` commitment."""

MAX_VALIDATORS = 50
"""A certificate of 34 signatures costs a follower 0.84 ms; the engine was simulated up to 50."""

MIN_VALIDATORS = 4
"""A smaller set tolerates no fault; where an election gives fewer, the old set goes on."""

MAX_DELEGATES = 21
"""Delegates of a round where there are more providers: the keyless-signature paper's number, f = 6."""

MAX_ALTERNATES = 10
"""Alternates of a round, the paper's bound: more than f, so that a substitution point finds enough."""

MAX_RESTART_BYTES = 64 * 1024
"""Largest restart file: 50 members with entries and signatures and a certificate take 27 kB."""

MAX_RESTART_DISMISSED = 100
"""Organisations that one restart dismisses: twice a whole set."""

MAX_RESTART_REASON_CHARS = 500
"""Why a consortium was restarted, in one line."""

FAILED_LEADS = 3
"""Terms that a delegate may let pass as first candidate, less one: two are bad luck with a slow network."""

MEDIAN_TIME_SPAN = 11
"""Header times that the tip carries: Bitcoin's window of median time past, and more than the two
blocks that may lie uncommitted, so that older times are those of committed blocks on every node."""

MAX_PAYLOAD_BYTES = 65_535
"""Largest contract payload: what OP_PUSHDATA2 can carry."""

MIN_BLOCK_WEIGHT = 200_000
"""A block must hold its coinbase with 64 payouts and one payload of full size with room to spare."""

MAX_BLOCK_WEIGHT = 4_000_000
"""Bitcoin's (BIP141), so at most 4,000,000 raw bytes and 16,666 transactions: what messages between
peers and proposals hold, and what a follower fetches and checks within the engine's patience."""

MAX_MONEY_LIMIT = 2**53 - 1
"""Largest amount that every JSON client reads exactly; sums stay far inside 64 bits."""

MAX_CHAIN_FILE_CHARS = 4 * 1024 * 1024
"""A chain file of 50 validators and 10,000 allocations is about 1.5 MB."""

MAX_ALLOCATIONS = 10_000
"""Genesis outputs; more would make the genesis block larger than other blocks may be."""

MAX_COMMUNITIES = 1_000
"""Communities of one chain file; each is one market that timers visit every slot."""

MAX_NAME_CHARS = 64
"""Names are shown in tables and logs on one line."""

MAX_TIME_S = 2**32 - 1
"""Header time is an unsigned 32-bit number of seconds."""

MAX_BUDGET_UNITS = 1_000_000
"""Contract work per block; a unit takes about 10 us, and a block must fit the engine's patience."""

MAX_TIMER_MS = 600_000
"""Engine timers beyond ten minutes stop a chain for hours when one leader fails."""

DAY_S = 86_400
"""Bills are per day, so slots divide it."""

MAX_UTC_OFFSET_S = 14 * 3_600
"""Civil time zones lie within 14 hours of UTC."""

MAX_POSTPONED_IN_ROW = 100
"""A leader stops looking for a transaction that still fits after so many that did not in a row."""

CANDIDATES_PER_PREFETCH = 1_000
"""Candidates whose coins a leader asks for at once: about one block, 36 kB of prevouts."""

MAX_BLOCK_SIGOPS_COST = 80_000
"""Largest signature operation cost of a block of MAX_BLOCK_WEIGHT (Bitcoin Core's, BIP141); smaller
blocks in proportion, one per 50 weight units."""

MIN_BLOCK_SIGOPS_COST = 20_000
"""What a block of any weight may cost: the costliest transaction beside a coinbase with 64 payouts."""

POW_COINBASE_MATURITY = 100
"""Default maturity of coinbase outputs where blocks can be reorganised away (Bitcoin's). Blocks of a bft
chain are final: 0."""

MAX_COINBASE_MATURITY = 65_535
"""Most blocks that a coinbase output may have to wait: beyond Bitcoin's 100 by any measure."""

MIN_SNAPSHOT_INTERVAL = 4
"""Fewest blocks between two state roots: more than may lie uncommitted, so that the state that a block
commits to is that of a committed block."""

MAX_SNAPSHOT_INTERVAL = 1_000_000
"""Most blocks between two state roots: three days of blocks of the fastest chain, a year of slow ones.
Whoever starts from a snapshot executes up to twice as many."""

HALF_LIFE_SPACINGS = 96
"""Default half-life of ASERT in block intervals: measured, CONSENSUS.md, section 6.2."""

FUTURE_SPACINGS = 10
"""Default future limit in block intervals: a block stamped so far ahead makes the next 7.5 % easier."""

MAX_SPACING_S = 86_400
"""Longest block interval: contracts count in slots of a day at most."""

MAX_HALF_LIFE_S = 366 * DAY_S
"""Longest half-life of difficulty: one slower than a year does not follow at all."""

MAX_FUTURE_S = 7_200
"""Longest future limit: Bitcoin's two hours, which suit its two weeks of averaging."""

MAX_ORGANISATIONS = 1_000
"""Organisations that the chain file of a pow chain names: one per community, and as many providers."""

MAX_CHECKPOINTS = 1_000
"""Checkpoints of one chain file: each is looked at for every header."""

MAX_EVIDENCE_PER_BLOCK = 4
"""Evidence that one block carries: each costs two signature checks, and there are at most f offenders."""

EVIDENCE_EPOCHS = 2
"""Evidence is taken for rounds of so many epochs before the present one (CONSENSUS.md, section 2.13)."""

BARRED_EPOCHS = 8
"""Epochs for which an offender is no candidate and its ballot has half the weight (section 2.13)."""
