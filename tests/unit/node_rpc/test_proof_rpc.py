"""Rounds over RPC: what there is to follow, and what is not there."""

import pytest

from consensus.light import decode_steps
from node.rpc.errors import INVALID_PARAMETER, MISC_ERROR, RpcError


async def test_who_knows_the_current_round_gets_no_steps(served, node):
    found = await served.call("bft.getrounds", 0)
    assert decode_steps(bytes.fromhex(found.pop("steps"))) == (node.chain_id, ())
    assert found.pop("size") < 50
    assert found == {"known_round": 0, "round": 0, "current": 0, "count": 0}


async def test_a_round_that_has_not_begun(served, node):
    with pytest.raises(RpcError) as caught:
        await served.call("bft.getrounds", 1, True)
    assert caught.value.number == INVALID_PARAMETER
    node.mine()
    txid = node.blocks[1].txs[0].txid[::-1].hex()
    assert (await served.call("bft.getproof", txid))["steps"] == 0
    with pytest.raises(RpcError, match="no round 3 yet") as caught:
        await served.call("bft.getproof", txid, None, 3)
    assert caught.value.number == MISC_ERROR


async def test_a_chain_of_proof_of_work_has_no_rounds(served, node):
    node.pow = object()
    with pytest.raises(RpcError, match="count confirmations"):
        await served.call("bft.getrounds", 0)
