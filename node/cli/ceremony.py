"""Founding a chain: signed validator entries, and the chain file that they become together."""

import re
from dataclasses import dataclass

from consensus.address import encode_address
from consensus.chainfile import parse_chain_file
from consensus.errors import ConfigError, RuleError
from consensus.genesis import genesis_block
from consensus.hashes import hash160
from consensus.params import ChainParams, Validator
from consensus.script.templates import p2pkh
from consensus.toml import parse_toml
from consensus.transaction import hash_hex
from consensus.validators import ROLES, check_entry, sign_entry
from contracts.api import EnergyContracts
from node.keyfile import NodeKeys

ENTRY_NAME = "validator-entry.toml"

_BYTES = {
    "vote_key": 32,
    "identity_key": 32,
    "payout_script": None,
    "vote_signature": 64,
    "identity_signature": 64,
}
_TEXTS = ("chain_name", "name", "role")
_REFERENCE = re.compile(r'"@([^"\n]+)"')


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """A founder's entry, with the name of the chain that its signatures bind."""

    chain_name: str
    validator: Validator


def payout_script(keys: NodeKeys) -> bytes:
    """Return the P2PKH script of the node's payout key: the organisation's account."""
    return p2pkh(hash160(keys.payout_pubkey))


def make_entry(keys: NodeKeys, chain_name: str, name: str, role: str) -> SignedEntry:
    """Return the entry of an organisation, signed with its vote and identity keys."""
    validator = sign_entry(
        keys.vote.reveal(),
        keys.identity.reveal(),
        chain_name=chain_name,
        name=name,
        role=role,
        payout_script=payout_script(keys),
    )
    return SignedEntry(chain_name, validator)


def render_entry(entry: SignedEntry) -> str:
    """Return the text of a ``validator-entry.toml``."""
    values = {"chain_name": entry.chain_name, **_validator_values(entry.validator)}
    return "# Signed entry of a founding validator. Hand it to whoever collects the chain file.\n" + "".join(
        f"{key} = {value if key not in _TEXTS else _quote(value)}\n" for key, value in values.items()
    )


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _validator_values(validator: Validator) -> dict[str, str]:
    values = {"name": validator.name, "role": validator.role}
    return {**values, **{key: f'"{getattr(validator, key).hex()}"' for key in _BYTES}}


def parse_entry(text: str, where: str) -> SignedEntry:
    """Read a ``validator-entry.toml`` and check its signatures. ``where`` names it in messages.

    Raises ConfigError ``bad-entry`` with every problem.
    """
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise ConfigError("bad-entry", (f"{where}: not TOML: {error}",)) from None
    problems = [f"{where}: {key}: unknown key" for key in values if key not in (*_TEXTS, *_BYTES)]
    texts = {key: values.get(key) for key in _TEXTS}
    for key, value in texts.items():
        if not isinstance(value, str) or not value:
            problems.append(f"{where}: {key}: must be a non-empty string")
    if texts["role"] not in ROLES:
        problems.append(f"{where}: role: must be one of {', '.join(ROLES)}")
    data = {}
    for key, size in _BYTES.items():
        data[key] = _data(values.get(key))
        if not data[key] or (size is not None and len(data[key]) != size):
            problems.append(f"{where}: {key}: must be {f'{2 * size} ' if size else ''}hexadecimal digits")
    if problems:
        raise ConfigError("bad-entry", tuple(problems))
    validator = Validator(name=str(texts["name"]), role=str(texts["role"]), **data)
    entry = SignedEntry(str(texts["chain_name"]), validator)
    try:
        check_entry(entry.chain_name, validator)
    except RuleError as error:
        raise ConfigError("bad-entry", (f"{where}: {error}",)) from None
    return entry


def _data(value: object) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""


def hold_ceremony(template: str, entries: list[SignedEntry]) -> ChainParams:
    """Return the chain that a template (a chain file without validators) and the founders make.

    In the template, "@name" stands for the payout script of the founder of that name. Raises
    ConfigError ``bad-ceremony`` or ``bad-chain-file`` with every problem.
    """
    by_name = {entry.validator.name: entry.validator for entry in entries}
    unknown = sorted({name for name in _REFERENCE.findall(template) if name not in by_name})
    problems = [f"@{name}: no entry has this name" for name in unknown]
    problems += _foreign(template, entries)
    if problems:
        raise ConfigError("bad-ceremony", tuple(problems))
    text = _REFERENCE.sub(lambda match: f'"{by_name[match[1]].payout_script.hex()}"', template)
    for entry in entries:
        values = _validator_values(entry.validator)
        lines = [f"{key} = {_quote(value) if key in _TEXTS else value}" for key, value in values.items()]
        text += "\n[[bft.validators]]\n" + "\n".join(lines) + "\n"
    return parse_chain_file(text)


def _foreign(template: str, entries: list[SignedEntry]) -> list[str]:
    """Return a problem per entry that was signed for another chain than the template's."""
    try:
        chain = parse_toml(template).get("chain")
    except ValueError as error:
        return [f"the template is not TOML: {error}"]
    name = chain.get("name") if isinstance(chain, dict) else None
    return [
        f"the entry of {entry.validator.name} is signed for chain {entry.chain_name!r}, not {name!r}"
        for entry in entries
        if entry.chain_name != name
    ]


def chain_id_of(params: ChainParams) -> str:
    """Return the chain id as it is displayed: the hash of the genesis block."""
    return hash_hex(genesis_block(params, EnergyContracts(params)).hash)


def address_of(keys: NodeKeys, params: ChainParams) -> str:
    """Return the address of the node's payout account on a chain."""
    return str(encode_address(payout_script(keys), params.addresses))
