"""The eyes of the demo: every block once, the leader of the highest term, nodes that do not answer."""

import pytest

from node.demo.lanes import Lanes
from node.demo.limits import MAX_BLOCKS_PER_POLL
from node.demo.watch import Watch
from node.rpc.client import RpcUnavailable
from node.testnet import Founder


class FakeNode:
    """A node of a fake testnet: what it answers, and whether it does."""

    def __init__(self, name):
        self.founder = Founder(name, "service-provider")
        self.is_running = True
        self.answers = True
        self.height = 0
        self.term = 1
        self.leader = 0

    async def batch(self, requests):
        if not self.answers:
            raise RpcUnavailable("rpc-unreachable", "gone")
        return [getattr(self, method.replace(".", "_"))(*arguments) for method, arguments in requests]

    def bft_status(self):
        return {
            "role": "follower",
            "term": self.term,
            "leader_name": None if self.leader is None else f"node-{self.leader}",
            "committed_height": self.height,
        }

    def getconnectioncount(self):
        return 3

    def getmempoolinfo(self):
        return {"size": 7}

    def getblockhash(self, height):
        return f"hash-{height}"

    def getblock(self, block_hash, verbosity):
        height = int(block_hash.removeprefix("hash-"))
        return {
            "height": height,
            "time": 1000 + height,
            "term": self.term,
            "tx": ["coinbase", f"tx-{height}"],
        }


class FakeNet:
    def __init__(self):
        self.nodes = [FakeNode(f"node-{at}") for at in range(4)]

    async def client(self, index):
        return self.nodes[index]


@pytest.fixture
def net():
    return FakeNet()


async def test_every_block_is_seen_once_and_in_order(net):
    watch = Watch(net)
    assert await watch.poll() == []
    net.nodes[1].height = MAX_BLOCKS_PER_POLL + 5
    seen = await watch.poll() + await watch.poll() + await watch.poll()
    assert [block.height for block in seen] == list(range(1, MAX_BLOCKS_PER_POLL + 6))
    assert seen[3].txids == ["tx-4"]
    assert watch.transactions == len(seen)
    assert watch.last is seen[-1]
    assert watch.rate > 0


async def test_the_leader_is_that_of_the_highest_term(net):
    watch = Watch(net)
    net.nodes[2].term, net.nodes[2].leader = 3, 1
    net.nodes[3].term, net.nodes[3].leader = 4, None
    await watch.poll()
    assert (watch.leader, watch.term) == (1, 4)


async def test_nodes_that_do_not_answer_are_away(net):
    watch = Watch(net)
    net.nodes[0].is_running = False
    net.nodes[1].answers = False
    net.nodes[2].height = 9
    net.nodes[3].height = 3
    await watch.poll()
    assert watch.up == [2, 3]
    assert watch.best() == 2
    assert watch.has_caught_up(2)
    assert not watch.has_caught_up(3)
    assert not watch.has_caught_up(0)
    net.nodes[3].height = 8
    net.nodes[1].answers = True
    await watch.poll()
    assert watch.up == [1, 2, 3]
    assert watch.has_caught_up(3)
    watch.lost(3)
    assert watch.up == [1, 2]


async def test_nobody_answers(net):
    watch = Watch(net)
    for node in net.nodes:
        node.answers = False
    assert await watch.poll() == []
    assert (watch.best(), watch.leader, watch.up) == (None, None, [])


async def test_a_lane_tells_what_went_wrong_in_it():
    async def fail():
        raise RuntimeError("a bug")

    lanes = Lanes()
    await lanes.wait(1.0)
    lanes.start(0, fail())
    assert not lanes.is_free(0)
    with pytest.raises(RuntimeError, match="a bug"):
        await lanes.wait(1.0)
    assert lanes.is_free(0)
