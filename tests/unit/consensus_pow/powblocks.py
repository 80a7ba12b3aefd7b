"""Whole blocks of proof of work on the world of the rule tests: templates, mined blocks, undone blocks."""

from dataclasses import replace

from consensus.assemble import assemble_template
from consensus.block import Block, BlockHeader
from consensus.pow.target import target_of
from tests.unit.consensus_pow.powkit import SPACING, make_params


def prove(block: Block) -> Block:
    """Return the block with the first nonce that meets its own bits."""
    target, nonce = target_of(block.header.bits), 0
    while int.from_bytes(block.header.hash, "little") > target:
        block = with_nonce(block, nonce)
        nonce += 1
    return block


def with_nonce(block: Block, nonce: int) -> Block:
    return Block.build(BlockHeader.parse(block.header.raw[:76] + nonce.to_bytes(4, "little")), block.txs)


class Times:
    """Header times by height, as a node knows those of its active chain."""

    def __init__(self):
        self.times = []

    def time_at(self, height):
        return self.times[height] if 0 <= height < len(self.times) else None


class Quarry:
    """A ``World`` whose blocks are mined. ``contexts`` has what each opened contract session was told."""

    def __init__(self, tools, *, ledger=(), **rules):
        self.tools = tools
        self.params = make_params(ledger=ledger, **rules)
        self.contexts = []
        quarry = self

        class Listening(tools.ToyContracts):
            def open(self, state, context):
                quarry.contexts.append(context)
                return super().open(state, context)

        self.world = tools.World(params=self.params, contracts=Listening())
        self.history = Times()
        self.history.times.append(self.world.tip.time_s)
        self.world.env = replace(self.world.env, times=self.history)
        self.script = tools.script_of(99)
        self.applied = []
        self.parents = []

    @property
    def tip(self):
        return self.world.tip

    def template(self, txs=(), *, step_s=SPACING, **given):
        """Return an unsolved child of the tip ``step_s`` after it. Raises RuleError for bad ``txs``."""
        options = {"time_s": self.tip.time_s + step_s, "payout_script": self.script} | given
        w = self.world
        made = assemble_template(w.tip, list(txs), w.coins, w.state, w.env, **options)
        if made.refused:
            raise made.refused[0][1]
        return made.block

    def mined(self, txs=(), **given):
        return prove(self.template(txs, **given))

    def dig(self, txs=(), **given):
        """Mine a block, connect and apply it; return what it changed."""
        return self.append(self.mined(txs, **given))

    def append(self, block):
        connected = self.world.connect(block)
        self.parents.append(self.tip)
        self.applied.append(connected)
        self.world.apply(connected)
        self.history.times.append(self.tip.time_s)
        return connected

    def undo(self):
        """Take the tip off with what connecting it noted."""
        connected = self.applied.pop()
        w = self.world
        for view, diff in ((w.coins, connected.coins_undo), (w.state, connected.state_undo)):
            for key, value in diff.items():
                if value is None:
                    view.data.pop(key, None)
                else:
                    view.data[key] = value
        w.tip = self.parents.pop()
        self.history.times.pop()

    def changed(self, block, **parts):
        """Return the block with parts exchanged and mined again."""
        return prove(self.tools.rebuild(block, **parts))

    def refusal(self, block):
        """Return the code by which the block is refused; nothing may have changed."""
        return self.world.refusal(block)
