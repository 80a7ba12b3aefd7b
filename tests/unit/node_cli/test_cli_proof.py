"""``wattd proof trust`` with pages as files: followed, compared with a second source, and contradicted."""

import json
from dataclasses import replace

import pytest

from consensus.bft.config import Electorate, genesis_base
from consensus.bft.evidence import check_evidence, decode_evidence
from consensus.light import decode_steps, encode_steps, next_signers
from consensus.transaction import hash_hex
from node.cli.main import run_command
from node.clock import Clock
from node.proofs import parse_trust, render_trust
from tests.unit.consensus_bft.test_light_rounds import CHAIN, Rounds

DAY_S = 86_400


@pytest.fixture(scope="module")
def chain():
    return Rounds(5, 100, turnover=0)


@pytest.fixture
def folder(tmp_path, chain):
    """A trust file of the founders' round, and pages of steps."""
    trust = replace(chain.trust(), time_s=Clock().now_s())
    (tmp_path / "trust.json").write_text(render_trust(trust))
    (tmp_path / "page.bin").write_bytes(encode_steps(CHAIN, chain.steps[:3]))
    (tmp_path / "more.bin").write_bytes(encode_steps(CHAIN, chain.steps))
    return tmp_path


@pytest.fixture
def trust(folder, capsys):
    """Run ``wattd proof trust`` on files of the folder; return (status, standard error)."""

    def run(*arguments):
        meant = [str(folder / each) if "." in each else each for each in arguments]
        status = run_command(["proof", "trust", *meant])
        return status, capsys.readouterr().err

    return run


def reached(folder, name="new.json"):
    return parse_trust((folder / name).read_text())


def test_a_page_leads_to_a_new_trust(folder, trust, chain):
    assert trust("--trust", "trust.json", "--rounds", "page.bin", "--out", "new.json")[0] == 0
    assert reached(folder).signers == chain.signers(3)
    (folder / "last.bin").write_bytes(encode_steps(CHAIN, chain.steps[3:]))
    old = json.loads((folder / "new.json").read_text())
    status, said = trust("--trust", "new.json", "--rounds", "last.bin", "--out", "new.json")
    assert (status, "light-trust-expired" in said) == (65, True)  # by the blocks' time, which is years ago
    (folder / "new.json").write_text(json.dumps(old | {"time_s": Clock().now_s()}))
    assert trust("--trust", "new.json", "--rounds", "last.bin", "--out", "new.json")[0] == 0
    assert reached(folder).signers == chain.signers(5)


def test_sources_that_agree_may_reach_differently_far(folder, trust, chain):
    sources = ("--rounds", "page.bin", "--witness", "more.bin")
    assert trust("--trust", "trust.json", *sources, "--out", "new.json")[0] == 0
    assert reached(folder).signers == chain.signers(3)


def test_skipping_is_asked_for(folder, trust, chain):
    step = replace(chain.steps[3], voters=chain.signers(3))
    (folder / "skip.bin").write_bytes(encode_steps(CHAIN, [step]))
    given = ("--trust", "trust.json", "--rounds", "skip.bin", "--out", "new.json")
    status, said = trust(*given)
    assert (status, "light-skip-refused" in said) == (65, True)
    assert not (folder / "new.json").exists()
    assert trust(*given, "--skip")[0] == 0
    assert reached(folder).signers == chain.signers(4)


def test_a_contradiction_is_kept_and_nothing_new_is_trusted(folder, trust, chain):
    rival = chain.step(1, following=chain.signers(2, list(chain.keys)[4:]), members=(1, 2, 3))
    (folder / "rival.bin").write_bytes(encode_steps(CHAIN, [chain.steps[0], rival]))
    sources = ("--rounds", "page.bin", "--witness", "rival.bin")
    status, said = trust("--trust", "trust.json", *sources, "--out", "new.json")
    assert (status, "light-conflict" in said, "round 1" in said) == (65, True, True)
    assert not (folder / "new.json").exists()
    kept = json.loads((folder / "new.json.conflict").read_text())
    assert (kept["chain_id"], kept["round"]) == (hash_hex(CHAIN), 1)
    signers = chain.signers(1)
    assert kept["signed_both"] == [signers.keys[at].hex() for at in (1, 2)]
    assert len({branch["block_hash"] for branch in kept["branches"]}) == 2
    for branch in kept["branches"]:
        chain_id, (step,) = decode_steps(bytes.fromhex(branch["steps"]))
        assert (chain_id, step.voters) == (CHAIN, signers)
        assert next_signers(CHAIN, signers, replace(step, voters=None)) == step.signers
    electorate = Electorate(CHAIN, signers.voters(), genesis_base(CHAIN))
    assert len(kept["evidence"]) == 2
    for encoded in kept["evidence"]:
        number, evidence = decode_evidence(bytes.fromhex(encoded))
        assert number == 1
        check_evidence(electorate, evidence)


def test_pages_that_do_not_fit_are_refused(folder, trust, chain):
    (folder / "foreign.bin").write_bytes(encode_steps(bytes(32), chain.steps[:1]))
    (folder / "later.bin").write_bytes(encode_steps(CHAIN, chain.steps[1:]))
    (folder / "noise.bin").write_bytes(b"\xc0")
    for name, code in (("foreign", "wrong-chain"), ("later", "unknown-round"), ("noise", "bad-proof")):
        status, said = trust("--trust", "trust.json", "--rounds", f"{name}.bin", "--out", "new.json")
        assert (status, code in said) == (65, True)
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--trust", "trust.json", "--witness", "page.bin"),
        ("--trust", "trust.json", "--rounds", "page.bin", "--follow", "."),
    ],
)
def test_options_that_make_no_sense_together(trust, options):
    assert trust(*options, "--out", "new.json")[0] == 2
