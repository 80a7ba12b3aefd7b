"""Seeded histories of proof-of-work networks, each with what must hold in it: ``name(nodes, seed)``.

They raise AssertionError where it does not. ``python -m tests.simulation --kind pow`` plays many.
"""

from random import Random

from consensus.pow import types as t
from tests.simulation.pow_attacks import (
    SelfishMiner,
    Warper,
    counterfeit,
    majority,
    partition,
    rewrite,
    selfish,
    warp,
)
from tests.simulation.pow_models import rewrites, selfish_walk
from tests.simulation.pow_world import Node, Payment, World, agreed


def storm(nodes: int, seed: int) -> None:
    """Everything at once: partitions, lost messages, clocks that differ, slow links, pruned trees, attackers.

    The honest end with one chain, the one of most work that was shown, on which no coin is spent twice.
    """
    dice = Random(seed)
    world = World(seed, latency_s=dice.choice([0.05, 0.2, 1.0]))
    world.loss = dice.choice([0.0, 0.0, 0.05, 0.2])
    honest = [
        Node(
            world,
            dice.uniform(0.2, 1) / nodes,
            clock_s=dice.randrange(-20, 21),
            keep_depth=dice.choice([40, 10_000]),
        )
        for _ in range(nodes)
    ]
    if dice.random() < 0.5:
        SelfishMiner(world, dice.uniform(0.05, 0.4))
    if dice.random() < 0.3:
        strategy, limit_s = dice.choice(["ahead", "behind", "zigzag"]), dice.choice([100, 150])
        Warper(world, 0.2, strategy=strategy, limit_s=limit_s)
    world.start()
    for coin in range(dice.randrange(4, 12)):
        if dice.random() < 0.4:
            world.part(dice.sample(range(len(world.nodes)), dice.randrange(1, len(world.nodes))))
        for node in dice.sample(honest, min(2, nodes)):
            node.on_payment(node.index, Payment(coin, f"somebody {node.index}"))
        world.run(dice.uniform(10, 400))
        world.part()
        world.run(dice.uniform(0, 100))
    world.loss = 0.0
    for node in world.nodes:
        if isinstance(node, SelfishMiner):
            node.share = 0.0
            node.mine()
    assert world.run(20_000.0, lambda: agreed(honest)), "the honest do not agree"
    # They may agree while bodies of a heavier branch are still asked for.
    best = "not the chain of most work"
    assert world.run(20_000.0, lambda: agreed(honest) and on_most_work(world, honest)), best
    chain = world.ancestry(honest[0].chain[-1])
    spent = [payment.coin for block in chain for payment in block.payments]
    assert len(spent) == len(set(spent)), "a coin was spent twice on one chain"
    assert not any(node.seen(t.Misbehaviour) for node in honest), "the honest blame each other"


def on_most_work(world: World, honest: list[Node]) -> bool:
    """Tell whether no branch has more work whose every block some honest node holds.

    An attacker may have shown the last blocks of a branch alone; nobody can follow that.
    """
    held = {block_hash for block_hash in world.blocks if any(block_hash in node.bodies for node in honest)}
    shown = [
        block.work
        for block_hash, block in world.blocks.items()
        if held.issuperset(up.header.hash for up in world.ancestry(block_hash))
    ]
    return world.blocks[honest[0].chain[-1]].work >= max(shown)


def rewriting(nodes: int, seed: int) -> None:
    """An alternative history succeeds exactly where the walk of the textbook says, and robs the merchant."""
    dice = Random(seed)
    share, depth, lead = dice.uniform(0.1, 0.45), dice.randrange(1, 7), dice.randrange(2)
    result = rewrite(seed, share, depth, lead=lead)
    assert result.succeeded == rewrites(result.order, depth, lead=lead, patience=14), "not as the model"
    assert result.robbed == result.succeeded, "success and loss differ"


def selfishness(nodes: int, seed: int) -> None:
    """A selfish miner earns what Eyal and Sirer's machine says of the same order of finds."""
    dice = Random(seed)
    result = selfish(seed, dice.uniform(0.1, 0.45), 150, honest=nodes)
    order = [0 if finder == result.attacker else finder + 1 for finder in result.order]
    own, blocks = selfish_walk(order, lambda finder, rival: finder != rival)
    assert (result.own, result.blocks) == (own, blocks), "not as the model"


def takeover(nodes: int, seed: int) -> None:
    """Most of the hash rate wins in the end, is told of, and stops at a checkpoint."""
    dice = Random(seed)
    share, depth = dice.uniform(0.55, 0.8), dice.randrange(1, 10)
    result = majority(seed, share, depth)
    assert result.attacker.succeeded
    assert result.merchant.robbed, "the attack failed"
    warned = result.world.params.pow.reorg_warn_depth
    for node in (*result.nodes, result.merchant):
        told = [reorg.depth for reorg in node.seen(t.DeepReorg)]
        assert max(told, default=0) == (node.reorganised if node.reorganised > warned else 0), "told wrongly"
    fixed = majority(seed, share, depth, checkpointed=[0, 1, 3])
    assert not fixed.merchant.robbed, "the checkpoint did not hold"
    assert all(not node.seen(t.DeepReorg) for node in (*fixed.nodes[:2], fixed.merchant))
    assert fixed.nodes[2].reorganised >= depth, "without checkpoint work decides"


def forgery(nodes: int, seed: int) -> None:
    """No share of the hash rate makes a block valid that is not; its lead is told to the operator."""
    result = counterfeit(seed, Random(seed).uniform(0.55, 0.8))
    bad = result.attacker.branch[0].header.hash
    for node in (*result.nodes, result.merchant):
        assert bad not in node.chain, "followed an invalid branch"
        assert node.state.tree.faults == {bad: "bad-txns-inputs-missingorspent"}
        assert node.seen(t.InvalidLead) == [t.InvalidLead(bad, "bad-txns-inputs-missingorspent")]


def healing(nodes: int, seed: int) -> None:
    """After a partition there is one chain again; what only the lighter side had confirmed is mined anew."""
    dice = Random(seed)
    healed = partition(seed, dice.randrange(20, 60), light_share=dice.uniform(0.1, 0.3))
    for node in (*healed.light, *healed.heavy):
        assert node.spent[2].payee == "light alone"
        assert len({peer.spent[1] for peer in healed.world.nodes}) == 1
    loser = max((*healed.light, *healed.heavy), key=lambda node: node.reorganised)
    if loser in healed.light:
        assert loser.reorganised >= healed.lost  # 0: a small share may find nothing in so short a time
        assert loser.spent[1].payee == "heavy"


def lying(nodes: int, seed: int) -> None:
    """A minority that lies about time gains no blocks and does not move the rate of the chain."""
    dice = Random(seed)
    share, strategy = dice.uniform(0.1, 0.4), dice.choice(["ahead", "behind", "zigzag"])
    height, part = warp(seed, share, strategy, 300)
    assert 300 - 60 <= height <= 300 + 10 + 60, f"{height} blocks in 300 intervals"
    assert part <= share + 0.15, f"{part:.2f} of the blocks for {share:.2f} of the hash rate"
    _, part = warp(seed, share, "ahead", 300, limit_s=200)
    assert part <= share / 2, f"{part:.2f} of the blocks in spite of stamps beyond the limit"
