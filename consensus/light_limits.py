"""The limits of light clients, each with its reason."""

MAX_LINKS = 2
"""Headers between a block and the one whose certificate covers it: the uncommitted suffix."""

MAX_BRANCH = 17
"""Hashes of a Merkle branch: 131,072 transactions, eight times what fits a block."""

MAX_HISTORY_PATH = 32
"""Hashes of an audit path over headers: heights have 32 bits."""

MAX_ROUND_STEPS = 4_000
"""Changes of the set in one proof: eleven years of a round a day; a client that was away longer is given
its trust anew."""

MAX_PROOF_BYTES = 16 << 20
"""Largest proof: so many steps of 50 validators, and the largest transaction. A usual one has 2 kB."""

MERKLE_NODE_BYTES = 64
"""What an inner node of Bitcoin's Merkle tree is the hash of; a transaction of this size could be one."""
