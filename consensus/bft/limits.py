"""The limits of the BFT engine, each with its reason."""

MAX_VALIDATORS = 50
"""Votes are plain signature lists: at 50 a certificate is 2.2 KB and costs 0.84 ms to verify."""

MAX_TERM = 0xFFFF_FFFF
"""A header's 32-bit nonce holds the term of the block's first proposal."""

MAX_HEIGHT = 0xFFFF_FFFF
"""2^32 blocks are 136 years at one per second; the coin format holds 31 bits."""

MAX_ROUND = 0xFFFF_FFFF
"""A round has one block or more, so there are no more rounds than heights."""

FRAME_BYTES = 4
"""The number of the round before every message (u32 LE)."""

MAX_PROPOSAL_TXS = 24_576
"""A block of 4 M weight units holds 16,700 of the smallest transactions; keeps a Propose below 1 MiB."""

MAX_COINBASE_BYTES = 131_072
"""The chain commitment is one push of at most 65,535 bytes; payouts and fees need under 10 KB."""

MAX_BITMAP_BYTES = (MAX_VALIDATORS + 7) // 8
"""One bit per validator."""

MAX_QC_BYTES = 4_096
"""50 signatures, a hash and five small numbers are 3.3 KB."""

MAX_EC_BYTES = 16_384
"""50 votes of about 120 bytes, and one QC."""

MAX_SMALL_BYTES = 512
"""A single vote: two signatures and two hashes at most."""

MAX_REPORT_BYTES = 1_024
"""Three statements about blocks and one grant: 4 x 150 bytes."""

MAX_EVIDENCE_BYTES = 512
"""Two statements, the longer of them 130 bytes, and the numbers of round and validator: below 300."""

MAX_SESSION = 0xFFFF_FFFF
"""32 random bits tell the starts of one validator apart: answers to an older start do not count."""

MAX_REASON_BYTES = 500
"""Why a validator became a learner, in its vote log."""

ASK_GRACE_TICKS = 3
"""How long the remaining peers may take once q - 1 have answered: one of them may be the leader, who alone
saw single votes. Three retransmission periods: an answer that is lost once still comes in time."""

MAX_PROPOSE_BYTES = 32 * MAX_PROPOSAL_TXS + MAX_COINBASE_BYTES + MAX_EC_BYTES + MAX_QC_BYTES + 1_024
"""A full proposal with both of its certificates."""

MAX_BLOCKS = 16
"""Uncommitted blocks known at once: a suffix of two, siblings of lost terms, and what is catching up."""

MAX_CHECKING = 4
"""Blocks whose check was asked for and not answered: the depth of the pipeline, twice."""

MAX_PROPOSED = 4
"""Proposals of the current term kept by height: the pipeline, twice. Up to 1 MiB each."""

MAX_VERIFIED = 128
"""Certificates remembered as verified: retransmissions of the last terms; at most 1 MB with 50 validators."""

MAX_RECENT = 256
"""Committed hashes kept to recognise a conflicting certificate at an older height."""

MAX_SYNC_BLOCKS = 1_000
"""Blocks in one segment of block sync; the shell asks for 30 to 200 at a time."""

MAX_FETCHES = 16
"""Blocks being fetched at once, each asked for again after three retransmission periods."""

MAX_SUFFIX = 2
"""Uncommitted blocks above the committed tip that a vote may extend: the depth of the pipeline."""

MAX_BACKOFF_EXPONENT = 24
"""1.5^24 is 16,834: even a 300 ms patience is over an hour by then, and integers stay small."""
