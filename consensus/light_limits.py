"""The limits of light clients, each with its reason."""

MAX_LINKS = 2
"""Headers between a block and the one whose certificate covers it: the uncommitted suffix."""

MAX_BRANCH = 17
"""Hashes of a Merkle branch: 131,072 transactions, eight times what fits a block."""

MAX_HISTORY_PATH = 32
"""Hashes of an audit path over headers: heights have 32 bits."""

MAX_ROUND_STEPS = 128
"""Steps between rounds in one proof or page: with 21 validators 0.3 MB and 1,800 signatures, a second of a
Raspberry Pi. Whoever is further behind fetches the steps in pages."""

STEP_PAGE_BYTES = 1 << 20
"""A page ends with the step that takes it past this: coinbases of many payouts make steps larger."""

MAX_PROOF_BYTES = 16 << 20
"""Largest proof or page: the largest transaction, the largest coinbase, and so many steps of 50 validators. A
usual proof has 2 kB."""

MERKLE_NODE_BYTES = 64
"""What an inner node of Bitcoin's Merkle tree is the hash of; a transaction of this size could be one."""
