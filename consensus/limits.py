"""Limits of the consensus package: every bound in one place, each with its reason.

Bounds that a chain may choose (block weight, maximum money) are in the chain file, not here.
"""

MAX_COMPACT_SIZE = 0x02000000
"""Largest length that a CompactSize may announce (Bitcoin Core's MAX_SIZE, serialize.h): an honest
message is smaller, and a decoder must not trust a larger one."""

WITNESS_SCALE = 4
"""Weight units per byte outside the witness (BIP141)."""

MAX_TX_WEIGHT = 400_000
"""Heaviest transaction but a coinbase: Bitcoin Core's standard limit (``bad-txns-oversize``). A legacy
signature hash covers the whole transaction once per input, so work grows with the square of the size:
at this weight 2,400 inputs hash 0.24 GB, at Bitcoin's block size a hundred times that."""

MAX_COINBASE_WEIGHT = 4_000_000
"""Heaviest coinbase: it has no signatures, and that of genesis carries all allocations."""

FORBIDDEN_TX_SIZE = 64
"""Stripped size that no transaction may have: 64 bytes can pass for an inner node of the Merkle
tree, so a light client could be shown a payment that never was (CVE-2017-12842)."""

MIN_COINBASE_SCRIPT = 2
"""Shortest scriptSig of a coinbase (Bitcoin, ``bad-cb-length``)."""

MAX_COINBASE_SCRIPT = 100
"""Longest scriptSig of a coinbase (Bitcoin, ``bad-cb-length``): room for the height and a note."""

MAX_SCRIPT_SIZE = 10_000
"""Longest script that is executed, bytes (Bitcoin). Bounds the work of one evaluation; an output
with a longer script can never be spent."""

MAX_ELEMENT_SIZE = 520
"""Longest stack element, bytes (Bitcoin). Bounds the memory of the stack."""

MAX_OPS_PER_SCRIPT = 201
"""Most operations above OP_16 in a script, counting keys of CHECKMULTISIG (Bitcoin)."""

MAX_STACK_SIZE = 1000
"""Most elements on stack and altstack together (Bitcoin)."""

MAX_PUBKEYS_PER_MULTISIG = 20
"""Most keys of one CHECKMULTISIG (Bitcoin): each may cost one signature check."""

MAX_SCRIPT_NUMBER = 4
"""Most bytes of a number operand (Bitcoin): results may overflow it but not be used again."""

MAX_LOCKTIME_NUMBER = 5
"""Most bytes of the operand of CHECKLOCKTIMEVERIFY and CHECKSEQUENCEVERIFY (BIP65, BIP112): u32
times need five in the signed number format."""

LOCKTIME_THRESHOLD = 500_000_000
"""Lock times below are heights, from here on seconds since 1970 (Bitcoin)."""

MAX_MSGPACK_DEPTH = 8
"""Deepest nesting of a canonical MessagePack value: our deepest message has five levels, and the
decoder recurses."""

MAX_TOML_DEPTH = 8
"""Deepest nesting of a text file of ours: a chain file has five levels from the root to a value, and
what is deeper could not even be printed in a message about it."""

MAX_BASE58_CHARS = 1024
"""Longest Base58 string read: an address has 35 characters, a private key 52 and Bitcoin's longest
test vector 350; decoding is quadratic in the length."""

MAX_BECH32_CHARS = 90
"""Longest bech32 string (BIP173): beyond it the checksum loses its guarantee."""

MAX_WITNESS_PROGRAM = 40
"""Longest witness program, bytes (BIP141)."""

TAPSCRIPT_WEIGHT_PER_CHECK = 50
"""Witness bytes that pay for one signature check of a tapscript, and the free allowance (BIP342)."""

MAX_TAPROOT_DEPTH = 128
"""Deepest leaf of a taproot script tree (BIP341): bounds the control block."""

MAX_TX_SIGOPS_COST = 16_000
"""Largest signature operation cost of a transaction: Bitcoin Core's MAX_STANDARD_TX_SIGOPS_COST, a fifth
of a full block's. At 25,000 checks per second the worst, all in witnesses, take two thirds of a second."""

MAX_PSBT_BYTES = 16 * 1024 * 1024
"""Largest partially signed transaction: in Base64 it fits an RPC request of 32 MiB. A thousand inputs
with previous transactions of 10 kB take 10 MB."""

MAX_HALVINGS = 64
"""Halvings after which a 64-bit subsidy is zero (Bitcoin): bounds the shift."""
