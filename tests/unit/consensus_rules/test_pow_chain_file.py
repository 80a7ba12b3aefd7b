"""The table [pow] of a chain file: what is read, what is refused with which words, what makes the chain."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import canonical
from consensus.chain_fields import POW_INTEGERS
from consensus.chainfile import canonical_chain_bytes, chain_file_hash, parse_chain_file, render_chain_file
from consensus.errors import ConfigError
from consensus.ledger_limits import MAX_CHECKPOINTS
from consensus.params import NO_BFT, Checkpoint
from consensus.pow.engine import config_of
from consensus.pow.rules import pow_of
from consensus.pow.target import target_of
from tests.unit.consensus_pow.powkit import make_params

FIXED = Checkpoint(3, bytes(range(32)))
KEYS = tuple(POW_INTEGERS)


def text_of(*checkpoints, **rules):
    return render_chain_file(make_params(checkpoints=checkpoints, **rules))


def problems(text):
    with pytest.raises(ConfigError) as caught:
        parse_chain_file(text)
    assert caught.value.code == "bad-chain-file"
    return list(caught.value.problems)


def changed(text, key, value, occurrence=0):
    """Return ``text`` with the line of ``key`` set to ``value`` (None: taken out)."""
    lines = text.split("\n")
    at = [number for number, line in enumerate(lines) if line.startswith(f"{key} = ")][occurrence]
    lines[at : at + 1] = [] if value is None else [f"{key} = {value}"]
    return "\n".join(lines)


# ---- what is read


def test_rendered_file_parses_to_the_same_parameters():
    params = make_params(checkpoints=(FIXED, Checkpoint(2_000, b"\x07" * 32)))
    assert parse_chain_file(render_chain_file(params)) == params
    assert parse_chain_file(render_chain_file(params)).bft == NO_BFT


targets = st.builds(lambda size, word: size << 24 | word, st.integers(3, 32), st.integers(1, 0x7FFFFF))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_valid_table_survives_rendering(data):
    free = {
        key: data.draw(st.integers(field.low, field.high))
        for key, field in POW_INTEGERS.items()
        if key not in ("bits", "max_target", "half_life_s", "future_limit_s")
    }
    bits, most = sorted((data.draw(targets), data.draw(targets)), key=target_of)
    field = POW_INTEGERS["future_limit_s"]
    future = data.draw(st.integers(field.low, field.high))
    half_life = data.draw(st.integers(future, POW_INTEGERS["half_life_s"].high))
    heights = data.draw(st.lists(st.integers(1, 2**31 - 1), unique=True, max_size=4))
    fixed = tuple(
        Checkpoint(height, data.draw(st.binary(min_size=32, max_size=32))) for height in sorted(heights)
    )
    params = make_params(
        bits=bits, max_target=most, half_life_s=half_life, future_limit_s=future, checkpoints=fixed, **free
    )
    rendered = render_chain_file(params)
    assert parse_chain_file(rendered) == params
    assert chain_file_hash(parse_chain_file(rendered)) == chain_file_hash(params)


def test_an_empty_table_is_the_defaults():
    text = text_of()
    for key in KEYS:
        text = changed(text, key, None)
    rules = parse_chain_file(text).pow
    assert {key: getattr(rules, key) for key in KEYS} == {k: f.default for k, f in POW_INTEGERS.items()}
    assert (
        parse_chain_file(text.replace("[pow]\n", "")).pow == rules
    )  # the engine is named, the table may lack


@pytest.mark.parametrize(
    ("spacing", "half_life", "future"), [(1, 96, 10), (600, 57_600, 6_000), (7_200, 691_200, 7_200)]
)
def test_half_life_and_future_limit_follow_the_spacing(spacing, half_life, future):
    text = changed(text_of(), "spacing_s", str(spacing))
    text = changed(changed(text, "half_life_s", None), "future_limit_s", None)
    rules = parse_chain_file(text).pow
    assert (rules.half_life_s, rules.future_limit_s) == (half_life, future)


def test_checkpoints_are_written_as_explorers_show_hashes():
    text = text_of(FIXED)
    assert f'block_hash = "{bytes(range(31, -1, -1)).hex()}"' in text
    assert parse_chain_file(text).pow.checkpoints == (FIXED,)
    assert config_of(parse_chain_file(text)).checkpoints == {3: bytes(range(32))}


# ---- what makes the chain


def test_checkpoints_are_no_part_of_the_chains_identity():
    """They name blocks, which lie above the genesis that has the file's hash in it."""
    plain, fixed = make_params(), make_params(checkpoints=(FIXED,))
    assert plain != fixed
    assert chain_file_hash(plain) == chain_file_hash(fixed)
    assert canonical_chain_bytes(plain) == canonical_chain_bytes(fixed)


@pytest.mark.parametrize("key", KEYS)
def test_every_other_key_is(key):
    params = make_params()
    other = replace(params, pow=replace(params.pow, **{key: getattr(params.pow, key) - 1}))
    assert chain_file_hash(other) != chain_file_hash(params)


def test_the_engine_that_does_not_run_is_not_hashed():
    sections = canonical.decode(canonical_chain_bytes(make_params()))
    assert "bft" not in sections
    assert set(sections["pow"]) == set(KEYS)


def test_the_hash_of_a_pow_chain_is_stable():
    """A change of this number is another chain."""
    assert (
        chain_file_hash(make_params()).hex()
        == "c5e605c6e502494183b8beb55da564b915c266554375f5baff754a16273fa535"
    )


# ---- what is refused


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("bits", "0", "pow.bits: found 0; give an integer from 1 to 4294967295 (compact target)"),
        ("bits", "0x1d800000", "pow.bits: found 0x1d800000; give a compact target, such as 0x207fffff"),
        ("bits", "0x03000000", "pow.bits: found 0x03000000; give a compact target, such as 0x207fffff"),
        ("bits", "0x21010000", "pow.bits: found 0x21010000; give a compact target, such as 0x207fffff"),
        (
            "bits",
            "0x2100ffff",
            "pow.bits: found 0x2100ffff, max_target is 0x207fffff; give at most max_target:",
        ),
        ("bits", "4294967296", "pow.bits: found 4294967296; give an integer from 1 to 4294967295"),
        ("bits", '"1d00ffff"', "pow.bits: found '1d00ffff'; give an integer from 1"),
        ("bits", "true", "pow.bits: found True; give an integer from 1"),
        ("max_target", "0x1d800000", "pow.max_target: found 0x1d800000; give a compact target"),
        (
            "max_target",
            "0x1f7fffff",
            "pow.bits: found 0x200fffff, max_target is 0x1f7fffff; give at most max_target",
        ),
        ("max_target", "-1", "pow.max_target: found -1; give an integer from 1"),
        ("spacing_s", "0", "pow.spacing_s: found 0; give an integer from 1 to 86400 (seconds)"),
        ("spacing_s", "86401", "pow.spacing_s: found 86401; give an integer from 1 to 86400 (seconds)"),
        ("spacing_s", "1.5", "pow.spacing_s: found 1.5; give an integer"),
        ("half_life_s", "0", "pow.half_life_s: found 0; give an integer from 1 to 31622400 (seconds)"),
        ("half_life_s", "31622401", "pow.half_life_s: found 31622401; give an integer from 1 to 31622400"),
        ("half_life_s", "99", "pow.future_limit_s: found 100, half_life_s is 99; give at most half_life_s"),
        ("future_limit_s", "0", "pow.future_limit_s: found 0; give an integer from 1 to 7200 (seconds)"),
        (
            "future_limit_s",
            "7201",
            "pow.future_limit_s: found 7201; give an integer from 1 to 7200 (seconds)",
        ),
        (
            "future_limit_s",
            "101",
            "pow.future_limit_s: found 101, half_life_s is 100; give at most half_life_s",
        ),
        (
            "subsidy",
            "-1",
            "pow.subsidy: found -1; give an integer from 0 to 9007199254740991 (base units per block)",
        ),
        ("subsidy", "9007199254740992", "pow.subsidy: found 9007199254740992; give an integer from 0"),
        (
            "subsidy_halving_blocks",
            "0",
            "pow.subsidy_halving_blocks: found 0; give an integer from 1 to 2147483647",
        ),
        (
            "reorg_warn_depth",
            "0",
            "pow.reorg_warn_depth: found 0; give an integer from 1 to 2147483647 (blocks)",
        ),
        ("height", None, "pow.checkpoints[0].height: missing; give an integer, height"),
        ("height", "0", "pow.checkpoints[0].height: found 0; give an integer from 1 to 2147483647 (height)"),
        (
            "block_hash",
            '"00"',
            "pow.checkpoints[0].block_hash: found 2 hex digits; give 64 hex digits (block hash",
        ),
        ("block_hash", '"xy"', "pow.checkpoints[0].block_hash: found 'xy'; give 64 hex digits"),
        ("block_hash", None, "pow.checkpoints[0].block_hash: missing; give 64 hex digits"),
    ],
)
def test_one_fault_is_one_problem(key, value, expected):
    found = problems(changed(text_of(FIXED), key, value))
    assert len(found) == 1, found
    assert found[0].startswith(expected)


@pytest.mark.parametrize("heights", [(3, 3), (4, 3), (1, 5, 4)])
def test_checkpoints_ascend(heights):
    text = text_of(*(Checkpoint(height, bytes(32)) for height in heights))
    assert problems(text) == ["pow.checkpoints: heights do not ascend; give each height once, lowest first"]


def test_too_many_checkpoints():
    text = text_of(*(Checkpoint(height + 1, bytes(32)) for height in range(MAX_CHECKPOINTS + 1)))
    assert problems(text)[0].startswith("pow.checkpoints: found 1001 entries; give at most 1000")


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        ("spacing = 5", "[pow]", "pow.spacing: unknown key; did you mean spacing_s?"),
        ("difficulty = 5", "[pow]", "pow.difficulty: unknown key; known are spacing_s"),
        ("hash = 5", "[[pow.checkpoints]]", "pow.checkpoints[0].hash: unknown key; "),
    ],
)
def test_unknown_keys_are_named(line, after, expected):
    found = problems(text_of(FIXED).replace(after, f"{after}\n{line}", 1))
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_the_other_engines_table_is_refused(tools):
    found = problems(text_of() + "\n[bft]\nround_s = 100\n")
    assert found == ["bft: a table of the bft engine; leave it out: the engine is pow"]
    bft = render_chain_file(tools.make_params())
    found = problems(bft + "\n[pow]\nspacing_s = 15\n")
    assert found == ["pow: a table of the pow engine; leave it out: the engine is bft"]


def test_a_bft_chain_has_no_rules_of_proof_of_work(tools):
    params = tools.make_params()
    for ask in (pow_of, config_of):
        with pytest.raises(ConfigError) as caught:
            ask(params)
        assert caught.value.problems == ("chain.engine: 'bft' is no proof of work",)


def test_several_faults_are_told_at_once():
    text = text_of(FIXED)
    for key, value in (("bits", "0"), ("spacing_s", "0"), ("height", "0"), ("subsidy", "-1")):
        text = changed(text, key, value)
    paths = [problem.split(":")[0] for problem in problems(text)]
    assert sorted(paths) == ["pow.bits", "pow.checkpoints[0].height", "pow.spacing_s", "pow.subsidy"]
