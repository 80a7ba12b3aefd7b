"""The stack machine of Bitcoin Script: one execution of one script.

Every opcode is a short function in ``_HANDLERS``; what differs between legacy, segwit version 0 and
tapscript is asked of ``Machine.version``. Rules and error names are those of Bitcoin Core's
interpreter.cpp.
"""

from collections.abc import Callable

from consensus.hashes import hash160, ripemd160, sha1, sha256, sha256d
from consensus.limits import (
    MAX_ELEMENT_SIZE,
    MAX_LOCKTIME_NUMBER,
    MAX_OPS_PER_SCRIPT,
    MAX_PUBKEYS_PER_MULTISIG,
    MAX_SCRIPT_NUMBER,
    MAX_SCRIPT_SIZE,
    MAX_STACK_SIZE,
    TAPSCRIPT_WEIGHT_PER_CHECK,
)
from consensus.opcodes import DISABLED, Op, TruncatedScript, read_operation
from consensus.script import flags as bits
from consensus.script.checker import Checker, SigVersion, TapContext
from consensus.script.encoding import check_pubkey, check_signature
from consensus.script.flags import ScriptError
from consensus.script.numbers import BadNumber, decode_number, encode_number, is_true
from consensus.script.templates import push, push_data
from consensus.transaction import SEQUENCE_DISABLE_FLAG

_TRUE = b"\x01"
_FALSE = b""
_NEVER = -1

_Binary = Callable[[int, int], int]
_Handler = Callable[["Machine"], None]


class Machine:
    """The state of one execution; ``run`` leaves its result on ``stack``."""

    __slots__ = (
        "altstack",
        "checker",
        "code_start",
        "conditions",
        "first_false",
        "flags",
        "minimal",
        "next_at",
        "op_count",
        "op_position",
        "script",
        "stack",
        "tap",
        "version",
    )

    def __init__(
        self,
        stack: list[bytes],
        script: bytes,
        flags: int,
        checker: Checker,
        version: SigVersion,
        tap: TapContext | None = None,
    ) -> None:
        self.stack = stack
        self.script = script
        self.flags = flags
        self.checker = checker
        self.version = version
        self.tap = tap or TapContext()
        self.altstack: list[bytes] = []
        self.conditions = 0  # how many IFs are open
        self.first_false = _NEVER  # the outermost open IF whose branch is not taken
        self.op_count = 0
        self.op_position = 0
        self.next_at = 0
        self.code_start = 0  # behind the last CODESEPARATOR executed
        self.minimal = bool(flags & bits.MINIMALDATA)

    def run(self) -> None:
        """Execute the whole script. Raises ScriptError."""
        script = self.script
        if self.version < SigVersion.TAPROOT and len(script) > MAX_SCRIPT_SIZE:
            raise ScriptError("SCRIPT_SIZE")
        try:
            while self.next_at < len(script):
                opcode, data, self.next_at = read_operation(script, self.next_at)
                self._step(opcode, data)
                if len(self.stack) + len(self.altstack) > MAX_STACK_SIZE:
                    raise ScriptError("STACK_SIZE")
                self.op_position += 1
        except TruncatedScript:
            raise ScriptError("BAD_OPCODE") from None
        except BadNumber:
            raise ScriptError("SCRIPTNUM") from None
        if self.conditions:
            raise ScriptError("UNBALANCED_CONDITIONAL")

    def _step(self, opcode: int, data: bytes | None) -> None:
        executing = self.first_false == _NEVER
        if data is not None:
            if len(data) > MAX_ELEMENT_SIZE:
                raise ScriptError("PUSH_SIZE")
            if executing:
                self._push_checked(opcode, data)
            return
        if opcode > Op.OP_16 and self.version < SigVersion.TAPROOT:
            self.count_operations(1)
        if opcode in DISABLED:
            raise ScriptError("DISABLED_OPCODE")
        if (
            opcode == _CODESEPARATOR
            and self.version == SigVersion.BASE
            and self.flags & bits.CONST_SCRIPTCODE
        ):
            raise ScriptError("OP_CODESEPARATOR")
        if executing or _IF <= opcode <= _ENDIF:
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise ScriptError("BAD_OPCODE")
            handler(self)

    def _push_checked(self, opcode: int, data: bytes) -> None:
        if self.minimal:
            shortest = push(data)
            if shortest[0] != opcode:
                raise ScriptError("MINIMALDATA")
        self.stack.append(data)

    def count_operations(self, count: int) -> None:
        """Count operations against the limit. Raises ScriptError ``OP_COUNT``."""
        self.op_count += count
        if self.op_count > MAX_OPS_PER_SCRIPT:
            raise ScriptError("OP_COUNT")

    def need(self, count: int) -> None:
        """Check that the stack holds ``count`` elements. Raises ScriptError ``INVALID_STACK_OPERATION``."""
        if len(self.stack) < count:
            raise ScriptError("INVALID_STACK_OPERATION")

    def number(self, depth: int, max_size: int = MAX_SCRIPT_NUMBER) -> int:
        """Return the number ``depth`` elements down from the top (1 is the top)."""
        return decode_number(self.stack[-depth], minimal=self.minimal, max_size=max_size)

    def push_bool(self, value: bool) -> None:
        """Push a truth value."""
        self.stack.append(_TRUE if value else _FALSE)

    def script_code(self) -> bytes:
        """The part of the script that signatures cover: all behind the last CODESEPARATOR."""
        return self.script[self.code_start :]

    def enter_branch(self, taken: bool) -> None:
        """Open a conditional."""
        if self.first_false == _NEVER and not taken:
            self.first_false = self.conditions
        self.conditions += 1

    def toggle_branch(self) -> None:
        """Switch the innermost conditional to its other branch."""
        innermost = self.conditions - 1
        if self.first_false == _NEVER:
            self.first_false = innermost
        elif self.first_false == innermost:
            self.first_false = _NEVER

    def leave_branch(self) -> None:
        """Close the innermost conditional."""
        self.conditions -= 1
        if self.first_false == self.conditions:
            self.first_false = _NEVER


_CODESEPARATOR = int(Op.OP_CODESEPARATOR)
_IF = int(Op.OP_IF)
_ENDIF = int(Op.OP_ENDIF)


# Flow control


def _nop(machine: Machine) -> None:
    pass


def _upgradable_nop(machine: Machine) -> None:
    if machine.flags & bits.DISCOURAGE_UPGRADABLE_NOPS:
        raise ScriptError("DISCOURAGE_UPGRADABLE_NOPS")


def _conditional(inverted: bool) -> _Handler:
    def handler(machine: Machine) -> None:
        taken = False
        if machine.first_false == _NEVER:
            machine.need(1)
            value = machine.stack[-1]
            if value not in (_FALSE, _TRUE):
                _check_minimal_if(machine)
            taken = is_true(value) != inverted
            machine.stack.pop()
        machine.enter_branch(taken)

    return handler


def _check_minimal_if(machine: Machine) -> None:
    if machine.version == SigVersion.TAPSCRIPT:
        raise ScriptError("TAPSCRIPT_MINIMALIF")
    if machine.version == SigVersion.WITNESS_V0 and machine.flags & bits.MINIMALIF:
        raise ScriptError("MINIMALIF")


def _else(machine: Machine) -> None:
    if not machine.conditions:
        raise ScriptError("UNBALANCED_CONDITIONAL")
    machine.toggle_branch()


def _endif(machine: Machine) -> None:
    if not machine.conditions:
        raise ScriptError("UNBALANCED_CONDITIONAL")
    machine.leave_branch()


def _verify_as(error: str) -> _Handler:
    def handler(machine: Machine) -> None:
        machine.need(1)
        if not is_true(machine.stack[-1]):
            raise ScriptError(error)
        machine.stack.pop()

    return handler


def _then(first: _Handler, second: _Handler) -> _Handler:
    def handler(machine: Machine) -> None:
        first(machine)
        second(machine)

    return handler


def _return(machine: Machine) -> None:
    raise ScriptError("OP_RETURN")


def _check_lock_time(machine: Machine) -> None:
    if not machine.flags & bits.CHECKLOCKTIMEVERIFY:
        return
    machine.need(1)
    lock_time = machine.number(1, MAX_LOCKTIME_NUMBER)
    if lock_time < 0:
        raise ScriptError("NEGATIVE_LOCKTIME")
    if not machine.checker.check_lock_time(lock_time):
        raise ScriptError("UNSATISFIED_LOCKTIME")


def _check_sequence(machine: Machine) -> None:
    if not machine.flags & bits.CHECKSEQUENCEVERIFY:
        return
    machine.need(1)
    sequence = machine.number(1, MAX_LOCKTIME_NUMBER)
    if sequence < 0:
        raise ScriptError("NEGATIVE_LOCKTIME")
    if not sequence & SEQUENCE_DISABLE_FLAG and not machine.checker.check_sequence(sequence):
        raise ScriptError("UNSATISFIED_LOCKTIME")


# Stack


def _constant(value: int) -> _Handler:
    encoded = encode_number(value)
    return lambda machine: machine.stack.append(encoded)


def _to_altstack(machine: Machine) -> None:
    machine.need(1)
    machine.altstack.append(machine.stack.pop())


def _from_altstack(machine: Machine) -> None:
    if not machine.altstack:
        raise ScriptError("INVALID_ALTSTACK_OPERATION")
    machine.stack.append(machine.altstack.pop())


def _rearrange(count: int, order: tuple[int, ...]) -> _Handler:
    """Replace the top ``count`` elements by those at ``order``, 0 being the deepest of them."""

    def handler(machine: Machine) -> None:
        machine.need(count)
        taken = machine.stack[-count:]
        machine.stack[-count:] = [taken[at] for at in order]

    return handler


def _if_dup(machine: Machine) -> None:
    machine.need(1)
    if is_true(machine.stack[-1]):
        machine.stack.append(machine.stack[-1])


def _depth(machine: Machine) -> None:
    machine.stack.append(encode_number(len(machine.stack)))


def _pick_or_roll(remove: bool) -> _Handler:
    def handler(machine: Machine) -> None:
        machine.need(2)
        depth = machine.number(1)
        machine.stack.pop()
        if not 0 <= depth < len(machine.stack):
            raise ScriptError("INVALID_STACK_OPERATION")
        at = len(machine.stack) - 1 - depth
        machine.stack.append(machine.stack.pop(at) if remove else machine.stack[at])

    return handler


def _size(machine: Machine) -> None:
    machine.need(1)
    machine.stack.append(encode_number(len(machine.stack[-1])))


def _equal(machine: Machine) -> None:
    machine.need(2)
    second, first = machine.stack.pop(), machine.stack.pop()
    machine.push_bool(first == second)


# Numbers


def _unary(operation: Callable[[int], int]) -> _Handler:
    def handler(machine: Machine) -> None:
        machine.need(1)
        result = operation(machine.number(1))
        machine.stack[-1] = encode_number(result)

    return handler


def _binary(operation: _Binary) -> _Handler:
    def handler(machine: Machine) -> None:
        machine.need(2)
        result = operation(machine.number(2), machine.number(1))
        machine.stack[-2:] = [encode_number(result)]

    return handler


def _within(machine: Machine) -> None:
    machine.need(3)
    value, low, high = machine.number(3), machine.number(2), machine.number(1)
    machine.stack[-3:] = [_TRUE if low <= value < high else _FALSE]


# Cryptography


def _hash(function: Callable[[bytes], bytes]) -> _Handler:
    def handler(machine: Machine) -> None:
        machine.need(1)
        machine.stack[-1] = function(machine.stack[-1])

    return handler


def _code_separator(machine: Machine) -> None:
    machine.code_start = machine.next_at
    machine.tap.code_separator = machine.op_position


def find_and_delete(script: bytes, pattern: bytes) -> tuple[bytes, bool]:
    """Remove ``pattern`` wherever an operation begins with it; return the rest, and whether it was found."""
    if pattern not in script:
        return script, False
    kept = []
    at = copied = 0
    try:
        while True:
            kept.append(script[copied:at])
            while script.startswith(pattern, at):
                at += len(pattern)
            copied = at
            if at == len(script):
                break
            at = read_operation(script, at)[2]
    except TruncatedScript:
        kept.append(script[copied:])
    cleaned = b"".join(kept)
    return cleaned, len(cleaned) != len(script)


def _code_without(machine: Machine, signatures: list[bytes]) -> bytes:
    """Return the script code, before segwit without the signatures that it may hold itself."""
    code = machine.script_code()
    if machine.version == SigVersion.BASE:
        for signature in signatures:
            code, found = find_and_delete(code, push_data(signature))
            if found and machine.flags & bits.CONST_SCRIPTCODE:
                raise ScriptError("SIG_FINDANDDELETE")
    return code


def _ecdsa_holds(machine: Machine, signature: bytes, pubkey: bytes, code: bytes) -> bool:
    check_signature(signature, machine.flags)
    check_pubkey(pubkey, machine.flags, witness_v0=machine.version == SigVersion.WITNESS_V0)
    return machine.checker.check_ecdsa(signature, pubkey, code, machine.version)


def _signature_holds(machine: Machine, signature: bytes, pubkey: bytes) -> bool:
    if machine.version == SigVersion.TAPSCRIPT:
        return _tapscript_signature_holds(machine, signature, pubkey)
    code = _code_without(machine, [signature])
    valid = _ecdsa_holds(machine, signature, pubkey, code)
    if not valid and signature and machine.flags & bits.NULLFAIL:
        raise ScriptError("NULLFAIL")
    return valid


def _tapscript_signature_holds(machine: Machine, signature: bytes, pubkey: bytes) -> bool:
    """Apply the signature opcode rules of BIP342: only an empty signature may fail without error."""
    if signature:
        machine.tap.weight_left -= TAPSCRIPT_WEIGHT_PER_CHECK
        if machine.tap.weight_left < 0:
            raise ScriptError("TAPSCRIPT_VALIDATION_WEIGHT")
    if not pubkey:
        raise ScriptError("TAPSCRIPT_EMPTY_PUBKEY")
    if len(pubkey) == 32:
        if signature:
            machine.checker.check_schnorr(signature, pubkey, machine.tap)
    elif machine.flags & bits.DISCOURAGE_UPGRADABLE_PUBKEYTYPE:
        raise ScriptError("DISCOURAGE_UPGRADABLE_PUBKEYTYPE")
    return bool(signature)


def _check_signature(machine: Machine) -> None:
    machine.need(2)
    valid = _signature_holds(machine, machine.stack[-2], machine.stack[-1])
    machine.stack[-2:] = [_TRUE if valid else _FALSE]


def _check_signature_add(machine: Machine) -> None:
    if machine.version != SigVersion.TAPSCRIPT:
        raise ScriptError("BAD_OPCODE")
    machine.need(3)
    count = machine.number(2)
    valid = _signature_holds(machine, machine.stack[-3], machine.stack[-1])
    machine.stack[-3:] = [encode_number(count + valid)]


def _check_multisig(machine: Machine) -> None:
    """``dummy [signature ...] m [key ...] n`` becomes whether m of the n keys signed, in their order."""
    if machine.version == SigVersion.TAPSCRIPT:
        raise ScriptError("TAPSCRIPT_CHECKMULTISIG")
    stack = machine.stack
    machine.need(1)
    n_keys = machine.number(1)
    if not 0 <= n_keys <= MAX_PUBKEYS_PER_MULTISIG:
        raise ScriptError("PUBKEY_COUNT")
    machine.count_operations(n_keys)
    machine.need(n_keys + 2)
    n_signatures = machine.number(n_keys + 2)
    if not 0 <= n_signatures <= n_keys:
        raise ScriptError("SIG_COUNT")
    used = n_keys + n_signatures + 2
    machine.need(used)
    pubkeys = stack[-2 : -2 - n_keys : -1]
    signatures = stack[-3 - n_keys : -3 - n_keys - n_signatures : -1]
    success = _match_signatures(machine, signatures, pubkeys)
    if not success and machine.flags & bits.NULLFAIL and any(signatures):
        raise ScriptError("NULLFAIL")
    machine.need(used + 1)  # one element more than it uses is taken, a bug that became a rule
    if machine.flags & bits.NULLDUMMY and stack[-used - 1]:
        raise ScriptError("SIG_NULLDUMMY")
    stack[-used - 1 :] = [_TRUE if success else _FALSE]


def _match_signatures(machine: Machine, signatures: list[bytes], pubkeys: list[bytes]) -> bool:
    """Whether every signature holds under some key, keys and signatures being in the same order."""
    code = _code_without(machine, signatures)
    matched = 0
    for at, pubkey in enumerate(pubkeys):
        if len(signatures) - matched > len(pubkeys) - at:
            return False
        if matched == len(signatures):
            return True
        matched += _ecdsa_holds(machine, signatures[matched], pubkey, code)
    return matched == len(signatures)


_verify = _verify_as("VERIFY")
_num_equal = _binary(lambda a, b: a == b)

_HANDLERS: dict[int, _Handler] = {
    Op.OP_1NEGATE: _constant(-1),
    **{Op.OP_1 + value - 1: _constant(value) for value in range(1, 17)},
    Op.OP_NOP: _nop,
    Op.OP_IF: _conditional(inverted=False),
    Op.OP_NOTIF: _conditional(inverted=True),
    Op.OP_ELSE: _else,
    Op.OP_ENDIF: _endif,
    Op.OP_VERIFY: _verify,
    Op.OP_RETURN: _return,
    Op.OP_TOALTSTACK: _to_altstack,
    Op.OP_FROMALTSTACK: _from_altstack,
    Op.OP_2DROP: _rearrange(2, ()),
    Op.OP_2DUP: _rearrange(2, (0, 1, 0, 1)),
    Op.OP_3DUP: _rearrange(3, (0, 1, 2, 0, 1, 2)),
    Op.OP_2OVER: _rearrange(4, (0, 1, 2, 3, 0, 1)),
    Op.OP_2ROT: _rearrange(6, (2, 3, 4, 5, 0, 1)),
    Op.OP_2SWAP: _rearrange(4, (2, 3, 0, 1)),
    Op.OP_IFDUP: _if_dup,
    Op.OP_DEPTH: _depth,
    Op.OP_DROP: _rearrange(1, ()),
    Op.OP_DUP: _rearrange(1, (0, 0)),
    Op.OP_NIP: _rearrange(2, (1,)),
    Op.OP_OVER: _rearrange(2, (0, 1, 0)),
    Op.OP_PICK: _pick_or_roll(remove=False),
    Op.OP_ROLL: _pick_or_roll(remove=True),
    Op.OP_ROT: _rearrange(3, (1, 2, 0)),
    Op.OP_SWAP: _rearrange(2, (1, 0)),
    Op.OP_TUCK: _rearrange(2, (1, 0, 1)),
    Op.OP_SIZE: _size,
    Op.OP_EQUAL: _equal,
    Op.OP_EQUALVERIFY: _then(_equal, _verify_as("EQUALVERIFY")),
    Op.OP_1ADD: _unary(lambda a: a + 1),
    Op.OP_1SUB: _unary(lambda a: a - 1),
    Op.OP_NEGATE: _unary(lambda a: -a),
    Op.OP_ABS: _unary(abs),
    Op.OP_NOT: _unary(lambda a: a == 0),
    Op.OP_0NOTEQUAL: _unary(lambda a: a != 0),
    Op.OP_ADD: _binary(lambda a, b: a + b),
    Op.OP_SUB: _binary(lambda a, b: a - b),
    Op.OP_BOOLAND: _binary(lambda a, b: a != 0 and b != 0),
    Op.OP_BOOLOR: _binary(lambda a, b: a != 0 or b != 0),
    Op.OP_NUMEQUAL: _num_equal,
    Op.OP_NUMEQUALVERIFY: _then(_num_equal, _verify_as("NUMEQUALVERIFY")),
    Op.OP_NUMNOTEQUAL: _binary(lambda a, b: a != b),
    Op.OP_LESSTHAN: _binary(lambda a, b: a < b),
    Op.OP_GREATERTHAN: _binary(lambda a, b: a > b),
    Op.OP_LESSTHANOREQUAL: _binary(lambda a, b: a <= b),
    Op.OP_GREATERTHANOREQUAL: _binary(lambda a, b: a >= b),
    Op.OP_MIN: _binary(min),
    Op.OP_MAX: _binary(max),
    Op.OP_WITHIN: _within,
    Op.OP_RIPEMD160: _hash(ripemd160),
    Op.OP_SHA1: _hash(sha1),
    Op.OP_SHA256: _hash(sha256),
    Op.OP_HASH160: _hash(hash160),
    Op.OP_HASH256: _hash(sha256d),
    Op.OP_CODESEPARATOR: _code_separator,
    Op.OP_CHECKSIG: _check_signature,
    Op.OP_CHECKSIGVERIFY: _then(_check_signature, _verify_as("CHECKSIGVERIFY")),
    Op.OP_CHECKMULTISIG: _check_multisig,
    Op.OP_CHECKMULTISIGVERIFY: _then(_check_multisig, _verify_as("CHECKMULTISIGVERIFY")),
    Op.OP_CHECKLOCKTIMEVERIFY: _check_lock_time,
    Op.OP_CHECKSEQUENCEVERIFY: _check_sequence,
    Op.OP_CHECKSIGADD: _check_signature_add,
    Op.OP_NOP1: _upgradable_nop,
    **dict.fromkeys(range(Op.OP_NOP4, Op.OP_NOP10 + 1), _upgradable_nop),
}
"""What each opcode does; one that is missing is BAD_OPCODE where it is executed."""
