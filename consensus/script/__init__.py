"""Bitcoin Script: flags, templates, the stack machine and the verification of inputs.

``verify_script`` judges one input, ``verify_transaction`` all of them; both raise ScriptError with
Bitcoin Core's error name.
"""

from consensus.script.checker import Checker, SigVersion, TapContext, TransactionChecker
from consensus.script.flags import CONSENSUS_FLAGS, FLAGS, ScriptError, flags_from_names
from consensus.script.verify import tapbranch_hash, tapleaf_hash, verify_script, verify_transaction

__all__ = [
    "CONSENSUS_FLAGS",
    "FLAGS",
    "Checker",
    "ScriptError",
    "SigVersion",
    "TapContext",
    "TransactionChecker",
    "flags_from_names",
    "tapbranch_hash",
    "tapleaf_hash",
    "verify_script",
    "verify_transaction",
]
