"""The committees of the benchmarks do what they time: blocks become final everywhere, the count is right."""

import math
from pathlib import Path

import pytest

from node.bench import consensus, meters
from node.bench.consensus import Line, make_blocks


def test_a_committee_and_its_followers_hold_one_chain(tmp_path: Path) -> None:
    with make_blocks(4, 2, 6, 5, tmp_path) as committee:
        committee.start()
        committee.run_to(6)
        hashes = {node.chain.store.block_hash(6) for node in committee.nodes}
        assert len(hashes) == 1
        assert len(committee.nodes) == 6
        [block] = {node.chain.block(node.chain.store.block_hash(3)).raw for node in committee.nodes}
        assert all(tx.raw in block for tx in committee.supply(3))
        assert committee.block_ns(2, 6) > 0
        assert all(node.worked_ns > 0 for node in committee.nodes)


def test_a_committee_that_has_settled_has_nothing_under_way(tmp_path: Path) -> None:
    with make_blocks(4, 1, 3, 5, tmp_path) as committee:
        committee.start()
        committee.run_to(3)
        committee.settle()
        for node in committee.nodes:
            for peer, link in node.links.items():
                assert link.messages_received == committee.nodes[peer].links[node.index].messages_sent


@pytest.mark.parametrize("validators", [4, 7])
def test_each_block_takes_one_proposal_and_one_vote_per_follower(
    monkeypatch: pytest.MonkeyPatch, validators: int
) -> None:
    monkeypatch.setattr(consensus, "BLOCK_TXS", 4)
    traffic = consensus._traffic(validators)
    assert traffic.messages["Bft"] == 2 * (validators - 1) * consensus.COUNTED_BLOCKS
    assert traffic.wire_bytes["Bft"] > 200 * traffic.messages["Bft"]


def test_the_table_of_messages_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("SIZES", (4, 5, 7)), ("COUNTED_BLOCKS", 2), ("BLOCK_TXS", 4)):
        monkeypatch.setattr(consensus, name, small)
    found = {each.name: each.value for each in consensus.BENCHMARKS[0].run(lambda line: None)}
    assert found["consensus_bytes[messages, residual]"] == pytest.approx(0)
    assert [found[f"consensus_bytes[n={n}, messages]"] for n in (4, 5, 7)] == [6, 8, 12]
    assert found["consensus_bytes[n=7, all]"] == pytest.approx(6 * found["consensus_bytes[n=7, link]"])
    assert found["consensus_bytes"] > 0


def test_followers_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("SCALING_DELEGATES", 4), ("SCALING_SIZES", (5, 6)), ("SCALING_BLOCKS", 3)):
        monkeypatch.setattr(consensus, name, small)
    monkeypatch.setattr(consensus, "SCALING_BLOCK_TXS", 5)
    head, growth, *_ = consensus.BENCHMARKS[1].run(lambda line: None)
    assert head.name == "committee_scaling"
    assert head.ratio is not None
    assert growth.value == pytest.approx(1 / head.ratio)


def test_a_round_of_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("METERS", (9, 12)), ("PROVIDERS", (5, 10)), ("DELEGATES", 5), ("ROUNDS", 2)):
        monkeypatch.setattr(meters, name, small)
    monkeypatch.setattr(meters, "MAX_READINGS_PER_BATCH", 2)
    head, *cells = meters.BENCHMARKS[0].run(lambda line: None)
    assert head.name == "leader_time"
    table = [f"{count} meters, {providers} providers" for providers in (5, 10) for count in (9, 12)]
    all_vote = [f"{count} meters, 10 providers, all vote" for count in (9, 12)]
    assert [cell.name for cell in cells] == [
        f"leader_time[{cell}{kind}]" for kind in ("", ", processor", ", arrival") for cell in table
    ] + [f"leader_time[{cell}{kind}]" for cell in all_vote for kind in ("", ", processor", ", arrival")]
    assert [cell.reference_value for cell in cells[:4]] == [51.4, 102.6, 51.7, 105.0]
    assert head.ratio == min(cell.ratio for cell in cells[:4] if cell.ratio is not None)


def test_lines_are_fitted() -> None:
    exact = Line.through([1, 2, 5], [5, 7, 13])
    assert (exact.slope, exact.start) == pytest.approx((2, 3))
    assert exact.residual == pytest.approx(0)
    assert exact.r_squared == pytest.approx(1)
    bent = Line.through([0, 1, 2], [0, 0, 3])
    assert (bent.slope, bent.start) == pytest.approx((1.5, -0.5))
    assert math.isclose(bent.residual, 1 / 3)
    assert math.isclose(bent.r_squared, 1 - 1.5 / 6)
