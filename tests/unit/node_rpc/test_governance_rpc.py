"""Governance over RPC: from an application to an organisation whose votes count."""

from dataclasses import replace

import pytest

from consensus import rounds
from consensus.dpos import first_seed, next_seed
from consensus.params import NO_BFT
from contracts.governance.entry import sign_application
from contracts.governance.operations import Approve, CommitReveals, Expel, VoteDelegates
from contracts.operations import encode, object_id
from node.rpc.errors import RpcError

AGREEMENT = bytes(range(32))


async def refused(served, method, *params):
    with pytest.raises(RpcError) as caught:
        await served.call(method, *params)
    return caught.value.number, caught.value.reason


def funded(node):
    """Give the founders that have no genesis coin one of their own."""
    from consensus.transaction import TxOut

    source = node.wallet(3)
    outputs = [TxOut(10**8, entry.payout_script) for entry in node.params.bft.validators]
    node.mine([source.pay(outputs).tx])
    return [node.wallet(80 + index) for index in range(4)]


def apply(node):
    applicant = node.wallet(2)
    operation = sign_application(
        node.params,
        b"\x33" * 32,
        b"\x44" * 32,
        name="newcomer",
        account=applicant.account.script,
        agreement_hash=AGREEMENT,
    )
    built = applicant.operate(encode(operation))
    node.mine([built.tx])
    return operation, object_id(built.tx.prevouts[0], encode(operation)).hex()


async def test_from_application_to_vote(served):
    node = served.node
    founders = funded(node)
    before = await served.call("governance.status")
    assert (before["committee"], before["quorum"], before["counting_since"]) == (4, 3, None)
    assert await served.call("governance.applications") == []
    operation, found = apply(node)
    view = await served.call("governance.application", found)
    assert view["account"] == served.address(2)
    assert view["vote_key"] == operation.vote_key.hex()
    assert await served.call("governance.applications") == [view]
    assert await served.call("governance.applications", 5, found) == []
    assert (await served.call("governance.status"))["counting_since"] == node.tip().height
    approve = encode(Approve(bytes.fromhex(found), AGREEMENT))
    for at, founder in enumerate(founders[:3]):
        approved_by = (await served.call("governance.application", found))["approved_by"]
        assert approved_by == [served.address(80 + each) for each in range(at)]
        await served.call("sendrawtransaction", founder.operate(approve).tx.raw.hex())
        node.mine()
    assert await served.call("governance.application", found) is None
    listed = {each["account"]: each for each in await served.call("governance.candidates")}
    assert listed[served.address(2)]["name"] == "newcomer"
    assert listed[served.address(2)]["agreement_hash"] == AGREEMENT.hex()
    assert listed[served.address(80)]["height"] is None
    newcomer = node.wallet(2)
    vote = VoteDelegates((founders[1].account.script,))
    node.mine([newcomer.operate(encode(vote)).tx])
    [standing] = await served.call("governance.votes")
    assert standing["account"] == served.address(2)
    assert standing["approvals"] == [served.address(81)]
    expel = encode(Expel(newcomer.account.script))
    node.mine([node.wallet(80).operate(expel).tx])
    [removal] = await served.call("governance.removals")
    assert (removal["account"], removal["voted_by"]) == (served.address(2), [served.address(80)])


async def test_a_tally_is_a_preview(served):
    node = served.node
    found = await served.call("governance.tally")
    everybody = sorted(served.address(80 + index) for index in range(4))
    assert sorted(found["delegates"]) == everybody
    assert sorted(each["account"] for each in found["ranking"]) == everybody
    assert found["alternates"] == []
    assert found["seed"] == next_seed(first_seed(node.chain_id), bytes(32)).hex()
    assert (found["mode"], found["epoch"], found["barred"]) == ("plurality", 1, [])
    other = await served.call("governance.tally", "proportional", "07" * 32)
    assert (other["mode"], other["seed"]) == ("proportional", "07" * 32)
    assert (await refused(served, "governance.tally", "lottery"))[0] == -8
    assert (await refused(served, "governance.tally", "plurality", "07"))[0] == -8


async def test_a_tally_takes_the_mode_of_the_chain_file(served):
    node = served.node
    bft = node.params.bft
    node.params = replace(node.params, bft=replace(bft, election="proportional", delegates=4))
    assert (await served.call("governance.tally"))["mode"] == "proportional"
    assert (await served.call("governance.tally", "plurality"))["mode"] == "plurality"
    status = await served.call("governance.status")
    assert (status["election"], status["max_delegates"], status["max_approvals"]) == ("proportional", 4, 21)


async def test_the_round_names_who_signs_and_what_may_end_it(served):
    node = served.node
    founders = funded(node)
    node.mine([founders[1].operate(encode(CommitReveals(bytes(32), 500, 2))).tx])
    node.contract_state.apply({rounds.OFFENCE + founders[2].account.script: (4).to_bytes(8, "big")})
    found = await served.call("governance.round")
    assert (found["round"], found["epoch"], found["n"], found["quorum"]) == (0, 0, 4, 3)
    assert [each["name"] for each in found["members"]] == [f"org-{index}" for index in range(4)]
    assert [each["account"] for each in found["members"]] == [served.address(80 + at) for at in range(4)]
    keys = [each.vote_key.hex() for each in node.params.bft.validators]
    assert [each["vote_key"] for each in found["members"]] == keys
    chain = {"left": 500, "generation": 2, "from_epoch": 1}
    assert [each["reveals"] for each in found["members"]] == [None, chain, None, None]
    assert [each["barred_until"] for each in found["members"]] == [None, None, 4, None]
    now_s = node.tip().time_s
    assert found["epoch_ends_s"] % 86_400 == found["next_substitution_s"] % 10_800 == 0
    assert now_s < found["next_substitution_s"] <= now_s + 10_800
    assert found["alternates"] == []
    [barred] = (await served.call("governance.tally"))["barred"]
    assert (barred["account"], barred["until_epoch"]) == (served.address(82), 4)
    status = await served.call("governance.status")
    assert (status["with_reveals"], status["barred"]) == (1, 1)


async def test_a_proof_of_work_chain_has_no_rounds(served):
    """And still answers who would be elected: nobody."""
    node = served.node
    node.params, node.pow = replace(node.params, bft=NO_BFT), object()
    number, reason = await refused(served, "governance.round")
    assert number == -1
    assert "no rounds" in reason
    preview = await served.call("governance.tally")
    assert (preview["delegates"], preview["takes_over"], preview["epoch"]) == ([], False, 0)
    assert (await served.call("governance.status"))["committee"] == 0


async def test_what_is_not_there(served):
    assert await served.call("governance.application", "00" * 32) is None
    assert await served.call("governance.votes") == []
    assert await served.call("governance.removals") == []
    number, reason = await refused(served, "governance.applications", 1001)
    assert (number, reason) == (-8, "limit must be at most 1000")


async def test_operations_are_decoded_with_addresses(served):
    one, two = sorted(served.node.wallet(number).account.script for number in (1, 2))
    prefixes = {served.node.wallet(number).account.script: served.address(number) for number in (1, 2)}
    shown = await served.call("energy.decode", encode(VoteDelegates((one, two))).hex())
    assert shown == {
        "operation": "governance.vote",
        "fields": {"approvals": [prefixes[one], prefixes[two]]},
    }
    shown = await served.call("energy.decode", encode(Expel(one)).hex())
    assert shown["fields"] == {"organisation": prefixes[one]}


async def test_an_operator_asks_for_a_reveal_chain(served):
    found = await served.call("governance.revealchain", 10)
    assert (found["length"], found["generation"]) == (10, 3)
    other = await served.call("governance.revealchain", 10, 4)
    assert other["generation"] == 4
    assert len({found["top"], other["top"]}) == 2
    CommitReveals.parse(bytes.fromhex(found["top"]), found["length"], found["generation"])
    assert await refused(served, "governance.revealchain", 0) == (-8, "length must be from 1 to 65536")
    assert await refused(served, "governance.revealchain", 1, 2**32) == (
        -8,
        "generation must be at most 4294967295",
    )
