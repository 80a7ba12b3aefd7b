"""Partially signed transactions as Bitcoin Core's RPC shows them."""

from typing import Any

from consensus.base58 import encode_check
from consensus.codec import Reader
from consensus.errors import RuleError
from consensus.params import AddressPrefixes
from consensus.psbt import GlobalType, InputType, OutputType, Psbt, Section, spent_outputs
from consensus.psbt.fields import (
    GLOBAL_FORMS,
    INPUT_FORMS,
    OUTPUT_FORMS,
    Form,
    read_output,
    read_witness,
)
from consensus.psbt.format import key_type
from consensus.script import templates
from consensus.transaction import Transaction
from node.rpc.encoding import coins
from node.rpc.scripts import HASH_TYPES, script_asm, script_shape
from node.rpc.shapes import transaction_shape

_HARDENED = 1 << 31
_PREIMAGES = (
    ("ripemd160_preimages", InputType.RIPEMD160),
    ("sha256_preimages", InputType.SHA256),
    ("hash160_preimages", InputType.HASH160),
    ("hash256_preimages", InputType.HASH256),
)
_Forms = dict[int, Form]


def psbt_shape(psbt: Psbt, prefixes: AddressPrefixes) -> dict[str, Any]:
    """Return what ``decodepsbt`` says."""
    shape: dict[str, Any] = {
        "tx": transaction_shape(psbt.tx, prefixes),
        "global_xpubs": [
            {"xpub": encode_check(xpub), **_origin(value)}
            for xpub, value in psbt.globals.of_type(GlobalType.XPUB)
        ],
        "psbt_version": 0,
        "proprietary": _proprietary(psbt.globals, GlobalType.PROPRIETARY),
        "unknown": _unknown(psbt.globals, dict(GLOBAL_FORMS)),
        "inputs": [_input_shape(section, prefixes) for section in psbt.inputs],
        "outputs": [_output_shape(section) for section in psbt.outputs],
    }
    fee = fee_of(psbt)
    if fee is not None:
        shape["fee"] = coins(fee)
    return shape


def fee_of(psbt: Psbt) -> int | None:
    """Return the fee in base units, None while it is not known what all inputs spend."""
    if not psbt.inputs:
        return None
    try:
        spent = spent_outputs(psbt)
    except RuleError:
        return None
    return sum(output.value for output in spent) - sum(output.value for output in psbt.tx.vout)


def _input_shape(section: Section, prefixes: AddressPrefixes) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    _add_utxos(shape, section, prefixes)
    signatures = {key.hex(): value.hex() for key, value in section.of_type(InputType.PARTIAL_SIG)}
    if signatures:
        shape["partial_signatures"] = signatures
    hash_type = section.get(InputType.SIGHASH_TYPE)
    if hash_type is not None:
        shape["sighash"] = HASH_TYPES.get(int.from_bytes(hash_type, "little"), "")
    _add_script(shape, "redeem_script", section.get(InputType.REDEEM_SCRIPT))
    _add_script(shape, "witness_script", section.get(InputType.WITNESS_SCRIPT))
    _add_derivations(shape, section, InputType.BIP32_DERIVATION)
    script_sig = section.get(InputType.FINAL_SCRIPTSIG)
    if script_sig is not None:
        asm = script_asm(script_sig, decode_hash_types=True)
        shape["final_scriptSig"] = {"asm": asm, "hex": script_sig.hex()}
    witness = section.get(InputType.FINAL_SCRIPTWITNESS)
    if witness is not None:
        shape["final_scriptwitness"] = [item.hex() for item in read_witness(witness)]
    for name, kind in _PREIMAGES:
        preimages = {key.hex(): value.hex() for key, value in section.of_type(kind)}
        if preimages:
            shape[name] = preimages
    _add_taproot(shape, section)
    _add_rest(shape, section, InputType.PROPRIETARY, dict(INPUT_FORMS))
    return shape


def _add_utxos(shape: dict[str, Any], section: Section, prefixes: AddressPrefixes) -> None:
    raw = section.get(InputType.NON_WITNESS_UTXO)
    if raw is not None:
        shape["non_witness_utxo"] = transaction_shape(Transaction.parse(raw), prefixes)
    short = section.get(InputType.WITNESS_UTXO)
    if short is not None:
        output = read_output(short)
        shape["witness_utxo"] = {
            "amount": coins(output.value),
            "scriptPubKey": script_shape(output.script_pubkey, prefixes),
        }


def _output_shape(section: Section) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    _add_script(shape, "redeem_script", section.get(OutputType.REDEEM_SCRIPT))
    _add_script(shape, "witness_script", section.get(OutputType.WITNESS_SCRIPT))
    _add_derivations(shape, section, OutputType.BIP32_DERIVATION)
    _add_hex(shape, "taproot_internal_key", section.get(OutputType.TAP_INTERNAL_KEY))
    tree = section.get(OutputType.TAP_TREE)
    if tree is not None:
        shape["taproot_tree"] = _tree(tree)
    _add_tap_derivations(shape, section, OutputType.TAP_BIP32_DERIVATION)
    _add_rest(shape, section, OutputType.PROPRIETARY, dict(OUTPUT_FORMS))
    return shape


def _tree(data: bytes) -> list[dict[str, Any]]:
    reader = Reader(data)
    leaves = []
    while reader.remaining:
        depth, version, script = reader.u8(), reader.u8(), reader.var_bytes()
        leaves.append({"depth": depth, "leaf_ver": version, "script": script.hex()})
    return leaves


def _add_hex(shape: dict[str, Any], name: str, value: bytes | None) -> None:
    if value is not None:
        shape[name] = value.hex()


def _add_script(shape: dict[str, Any], name: str, script: bytes | None) -> None:
    if script is not None:
        kind = templates.classify(script)[0]
        shape[name] = {"asm": script_asm(script), "hex": script.hex(), "type": kind}


def _origin(value: bytes) -> dict[str, str]:
    """Return where a key comes from: fingerprint of the master key, and the path."""
    steps = [int.from_bytes(value[at : at + 4], "little") for at in range(4, len(value), 4)]
    path = "".join([f"/{step & ~_HARDENED}{'h' if step & _HARDENED else ''}" for step in steps])
    return {"master_fingerprint": value[:4].hex(), "path": "m" + path}


def _add_derivations(shape: dict[str, Any], section: Section, kind: int) -> None:
    found = [{"pubkey": key.hex(), **_origin(value)} for key, value in section.of_type(kind)]
    if found:
        shape["bip32_derivs"] = found


def _add_tap_derivations(shape: dict[str, Any], section: Section, kind: int) -> None:
    found = []
    for key, value in section.of_type(kind):
        reader = Reader(value)
        leaves = [reader.take(32).hex() for _ in range(reader.compact_size())]
        found.append({"pubkey": key.hex(), **_origin(value[reader.offset :]), "leaf_hashes": leaves})
    if found:
        shape["taproot_bip32_derivs"] = found


def _add_taproot(shape: dict[str, Any], section: Section) -> None:
    _add_hex(shape, "taproot_key_path_sig", section.get(InputType.TAP_KEY_SIG))
    signatures = [
        {"pubkey": key[:32].hex(), "leaf_hash": key[32:].hex(), "sig": value.hex()}
        for key, value in section.of_type(InputType.TAP_SCRIPT_SIG)
    ]
    if signatures:
        shape["taproot_script_path_sigs"] = signatures
    scripts: dict[bytes, list[str]] = {}
    for control, leaf in section.of_type(InputType.TAP_LEAF_SCRIPT):
        scripts.setdefault(leaf, []).append(control.hex())
    if scripts:
        shape["taproot_scripts"] = [
            {"script": leaf[:-1].hex(), "leaf_ver": leaf[-1], "control_blocks": controls}
            for leaf, controls in scripts.items()
        ]
    _add_tap_derivations(shape, section, InputType.TAP_BIP32_DERIVATION)
    _add_hex(shape, "taproot_internal_key", section.get(InputType.TAP_INTERNAL_KEY))
    _add_hex(shape, "taproot_merkle_root", section.get(InputType.TAP_MERKLE_ROOT))


def _add_rest(shape: dict[str, Any], section: Section, proprietary: int, forms: _Forms) -> None:
    known = _proprietary(section, proprietary)
    if known:
        shape["proprietary"] = known
    unknown = _unknown(section, forms)
    if unknown:
        shape["unknown"] = unknown


def _proprietary(section: Section, kind: int) -> list[dict[str, Any]]:
    found = []
    for key, value in section.of_type(kind):
        reader = Reader(key)
        identifier, subtype = reader.var_bytes(), reader.compact_size()
        rest = key[reader.offset :]
        found.append(
            {"identifier": identifier.hex(), "subtype": subtype, "key": rest.hex(), "value": value.hex()}
        )
    return found


def _unknown(section: Section, forms: _Forms) -> dict[str, str]:
    return {
        key.hex(): value.hex() for key, value in sorted(section.records.items()) if key_type(key) not in forms
    }
