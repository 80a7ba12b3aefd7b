"""Short campaigns on real nodes from a fresh seed; ``make perturb`` runs long ones."""

import asyncio
import os
import secrets

import pytest

from tests.perturb.campaign import Order, run
from tests.perturb.namespaces import why_not

pytestmark = pytest.mark.functional

SEED = int(os.environ.get("WATTD_PERTURB_SEED") or secrets.randbelow(2**32))
LONGEST_S = 2.5
ROUND_S = 5


@pytest.mark.parametrize(
    ("nodes", "kinds"),
    [
        (4, ("kill-leader", "pause-leader", "isolate-one", "halves", "slow-disk-leader")),
        (7, ("kill-f", "ring", "restart-all")),
    ],
)
def test_perturbed_nodes_recover_and_agree(tmp_path, nodes, kinds):
    print(f"WATTD_PERTURB_SEED={SEED}")
    report = asyncio.run(run(tmp_path, Order(nodes, 0, SEED, kinds, LONGEST_S, round_s=ROUND_S)))
    assert report.problems == [], str(report)
    assert len(report.played) + len(report.skipped) == len(kinds), str(report)
    assert report.checked["certificates"] > 5
    assert report.checked["rounds of signers"] > 1
    assert report.sent > 100


def test_nodes_in_namespaces_recover_from_lost_packets(tmp_path):
    if reason := why_not():
        pytest.skip(f"network namespaces: {reason}")
    print(f"WATTD_PERTURB_SEED={SEED}")
    order = Order(4, 0, SEED, ("isolate-leader", "leader-deaf"), LONGEST_S, namespaces=True)
    report = asyncio.run(run(tmp_path, order))
    assert report.problems == [], str(report)
    assert len(report.played) == 2
