"""What must hold when a campaign is over, beside one tip, one set of coins and every payment once."""

import json
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from consensus.bft.certificates import check_qc
from consensus.bft.codec import decode_qc
from consensus.bft.config import Electorate, genesis_base
from consensus.bft.types import Kind
from consensus.errors import DecodeError, RuleError
from consensus.light import Signers, Trust, check_proof, decode_proof
from node.proofs import founding_trust
from node.rpc.errors import RpcError
from node.testnet import LOG_NAME, LocalNode

if TYPE_CHECKING:
    from tests.perturb.campaign import Campaign

BATCH = 100
CERTIFICATES = 150
"""Of the blocks on each node but the first, whose certificates are all checked."""
PROOFS = 15
"""Of the payments, on each node."""


async def judge(campaign: "Campaign") -> None:
    """Compare the nodes, check certificates and proofs, and look for what honest nodes never do."""
    net, report = campaign.net, campaign.perturb_report
    tip = min([int(await net.call(node, "getblockcount")) for node in range(len(net.nodes))])
    hashes = await _same_hashes(campaign, tip)
    if report.problems:
        return
    trust = founding_trust(net.params, bytes.fromhex(hashes[0])[::-1])
    rng = Random(f"{report.seed}/judge")
    certificates = _Certificates(campaign, trust, hashes)
    for node in range(len(net.nodes)):
        all_of_them = range(1, tip + 1)
        picked = all_of_them if node == 0 else rng.sample(all_of_them, min(CERTIFICATES, tip))
        await certificates.check(node, picked)
        await _check_payments(campaign, trust, node, rng)
        if found := await net.call(node, "bft.evidence"):
            campaign.problem(f"node {node} holds evidence against an honest validator: {found}")
        if why := (await net.call(node, "bft.status"))["learner"]:
            campaign.problem(f"node {node} has lost its vote: {why}")
        for line in _alarms(net.nodes[node]):
            campaign.problem(f"node {node}: {line}")
    report.checked |= {"block hashes": (tip + 1) * len(net.nodes), "certificates": certificates.checked}
    report.checked |= {"rounds of signers": certificates.rounds}
    report.checked |= {"proofs of payments": min(PROOFS, len(campaign.payments)) * len(net.nodes)}


async def _same_hashes(campaign: "Campaign", tip: int) -> list[str]:
    """Return the block hashes of the first node after comparing those of all."""
    first: list[str] = []
    for node in range(len(campaign.net.nodes)):
        calls = [("getblockhash", (height,)) for height in range(tip + 1)]
        hashes = await _batches(campaign, node, calls)
        first = first or hashes
        if hashes != first:
            height = next(at for at, (mine, his) in enumerate(zip(first, hashes, strict=True)) if mine != his)
            campaign.problem(f"FORK at {height}: {first[height]} on node 0, {hashes[height]} on node {node}")
    return first


async def _batches(
    campaign: "Campaign", node: int, calls: Sequence[tuple[str, tuple[Any, ...]]]
) -> list[Any]:
    """Call all of them; an error of any is a problem."""
    client, results = await campaign.net.client(node), []
    for at in range(0, len(calls), BATCH):
        results += await client.batch(calls[at : at + BATCH])
    for call, result in zip(calls, results, strict=True):
        if isinstance(result, RpcError):
            campaign.problem(f"node {node} answers {call}: {result}")
    return results


class _Certificates:
    """Checks certificates against the founders, or against the set that a proof leads to."""

    def __init__(self, campaign: "Campaign", trust: Trust, hashes: list[str]) -> None:
        self._campaign = campaign
        self._trust = trust
        self._hashes = hashes
        self._signers: dict[int, Signers] = {trust.signers.round: trust.signers}
        self._known: set[str] = set()

    @property
    def checked(self) -> int:
        """How many different ones were checked."""
        return len(self._known)

    @property
    def rounds(self) -> int:
        """How many sets of signers they have."""
        return len(self._signers)

    async def check(self, node: int, heights: Sequence[int]) -> None:
        shown = await _batches(self._campaign, node, [("bft.certificate", (height,)) for height in heights])
        for height, each in zip(heights, shown, strict=True):
            if isinstance(each, RpcError):
                continue
            covers = each["certified_height"] >= height
            if covers and each["certified_height"] < len(self._hashes):
                covers = self._hashes[each["certified_height"]] == each["certified_hash"]
            if not covers:
                self._campaign.problem(f"node {node} proves block {height} with another one: {each}")
            if each["certificate"] not in self._known:
                self._known.add(each["certificate"])
                await self._verify(node, height, bytes.fromhex(each["certificate"]))

    async def _verify(self, node: int, height: int, encoded: bytes) -> None:
        certificate, chain_id = decode_qc(encoded), self._trust.chain_id
        try:
            if certificate.round not in self._signers:
                self._signers[certificate.round] = await self._learn(node, height)
            voters = self._signers[certificate.round].voters()
            check_qc(Electorate(chain_id, voters, genesis_base(chain_id)), certificate, Kind.COMMIT)
        except (RuleError, RpcError) as error:
            self._campaign.problem(f"node {node}: the certificate of block {height} does not hold: {error}")

    async def _learn(self, node: int, height: int) -> Signers:
        """Return the signers at a height, by a proof that follows the changes of the set."""
        block = await self._campaign.net.call(node, "getblock", self._hashes[height], 1)
        shown = await self._campaign.net.call(node, "bft.getproof", block["tx"][0])
        return check_proof(self._trust, decode_proof(bytes.fromhex(shown["proof"]))).trust.signers


async def _check_payments(campaign: "Campaign", trust: Trust, node: int, rng: Random) -> None:
    """A light client that has the chain file alone must believe some payments."""
    picked = rng.sample(sorted(campaign.payments), min(PROOFS, len(campaign.payments)))
    for txid in picked:
        try:
            shown = await campaign.net.call(node, "bft.getproof", txid)
            proven = check_proof(trust, decode_proof(bytes.fromhex(shown["proof"])))
        except (RuleError, DecodeError, RpcError) as error:
            campaign.problem(f"node {node}: the proof of payment {txid} does not hold: {error!r}, {shown}")
            continue
        if proven.tx.txid[::-1].hex() != txid:
            campaign.problem(f"node {node} proves another payment than {txid}")


def _alarms(node: LocalNode) -> list[str]:
    """Return what a node logged that honest nodes on honest disks never cause: bans, bugs, lost votes."""
    found = []
    for line in (node.config.datadir / LOG_NAME).read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            found.append(line[:300])
            continue
        message = str(record.get("message", ""))
        if (
            record.get("level") == "critical"
            or "banned" in message
            or "bug" in message
            or "does not vote" in message
        ):
            found.append(line[:300])
    return found
