"""Chain files: what is read, what is refused with which words, and that rendering round-trips."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import canonical, chain_fields, dpos
from consensus.chainfile import canonical_chain_bytes, chain_file_hash, parse_chain_file, render_chain_file
from consensus.errors import ConfigError
from consensus.hashes import sha256
from consensus.ledger_limits import MAX_DELEGATES
from consensus.params import COIN, NO_BFT, AddressPrefixes, Allocation, Community, PowParams
from consensus.script.templates import multisig, p2pk, p2pkh, p2sh, p2tr, p2wpkh, p2wsh
from consensus.validators import sign_entry

KEY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


@pytest.fixture(scope="session")
def text(tools):
    return render_chain_file(tools.make_params())


def problems(text):
    with pytest.raises(ConfigError) as caught:
        parse_chain_file(text)
    assert caught.value.code == "bad-chain-file"
    assert caught.value.exit_status == 78
    return list(caught.value.problems)


def changed(text, key, value, occurrence=0):
    """Return ``text`` with the line of ``key`` set to ``value`` (None: taken out)."""
    lines = text.split("\n")
    at = [number for number, line in enumerate(lines) if line.startswith(f"{key} = ")][occurrence]
    lines[at : at + 1] = [] if value is None else [f"{key} = {value}"]
    return "\n".join(lines)


# ---- what is read


def test_rendered_file_parses_to_the_same_parameters(tools, text):
    assert parse_chain_file(text) == tools.make_params()


def test_defaults_live_in_code(tools, text):
    keep = {"name", "genesis_time_s", "id", "grid_operator", "script_pubkey", "amount", "role"}
    keep |= {"vote_key", "identity_key", "payout_script", "vote_signature", "identity_signature"}
    lines = [line for line in text.split("\n") if "=" not in line or line.split(" = ")[0] in keep]
    params = parse_chain_file("\n".join(lines))
    assert params.ledger.max_money == 21_000_000 * 100_000_000
    assert params.ledger.min_fee_per_kvb == 1_000
    assert params.addresses == chain_fields.ADDRESS_PRESETS["test"]
    for section, table in (
        (params.ledger, chain_fields.LEDGER_INTEGERS),
        (params.bft, chain_fields.BFT_INTEGERS),
        (params.energy, chain_fields.ENERGY_INTEGERS),
    ):
        assert {key: getattr(section, key) for key in table} == {k: f.default for k, f in table.items()}


def test_defaults_of_an_election_agree_with_its_rules(tools):
    """Both the parameters and the rules have defaults: constructors in between must not choose others."""
    bft = tools.make_params().bft
    assert (bft.delegates, bft.election) == (MAX_DELEGATES, dpos.PLURALITY)
    assert bft.substitution_s == chain_fields.BFT_INTEGERS["substitution_s"].default
    assert NO_BFT.election in dpos.MODES


@pytest.mark.parametrize("key", ["substitution_s", "delegates", "election"])
def test_what_decides_an_election_is_part_of_the_identity(tools, key):
    params = tools.make_params()
    value = dpos.PROPORTIONAL if key == "election" else getattr(params.bft, key) + 1
    other = replace(params, bft=replace(params.bft, **{key: value}))
    assert chain_file_hash(other) != chain_file_hash(params)


def test_field_tables_cover_every_integer_parameter(tools):
    params = tools.make_params()
    for section, table in (
        (params.ledger, chain_fields.LEDGER_INTEGERS),
        (params.bft, chain_fields.BFT_INTEGERS),
        (params.energy, chain_fields.ENERGY_INTEGERS),
    ):
        integers = {f.name for f in fields(section) if type(getattr(section, f.name)) is int}
        assert integers == set(table)


def test_spacing_order_and_comments_do_not_make_another_chain(text):
    shuffled = "# ours\n" + changed(text, "engine", None).replace(" = ", "  =   ")
    assert chain_file_hash(parse_chain_file(shuffled)) == chain_file_hash(parse_chain_file(text))


def test_canonical_bytes_are_a_map_of_all_fields(tools):
    params = tools.make_params()
    data = canonical_chain_bytes(params)
    value = canonical.decode(data)
    assert value["format"] == 1
    assert set(value) == {"format", *(field.name for field in fields(params))} - {"pow"}
    assert value["bft"]["validators"][1]["vote_key"] == params.bft.validators[1].vote_key
    assert chain_file_hash(params) == sha256(data)


def test_chain_file_hash_is_stable(tools):
    """A change of this number is another chain."""
    assert (
        chain_file_hash(tools.make_params()).hex()
        == "52bc35ef6f12ca6b6d65571e1db677a95252b63603ef98083c5733b44636b596"
    )


@pytest.mark.parametrize("name", ["main", "test", "regtest"])
def test_address_presets(tools, text, name):
    prefixes = chain_fields.ADDRESS_PRESETS[name]
    other = replace(tools.make_params(), addresses=prefixes)
    rendered = render_chain_file(other)
    assert f'addresses = "{name}"' in rendered
    assert parse_chain_file(rendered) == other


def test_own_address_prefixes(tools):
    params = replace(tools.make_params(), addresses=AddressPrefixes(73, 135, 201, "watt"))
    assert parse_chain_file(render_chain_file(params)) == params


def test_one_validator_is_a_chain(tools):
    params = tools.make_params(validators=1)
    assert parse_chain_file(render_chain_file(params)) == params


scripts = st.one_of(
    st.binary(min_size=20, max_size=20).map(p2pkh),
    st.binary(min_size=20, max_size=20).map(p2sh),
    st.binary(min_size=20, max_size=20).map(p2wpkh),
    st.binary(min_size=32, max_size=32).map(p2wsh),
    st.binary(min_size=32, max_size=32).map(p2tr),
)
payable = st.one_of(scripts, st.just(p2pk(KEY)), st.just(multisig(1, [KEY, KEY])))
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(chain_fields.is_name)


def bounded(key, table):
    field = table[key]
    return st.integers(field.low, field.high)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_valid_parameters_survive_rendering(tools, data):
    base = tools.make_params(validators=1)
    operator = data.draw(scripts)
    entry = sign_entry(
        b"\x11" * 32,
        b"\x22" * 32,
        chain_name="toy",
        name=data.draw(names),
        role="grid-operator",
        payout_script=operator,
    )
    free = ("max_drift_s", "tenure_blocks", "round_s", "min_batch_txs", "substitution_s", "delegates")
    bft = {key: data.draw(bounded(key, chain_fields.BFT_INTEGERS)) for key in free}
    bft["election"] = data.draw(st.sampled_from(dpos.MODES))
    ids = data.draw(
        st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True), unique=True, max_size=3)
    )
    amounts = data.draw(st.lists(st.tuples(payable, st.integers(1, 10**14)), max_size=5))
    hrp = data.draw(st.from_regex(r"[a-z]{1,10}", fullmatch=True))
    versions = data.draw(st.permutations(range(256)))
    params = replace(
        base,
        genesis_time_s=data.draw(bounded("genesis_time_s", chain_fields.CHAIN_INTEGERS)),
        addresses=AddressPrefixes(versions[0], versions[1], versions[2], hrp),
        ledger=replace(
            base.ledger,
            min_fee_per_kvb=data.draw(bounded("min_fee_per_kvb", chain_fields.LEDGER_INTEGERS)),
            op_budget=data.draw(bounded("op_budget", chain_fields.LEDGER_INTEGERS)),
        ),
        bft=replace(base.bft, validators=(entry,), **bft),
        energy=replace(base.energy, communities=tuple(Community(name, operator) for name in ids)),
        allocations=tuple(Allocation(script, amount) for script, amount in amounts),
    )
    rendered = render_chain_file(params)
    assert parse_chain_file(rendered) == params
    assert chain_file_hash(parse_chain_file(rendered)) == chain_file_hash(params)


# ---- what is refused


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("genesis_time_s", None, "chain.genesis_time_s: missing; give an integer"),
        ("genesis_time_s", '"now"', "chain.genesis_time_s: found 'now'; give an integer from 1 to"),
        ("genesis_time_s", "4294967296", "chain.genesis_time_s: found 4294967296"),
        ("genesis_time_s", "true", "chain.genesis_time_s: found True"),
        ("genesis_time_s", "1.5", "chain.genesis_time_s: found 1.5"),
        ("engine", '"pow"', "bft: a table of the bft engine; leave it out: the engine is pow"),
        ("engine", '"raft"', "chain.engine: found 'raft'"),
        ("addresses", '"tset"', 'chain.addresses: found \'tset\'; give "main", "test", "regtest"'),
        ("addresses", "{ p2pkh = 1, p2sh = 1, wif = 2, bech32_hrp = \"x\" }", "chain.addresses.p2sh: found"),
        ("addresses", "{ p2pkh = 256, p2sh = 1, wif = 2, bech32_hrp = \"x\" }", "chain.addresses.p2pkh"),
        ("addresses", "{ p2pkh = 5, p2sh = 1, wif = 2, bech32_hrp = \"X1\" }", "chain.addresses.bech32_hrp"),
        ("min_fee_per_kvb", "0", "ledger.min_fee_per_kvb: found 0; give at least 1: free transactions need"),
        ("max_money", "9007199254740992", "ledger.max_money"),
        ("max_block_weight", "1000", "ledger.max_block_weight: found 1000; give an integer from 200000"),
        ("min_payout", "2100000000000001", "ledger.min_payout: found 2100000000000001; give at most"),
        ("max_orders_per_slot", "10001", "energy.max_orders_per_slot: found 10001, ledger.timer_budget is"),
        ("bits", "0x1d800000", "bft.bits: found 0x1d800000; give a compact target"),
        ("progress_timeout_ms", "100", "bft.progress_timeout_ms: found 100, slot_step_ms is 100"),
        ("round_s", "0", "bft.round_s: found 0; give an integer from 1 to"),
        ("substitution_s", "0", "bft.substitution_s: found 0; give an integer from 1 to"),
        ("delegates", "3", "bft.delegates: found 3; give an integer from 4 to 50 (delegates)"),
        ("delegates", "51", "bft.delegates: found 51; give an integer from 4 to 50 (delegates)"),
        ("election", '"lottery"', "bft.election: found 'lottery'; give \"plurality\" or \"proportional\""),
        ("election", "1", "bft.election: found 1; give \"plurality\" or"),
        ("idle_interval_ms", "200", "bft.idle_interval_ms: found 200, block_interval_ms is 250"),
        ("slot_s", "700", "energy.slot_s: found 700; give a divisor of 86400"),
        ("day_offset_s", "100", "energy.day_offset_s: found 100; give a multiple of slot_s (900)"),
        ("feed_in_price_per_kwh", "30000001", "energy.feed_in_price_per_kwh: found 30000001"),
        ("max_price_per_kwh", "29999999", "energy.max_price_per_kwh: found 29999999"),
        ("max_participants", "10001", "energy.max_participants: found 10001, ledger.timer_budget is 10000"),
        ("id", '"Town Hall"', "energy.communities[0].id: found 'Town Hall'; give 1 to 32 lower-case"),
        ("grid_operator", '"00"', "energy.communities[0].grid_operator: found '00'; give an address"),
        ("vote_key", '"00"', "bft.validators[0].vote_key: found 2 hex digits; give 64 hex digits"),
        ("vote_key", '"zz"', "bft.validators[0].vote_key: found 'zz'; give 64 hex digits"),
        ("role", '"boss"', "bft.validators[0].role: found 'boss'; give \"grid-operator\""),
        ("payout_script", '"6a00"', "bft.validators[0].payout_script: found '6a00'; give an address"),
        ("payout_script", '"1BoatSLRHtKNngkdXEeobR76b53LETtpyT"', "bft.validators[0].payout_script"),
        ("payout_script", "7", "bft.validators[0].payout_script: found 7"),
        ("identity_signature", None, "bft.validators[0].identity_signature: missing; give 128 hex digits"),
        ("script_pubkey", '"6a04deadbeef"', "genesis.allocations[0].script_pubkey: found '6a04deadbeef'"),
        ("amount", "0", "genesis.allocations[0].amount: found 0; give an integer from 1"),
        ("amount", "2100000000000000", "genesis.allocations: amounts add up to 2100700000000000; issue"),
    ],
)  # fmt: skip
def test_one_fault_is_one_problem(text, key, value, expected):
    found = problems(changed(text, key, value))
    assert len(found) == 1, found
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        ("max_mony = 5", "[ledger]", "ledger.max_mony: unknown key; did you mean max_money?"),
        ("colour = 5", "[energy]", "energy.colour: unknown key; known are slot_s"),
        (
            "votekey = 5",
            "[[bft.validators]]",
            "bft.validators[0].votekey: unknown key; did you mean vote_key?",
        ),
        (
            "to = 1",
            "[[genesis.allocations]]",
            "genesis.allocations[0].to: unknown key; known are script_pubkey",
        ),
        ("colour = 5", "[[energy.communities]]", "energy.communities[0].colour: unknown key"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(text, line, after, expected):
    found = problems(text.replace(after, f"{after}\n{line}", 1))
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_unknown_table_is_refused(text):
    assert problems(text + "\n[ledgers]\n") == ["ledgers: unknown key; did you mean ledger?"]
    assert problems("top = 1\n" + text)[0].startswith("top: unknown key")


@pytest.mark.parametrize("section", ["chain", "ledger", "bft", "energy", "genesis"])
def test_section_of_the_wrong_type_is_named(section):
    assert any(p.startswith(f"{section}: found 5; write a table") for p in problems(f"{section} = 5"))


def test_array_of_the_wrong_type_is_named(text):
    found = problems(text.split("[[genesis.allocations]]")[0] + "[genesis]\nallocations = 3\n")
    assert found == ["genesis.allocations: found 3; write tables: [[genesis.allocations]]"]


def test_all_problems_come_at_once(text):
    bad = changed(text, "max_money", '"much"')
    bad = changed(bad, "vote_key", '"00"', 2)
    bad = changed(bad, "slot_s", "7")
    bad = changed(bad, "amount", "-1", 3)
    bad = changed(bad, "name", None)
    assert [problem.split(":")[0] for problem in problems(bad + "\n[extra]\n")] == [
        "chain.name",
        "ledger.max_money",
        "bft.validators[2].vote_key",
        "genesis.allocations[3].amount",
        "extra",
        "energy.slot_s",
    ]


def test_empty_file_names_what_is_missing():
    assert [problem.split(";")[0] for problem in problems("")] == [
        "chain.name: missing",
        "chain.genesis_time_s: missing",
        "bft.validators: missing",
    ]


@pytest.mark.parametrize("bad", ["[chain", "a = 1\na = 2", "x = " + "[" * 100_000])
def test_what_is_no_toml_is_refused(bad):
    assert problems(bad)[0].startswith("file: ")


def test_oversized_file_is_refused():
    assert "at most" in problems("#" * (chain_file_limit() + 1))[0]


def chain_file_limit():
    from consensus.ledger_limits import MAX_CHAIN_FILE_CHARS

    return MAX_CHAIN_FILE_CHARS


def test_signatures_bind_every_field_of_an_entry(text):
    (found,) = problems(changed(text, "name", '"nod 1"', 2))
    assert found == (
        "bft.validators[1].vote_signature: does not fit the entry; "
        "let nod 1 sign the entry again for chain toy"
    )
    found = problems(changed(text, "name", '"toys"'))
    assert len(found) == 4
    assert all("sign the entry again for chain toys" in problem for problem in found)


def test_identity_signature_is_checked_on_its_own(tools, text):
    entries = tools.make_params().bft.validators
    swapped = text.replace(entries[1].identity_signature.hex(), entries[2].identity_signature.hex())
    (found,) = problems(swapped)
    assert found.startswith("bft.validators[1].identity_signature: does not fit the entry")


def test_validators_are_distinct(tools):
    params = tools.make_params()
    first, *others = params.bft.validators
    twin = replace(params, bft=replace(params.bft, validators=(first, first, *others)))
    found = problems(render_chain_file(twin))
    assert [problem.split(";")[0] for problem in found] == [
        f"bft.validators[1].{key}: the same as bft.validators[0].{key}"
        for key in ("name", "vote_key", "identity_key")
    ]


def test_there_is_a_grid_operator(tools):
    params = tools.make_params()
    others = replace(params.bft, validators=params.bft.validators[1:])
    found = problems(render_chain_file(replace(params, bft=others)))
    assert found[0].startswith("bft.validators: nobody has the role grid-operator")
    assert found[1].startswith("energy.communities[0].grid_operator: not the payout_script of a validator")


def test_community_belongs_to_a_grid_operator(tools):
    params = tools.make_params()
    provider = params.bft.validators[1].payout_script
    energy = replace(params.energy, communities=(Community("toytown", provider),))
    (found,) = problems(render_chain_file(replace(params, energy=energy)))
    assert found.startswith("energy.communities[0].grid_operator: not the payout_script")


def test_communities_have_ids_of_their_own(tools):
    params = tools.make_params()
    energy = replace(params.energy, communities=params.energy.communities * 2)
    (found,) = problems(render_chain_file(replace(params, energy=energy)))
    assert found.startswith("energy.communities[1].id: the same as energy.communities[0].id")


def test_an_account_has_one_role(tools):
    params = tools.make_params(validators=1)
    entry = sign_entry(
        b"\x51" * 32,
        b"\x52" * 32,
        chain_name="toy",
        name="other",
        role="service-provider",
        payout_script=params.bft.validators[0].payout_script,
    )
    both = replace(params.bft, validators=(*params.bft.validators, entry))
    (found,) = problems(render_chain_file(replace(params, bft=both)))
    assert found.startswith(
        "bft.validators[1].payout_script: the account of a service-provider and of a grid-"
    )


def test_at_most_fifty_validators(tools):
    params = tools.make_params()
    many = replace(params.bft, validators=params.bft.validators[:1] * 51)
    found = problems(render_chain_file(replace(params, bft=many)))
    assert "bft.validators: found 51 entries; give at most 50" in found


def test_genesis_fits_a_block(tools):
    params = tools.make_params(max_block_weight=200_000)
    many = tuple(Allocation(tools.script_of(1), 1) for _ in range(1_500))
    (found,) = problems(render_chain_file(replace(params, allocations=many)))
    assert found.startswith("genesis.allocations: a genesis block of about")
    fits = replace(params, allocations=many[:1_350])
    world = tools.World(params=parse_chain_file(render_chain_file(fits)))
    assert world.genesis.weight <= 200_000


# ---- the documentation


def test_every_key_is_documented_with_its_default():
    page = (Path(__file__).parents[3] / "docs" / "chain-file.md").read_text()
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", page, re.MULTILINE)}
    tables = {
        **chain_fields.CHAIN_INTEGERS,
        **chain_fields.LEDGER_INTEGERS,
        **chain_fields.BFT_INTEGERS,
        **chain_fields.POW_INTEGERS,
        **chain_fields.ENERGY_INTEGERS,
        **chain_fields.PREFIX_INTEGERS,
    }
    for key, field in tables.items():
        cells = [cell.strip().replace(",", "").replace("`", "") for cell in rows[key].split("|")]
        default = "required" if field.default is None else str(field.default)
        shown = "0x207fffff" if key in ("bits", "max_target") else default
        assert shown in cells, (key, cells)
        assert f"{field.low} to {field.high}" in cells, (key, cells)
    texts = "name engine addresses bech32_hrp validators role vote_key identity_key payout_script"
    texts += " vote_signature identity_signature communities id grid_operator script_pubkey amount"
    texts += " checkpoints height block_hash"
    assert set(texts.split()) <= set(rows)


def test_the_documented_example_is_a_valid_chain_file():
    page = (Path(__file__).parents[3] / "docs" / "chain-file.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    assert parse_chain_file(example).name == "riverside"


# ---- coinbase maturity


def pow_text(text, **ledger):
    """Return the file as that of a pow chain, with keys of [ledger] set, or taken out where None."""
    pow_params = PowParams(0x207FFFFF, 0x207FFFFF, 15, 1_440, 150, 50 * COIN, 210_000, 6)
    params = replace(parse_chain_file(text), engine="pow", bft=NO_BFT, pow=pow_params)
    params = replace(params, energy=replace(params.energy, communities=()))
    shown = render_chain_file(params)
    for key, value in ledger.items():
        shown = changed(shown, key, value)
    return shown


def test_coinbases_of_a_pow_chain_mature_after_100_blocks_unless_the_file_says_else(text):
    key = "coinbase_maturity_blocks"
    assert parse_chain_file(changed(text, key, None)).ledger.coinbase_maturity_blocks == 0
    for value, blocks in ((None, 100), ("0", 0), ("7", 7), ("65535", 65_535)):
        params = parse_chain_file(pow_text(text, coinbase_maturity_blocks=value))
        assert params.ledger.coinbase_maturity_blocks == blocks
        assert parse_chain_file(render_chain_file(params)) == params
    for bad in ("-1", "65536", '"1"'):
        (problem,) = problems(changed(text, key, bad))
        assert problem.startswith("ledger.coinbase_maturity_blocks: found")


def test_a_maturity_of_0_is_what_older_chain_files_mean(tools):
    """Their nodes hash a map without the key, and must find each other."""
    params = tools.make_params()
    assert b"coinbase_maturity" not in canonical_chain_bytes(params)
    waiting = replace(params, ledger=replace(params.ledger, coinbase_maturity_blocks=1))
    assert canonical.decode(canonical_chain_bytes(waiting))["ledger"]["coinbase_maturity_blocks"] == 1
    assert chain_file_hash(waiting) != chain_file_hash(params)
