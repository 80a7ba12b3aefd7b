"""The chain file: TOML text that fixes a chain, read into ``ChainParams`` and written from them.

What counts is the parameters, not the text: ``canonical_chain_bytes`` is the same for two files
that differ in spacing, order or spelled-out defaults, and genesis commits its hash. Every key is
described in ``docs/chain-file.md``.
"""

from dataclasses import fields, is_dataclass
from typing import Any

from consensus import canonical
from consensus.address import decode_address, encode_address
from consensus.chain_checks import check_across, is_account_script, is_payable_script
from consensus.chain_fields import (
    ADDRESS_PRESETS,
    BFT_INTEGERS,
    CHAIN_INTEGERS,
    CHECKPOINT_HEIGHT,
    ENERGY_INTEGERS,
    LEDGER_INTEGERS,
    POW_INTEGERS,
    PREFIX_INTEGERS,
    IntField,
    Problems,
    Table,
    is_hrp,
    is_name,
    is_slug,
    show,
)
from consensus.dpos import MODES, PLURALITY
from consensus.errors import ConfigError, RuleError
from consensus.hashes import sha256
from consensus.ledger_limits import (
    FUTURE_SPACINGS,
    HALF_LIFE_SPACINGS,
    MAX_ALLOCATIONS,
    MAX_CHAIN_FILE_CHARS,
    MAX_CHECKPOINTS,
    MAX_COMMUNITIES,
    MAX_FUTURE_S,
    MAX_ORGANISATIONS,
    MAX_VALIDATORS,
    POW_COINBASE_MATURITY,
)
from consensus.params import (
    NO_BFT,
    AddressPrefixes,
    Allocation,
    BftParams,
    ChainParams,
    Checkpoint,
    Community,
    EnergyParams,
    LedgerParams,
    Organisation,
    PowParams,
    Validator,
)
from consensus.toml import parse_toml
from consensus.validators import ROLES

_FORMAT = 1
_SLUG_FIX = "give 1 to 32 lower-case letters, digits and hyphens, not starting with a hyphen"
_NAME_FIX = "give 1 to 64 printable characters on one line, no space at the ends"
_ACCOUNT_FIX = "give an address of this chain (or its script in hex): P2PKH, P2SH, segwit v0 or taproot"
_PAYABLE_FIX = "give an address of this chain or a standard script in hex"
_AMOUNT = IntField(None, 1, LEDGER_INTEGERS["max_money"].high, "base units")


def parse_chain_file(text: str) -> ChainParams:
    """Read a chain file. Raises ConfigError "bad-chain-file" with every problem found."""
    problems = Problems()
    params = _read(Table(_parse_toml(text), "", problems))
    check_across(params, problems)
    if problems.found:
        raise ConfigError("bad-chain-file", tuple(problems.found))
    return params


def canonical_chain_bytes(params: ChainParams) -> bytes:
    """Return the canonical MessagePack of all parameters: a map by field name, with a format number.

    Only the engine that runs is in it, and checkpoints are not: they name blocks, which have the hash
    of these bytes under them. Nor is a 0 that stands for what chains do that are older than its key.
    """
    sections = {"format": _FORMAT, **_plain(params)}
    for key in ("coinbase_maturity_blocks", "snapshot_interval_blocks"):
        if not sections["ledger"][key]:
            del sections["ledger"][key]
    if params.pow is None:
        del sections["pow"]
    else:
        del sections["bft"]
        del sections["pow"]["checkpoints"]
        if not params.organisations:
            del sections["pow"]["organisations"]
    return canonical.encode(sections)


def chain_file_hash(params: ChainParams) -> bytes:
    """Return SHA-256 of ``canonical_chain_bytes``, 32 bytes: what the genesis coinbase commits."""
    return sha256(canonical_chain_bytes(params))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _parse_toml(text: str) -> dict[str, object]:
    if len(text) > MAX_CHAIN_FILE_CHARS:
        problem = f"file: {len(text)} characters; a chain file has at most {MAX_CHAIN_FILE_CHARS}"
        raise ConfigError("bad-chain-file", (problem,))
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError("bad-chain-file", (f"file: not TOML: {error}; correct that line",)) from None


def _read(root: Table) -> ChainParams:
    chain = root.table("chain")
    name = chain.text("name", is_slug, _SLUG_FIX)
    engine = chain.text("engine", lambda text: text in ("bft", "pow"), 'give "bft" or "pow"', "bft")
    times = chain.integers(CHAIN_INTEGERS)
    prefixes = _read_prefixes(chain)
    chain.close()
    params = ChainParams(
        name=name,
        engine=engine,
        genesis_time_s=times["genesis_time_s"],
        addresses=prefixes or ADDRESS_PRESETS["test"],
        ledger=_read_ledger(root.table("ledger"), engine),
        bft=NO_BFT if engine == "pow" else _read_bft(root.table("bft"), prefixes),
        energy=_read_energy(root.table("energy"), prefixes),
        allocations=_read_allocations(root.table("genesis"), prefixes),
        pow=_read_pow(root.table("pow"), prefixes) if engine == "pow" else None,
    )
    idle = "bft" if engine == "pow" else "pow"
    if root.value(idle) is not None:
        root.problems.add(idle, f"a table of the {idle} engine", f"leave it out: the engine is {engine}")
    root.close()
    return params


def _read_prefixes(chain: Table) -> AddressPrefixes | None:
    """Return the address prefixes, None if they are wrong."""
    path = chain.at("addresses")
    value = chain.value("addresses")
    if isinstance(value, dict):
        table = Table(value, path, chain.problems)
        numbers = table.integers(PREFIX_INTEGERS)
        hrp = table.text("bech32_hrp", is_hrp, "give 1 to 10 lower-case letters")
        table.close()
        if chain.problems.clear_of(path) and numbers["p2pkh"] == numbers["p2sh"]:
            chain.problems.add(
                table.at("p2sh"), f"found {numbers['p2sh']}, as p2pkh", "give different version bytes"
            )
        clear = chain.problems.clear_of(path)
        return AddressPrefixes(numbers["p2pkh"], numbers["p2sh"], numbers["wif"], hrp) if clear else None
    preset = ADDRESS_PRESETS.get("test" if value is None else str(value))
    if preset is None:
        known = ", ".join(f'"{name}"' for name in ADDRESS_PRESETS)
        chain.problems.add(path, f"found {show(value)}", f"give {known} or a table of prefixes")
    return preset


def _read_ledger(table: Table, engine: str) -> LedgerParams:
    fields = dict(LEDGER_INTEGERS)
    if engine == "pow":
        maturity = fields["coinbase_maturity_blocks"]
        fields["coinbase_maturity_blocks"] = maturity._replace(default=POW_COINBASE_MATURITY)
    if table.value("min_fee_per_kvb") == 0:
        table.problems.add(
            table.at("min_fee_per_kvb"),
            "found 0",
            "give at least 1: free transactions need quotas per provider, which this version lacks",
        )
        numbers = table.integers({k: v for k, v in fields.items() if k != "min_fee_per_kvb"})
        numbers["min_fee_per_kvb"] = 1
    else:
        numbers = table.integers(fields)
    table.close()
    return LedgerParams(**numbers)


def _read_bft(table: Table, prefixes: AddressPrefixes | None) -> BftParams:
    numbers = table.integers(BFT_INTEGERS)
    modes = " or ".join(f'"{mode}"' for mode in MODES)
    election = table.text("election", lambda text: text in MODES, f"give {modes}", PLURALITY)
    entries = table.tables("validators", MAX_VALIDATORS)
    validators = tuple([_read_validator(entry, prefixes) for entry in entries])
    if not validators and table.problems.clear_of(table.at("validators")):
        table.problems.add(table.at("validators"), "missing", f"give 1 to {MAX_VALIDATORS} entries")
    table.close()
    return BftParams(validators=validators, election=election, **numbers)


def _read_pow(table: Table, prefixes: AddressPrefixes | None) -> PowParams:
    spacing_s = table.integer("spacing_s", POW_INTEGERS["spacing_s"])
    derived = {
        "half_life_s": HALF_LIFE_SPACINGS * spacing_s,
        "future_limit_s": min(FUTURE_SPACINGS * spacing_s, MAX_FUTURE_S),
    }
    fields = {
        key: field._replace(default=derived.get(key, field.default))
        for key, field in POW_INTEGERS.items()
        if key != "spacing_s"  # read already: a second time would tell its fault twice
    }
    numbers = {"spacing_s": spacing_s, **table.integers(fields)}
    checkpoints = []
    for entry in table.tables("checkpoints", MAX_CHECKPOINTS):
        height = entry.integer("height", CHECKPOINT_HEIGHT)
        shown = entry.data("block_hash", 32, "block hash as block explorers show it, 32 bytes")
        entry.close()
        checkpoints.append(Checkpoint(height, shown[::-1]))
    entries = table.tables("organisations", MAX_ORGANISATIONS)
    organisations = [_read_organisation(entry, prefixes) for entry in entries]
    table.close()
    return PowParams(checkpoints=tuple(checkpoints), organisations=tuple(organisations), **numbers)


def _read_organisation(table: Table, prefixes: AddressPrefixes | None) -> Organisation:
    roles = " or ".join(f'"{role}"' for role in ROLES)
    organisation = Organisation(
        name=table.text("name", is_name, _NAME_FIX),
        role=table.text("role", lambda text: text in ROLES, f"give {roles}"),
        account=table.script("account", prefixes, is_account_script, _ACCOUNT_FIX),
    )
    table.close()
    return organisation


def _read_validator(table: Table, prefixes: AddressPrefixes | None) -> Validator:
    roles = " or ".join(f'"{role}"' for role in ROLES)
    validator = Validator(
        name=table.text("name", is_name, _NAME_FIX),
        role=table.text("role", lambda text: text in ROLES, f"give {roles}"),
        vote_key=table.data("vote_key", 32, "x-only secp256k1 key, 32 bytes"),
        identity_key=table.data("identity_key", 32, "Ed25519 key, 32 bytes"),
        payout_script=table.script("payout_script", prefixes, is_account_script, _ACCOUNT_FIX),
        vote_signature=table.data("vote_signature", 64, "BIP340 signature, 64 bytes"),
        identity_signature=table.data("identity_signature", 64, "Ed25519 signature, 64 bytes"),
    )
    table.close()
    return validator


def _read_energy(table: Table, prefixes: AddressPrefixes | None) -> EnergyParams:
    numbers = table.integers(ENERGY_INTEGERS)
    communities = []
    for entry in table.tables("communities", MAX_COMMUNITIES):
        name = entry.text("id", is_slug, _SLUG_FIX)
        operator = entry.script("grid_operator", prefixes, is_account_script, _ACCOUNT_FIX)
        entry.close()
        communities.append(Community(name, operator))
    table.close()
    return EnergyParams(communities=tuple(communities), **numbers)


def _read_allocations(table: Table, prefixes: AddressPrefixes | None) -> tuple[Allocation, ...]:
    allocations = []
    for entry in table.tables("allocations", MAX_ALLOCATIONS):
        script = entry.script("script_pubkey", prefixes, is_payable_script, _PAYABLE_FIX)
        amount = entry.integer("amount", _AMOUNT)
        entry.close()
        allocations.append(Allocation(script, amount))
    table.close()
    return tuple(allocations)


def render_chain_file(params: ChainParams) -> str:
    """Return TOML text, every key spelled out, that parses to ``params``."""
    prefixes = params.addresses
    lines = ["[chain]", *_lines(name=params.name, engine=params.engine, genesis_time_s=params.genesis_time_s)]
    lines += [f"addresses = {_render_prefixes(prefixes)}", ""]
    lines += ["[ledger]", *_lines(**_plain(params.ledger)), ""]
    if params.pow is None:
        lines += ["[bft]", *_integer_lines(params.bft), *_lines(election=params.bft.election), ""]
    else:
        lines += ["[pow]", *_integer_lines(params.pow), ""]
        for fixed in params.pow.checkpoints:
            shown = fixed.block_hash[::-1]
            lines += ["[[pow.checkpoints]]", *_lines(height=fixed.height, block_hash=shown), ""]
        for each in params.pow.organisations:
            account = _render_script(each.account, prefixes)
            lines += ["[[pow.organisations]]", *_lines(name=each.name, role=each.role, account=account), ""]
    for validator in params.bft.validators:
        entry = _plain(validator)
        entry["payout_script"] = _render_script(validator.payout_script, prefixes)
        lines += ["[[bft.validators]]", *_lines(**entry), ""]
    lines += ["[energy]", *_integer_lines(params.energy), ""]
    for community in params.energy.communities:
        operator = _render_script(community.grid_operator, prefixes)
        lines += ["[[energy.communities]]", *_lines(id=community.id, grid_operator=operator), ""]
    for allocation in params.allocations:
        script = _render_script(allocation.script_pubkey, prefixes)
        lines += ["[[genesis.allocations]]", *_lines(script_pubkey=script, amount=allocation.amount), ""]
    return "\n".join(lines)


def _integer_lines(section: BftParams | PowParams | EnergyParams) -> list[str]:
    """Return the keys of a section without its arrays of tables, which stand behind it."""
    return _lines(**{key: value for key, value in _plain(section).items() if type(value) is int})


def _lines(**entries: int | str | bytes) -> list[str]:
    lines = []
    for key, value in entries.items():
        if isinstance(value, int):
            lines.append(f"{key} = {value}")
        else:
            lines.append(f"{key} = {_quote(value.hex() if isinstance(value, bytes) else value)}")
    return lines


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _render_prefixes(prefixes: AddressPrefixes) -> str:
    for name, preset in ADDRESS_PRESETS.items():
        if preset == prefixes:
            return _quote(name)
    return "{ " + ", ".join(_lines(**_plain(prefixes))) + " }"


def _render_script(script: bytes, prefixes: AddressPrefixes) -> str:
    address = encode_address(script, prefixes)
    if address is not None:
        try:
            if decode_address(address, prefixes) == script:
                return address
        except RuleError:
            pass  # some scripts have an address that only one side knows: hex always works
    return script.hex()
