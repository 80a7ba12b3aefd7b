"""Script verification flags, named as in Bitcoin Core's script tests, and the error of a script."""

from typing import Final

from consensus.errors import RuleError

P2SH: Final = 1 << 0
STRICTENC: Final = 1 << 1
DERSIG: Final = 1 << 2
LOW_S: Final = 1 << 3
NULLDUMMY: Final = 1 << 4
SIGPUSHONLY: Final = 1 << 5
MINIMALDATA: Final = 1 << 6
DISCOURAGE_UPGRADABLE_NOPS: Final = 1 << 7
CLEANSTACK: Final = 1 << 8
CHECKLOCKTIMEVERIFY: Final = 1 << 9
CHECKSEQUENCEVERIFY: Final = 1 << 10
WITNESS: Final = 1 << 11
DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM: Final = 1 << 12
MINIMALIF: Final = 1 << 13
NULLFAIL: Final = 1 << 14
WITNESS_PUBKEYTYPE: Final = 1 << 15
CONST_SCRIPTCODE: Final = 1 << 16
TAPROOT: Final = 1 << 17
DISCOURAGE_UPGRADABLE_TAPROOT_VERSION: Final = 1 << 18
DISCOURAGE_OP_SUCCESS: Final = 1 << 19
DISCOURAGE_UPGRADABLE_PUBKEYTYPE: Final = 1 << 20

FLAGS: Final = {
    "P2SH": P2SH,
    "STRICTENC": STRICTENC,
    "DERSIG": DERSIG,
    "LOW_S": LOW_S,
    "NULLDUMMY": NULLDUMMY,
    "SIGPUSHONLY": SIGPUSHONLY,
    "MINIMALDATA": MINIMALDATA,
    "DISCOURAGE_UPGRADABLE_NOPS": DISCOURAGE_UPGRADABLE_NOPS,
    "CLEANSTACK": CLEANSTACK,
    "CHECKLOCKTIMEVERIFY": CHECKLOCKTIMEVERIFY,
    "CHECKSEQUENCEVERIFY": CHECKSEQUENCEVERIFY,
    "WITNESS": WITNESS,
    "DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM": DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM,
    "MINIMALIF": MINIMALIF,
    "NULLFAIL": NULLFAIL,
    "WITNESS_PUBKEYTYPE": WITNESS_PUBKEYTYPE,
    "CONST_SCRIPTCODE": CONST_SCRIPTCODE,
    "TAPROOT": TAPROOT,
    "DISCOURAGE_UPGRADABLE_TAPROOT_VERSION": DISCOURAGE_UPGRADABLE_TAPROOT_VERSION,
    "DISCOURAGE_OP_SUCCESS": DISCOURAGE_OP_SUCCESS,
    "DISCOURAGE_UPGRADABLE_PUBKEYTYPE": DISCOURAGE_UPGRADABLE_PUBKEYTYPE,
}

CONSENSUS_FLAGS: Final = sum(FLAGS.values())
"""What our chains enforce from height 0: every standardness flag of Bitcoin Core is a rule here, and
so is the policy that a scriptSig only pushes. What Core relays is valid here, and nothing is left
that a third party could malleate or that a later rule change could turn from valid to invalid."""


def flags_from_names(text: str) -> int:
    """Return the flags of a comma-separated list as in script_tests.json. Raises KeyError."""
    value = 0
    for name in text.split(","):
        if name not in ("", "NONE"):
            value |= FLAGS[name]
    return value


class ScriptError(RuleError):
    """A script that fails; ``name`` is Bitcoin Core's error name, such as ``EVAL_FALSE``."""

    def __init__(self, name: str) -> None:
        super().__init__("mandatory-script-verify-flag-failed", name)
        self.name = name
