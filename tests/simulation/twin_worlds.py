"""One validator of four runs twice: every partition of the five instances, every leader, phase by phase.

After the Twins method (DiemBFT): honest code alone, two instances with one key, and a network that is split
anew for each phase of a term. A term has three: an election of a chosen candidate, the proposal with its
votes, the second phase with what makes it known. In a phase every message stays within its side of the split;
all others are lost. Nothing here has a clock: timers fire when the schedule says so, and bodies are at hand.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import permutations
from random import Random
from typing import Any, NamedTuple

from consensus.bft.config import Timing
from consensus.bft.engine import step
from consensus.bft.state import State, initial
from consensus.bft.types import (
    Accuse,
    AskEC,
    BlockAvailable,
    Broadcast,
    Build,
    Built,
    Censored,
    Check,
    Checked,
    Commit,
    Committed,
    CommitVote,
    Event,
    Fetch,
    Halt,
    Message,
    Prepared,
    PreVote,
    Proof,
    Proposal,
    Propose,
    Received,
    RequestVote,
    Send,
    ShowEC,
    Start,
    Timer,
    TimerFired,
    Validated,
    VoteGranted,
)
from tests.simulation.cluster import config_of, make_proposal
from tests.simulation.traces import describe, watch

KEYS = (0, 0, 1, 2, 3)
"""The key of each instance: the first two are twins."""

HONEST = (2, 3, 4)
SPLITS = tuple((0, *(number >> at & 1 for at in range(4))) for number in range(16))
"""The side of each instance."""

ELECT = (PreVote, Proof, RequestVote, VoteGranted)
VOTE = (Propose, Validated)
FINISH = (Prepared, CommitVote, Committed)
ALWAYS = (AskEC, ShowEC, Accuse)

TIMING = Timing(
    progress_timeout_ms=10**9,
    slot_step_ms=1,
    idle_interval_ms=10**9,
    block_interval_ms=10**9,
    retransmit_ms=10**9,
    tenure_blocks=0,
)


class Fork(AssertionError):
    """Two honest instances committed different blocks at one height."""


class Instance(NamedTuple):
    state: State
    chain: tuple[bytes, ...] = ()


class Mail(NamedTuple):
    source: int
    to: int
    message: Message


class World(NamedTuple):
    """A value: schedules branch from it."""

    instances: tuple[Instance, ...]
    mail: tuple[Mail, ...] = ()


class Choice(NamedTuple):
    """What the schedule says about one phase; ``leader`` is the key that stands, for elections."""

    phase: tuple[type, ...]
    split: tuple[int, ...]
    leader: int = 0

    def __str__(self) -> str:
        sides = "".join(map(str, self.split))
        names = {ELECT: f"elect {self.leader}", VOTE: "vote", FINISH: "finish"}
        return f"{names[self.phase]} {sides}"


class Twins:
    """The engine of schedules; blocks are known to all that ask."""

    def __init__(self) -> None:
        self.now = 0
        self.blocks: dict[bytes, tuple[int, Proposal]] = {}
        self.names: dict[bytes, tuple[Any, ...]] = {}
        self.configs = [config_of(4, key, timing=TIMING) for key in KEYS]
        self.names[self.configs[0].chain_id] = ()
        self.journal: list[str] = []
        self.journalling = watch(self)

    def begin(self) -> World:
        world = World(tuple(Instance(initial(config)) for config in self.configs))
        for index in range(5):
            world = self._feed(world, index, Start())
        return world

    def describe(self) -> str:
        return f"{len(self.blocks)} blocks"

    # --- one event ------------------------------------------------------------------------------

    def _feed(self, world: World, index: int, event: Event) -> World:
        instances, mail = list(world.instances), list(world.mail)
        events = [event]
        while events:
            self.now += 1_000
            state, effects = step(instances[index].state, events.pop(0), self.now)
            instances[index] = instances[index]._replace(state=state)
            for effect in effects:
                if isinstance(effect, Send):
                    mail += [Mail(index, to, effect.message) for to in range(5) if KEYS[to] == effect.to]
                elif isinstance(effect, Broadcast):
                    mail += [Mail(index, to, effect.message) for to in range(5) if KEYS[to] != KEYS[index]]
                elif isinstance(effect, Commit):
                    chain = (*instances[index].chain, effect.block_hash)
                    instances[index] = instances[index]._replace(chain=chain)
                elif isinstance(effect, Halt):
                    raise Fork(effect.reason)
                else:
                    events += self._answer(index, effect)
        return World(tuple(instances), tuple(mail))

    def _answer(self, index: int, effect: Any) -> list[Event]:
        if isinstance(effect, Check):
            return [Checked(effect.proposal.block_hash, True)]
        if isinstance(effect, Fetch) and effect.block_hash in self.blocks:
            return [BlockAvailable(*self.blocks[effect.block_hash])]
        if isinstance(effect, Build):
            salt = b"%d/%d" % (index, effect.term)
            proposal = make_proposal(effect.parent_hash, effect.height, effect.term, salt)
            self.blocks[proposal.block_hash] = (effect.height, proposal)
            self.names[proposal.block_hash] = (self.names[effect.parent_hash], effect.term, index)
            return [Built(effect.parent_hash, effect.term, proposal)]
        return []

    # --- one phase ------------------------------------------------------------------------------

    def play(self, world: World, choice: Choice) -> World:
        """Return the world after a phase."""
        if self.journalling:
            self.journal.append(f"--- {choice}")
        if choice.phase is ELECT:
            world = world._replace(mail=())
            for index in range(5):
                world = self._feed(world, index, Censored())
            world = self._settle(world, choice)
            for index in range(5):
                armed = world.instances[index].state.timers.get(Timer.SLOT)
                if KEYS[index] == choice.leader and armed is not None:
                    world = self._feed(world, index, TimerFired(Timer.SLOT, armed.token))
        world = self._settle(world, choice)
        self._judge(world)
        return world

    def _settle(self, world: World, choice: Choice) -> World:
        """Deliver what belongs to the phase and stays within a side, until nothing is left."""
        while True:
            at = next((at for at, mail in enumerate(world.mail) if self._is_due(mail, choice)), None)
            if at is None:
                return world
            mail = world.mail[at]
            world = world._replace(mail=world.mail[:at] + world.mail[at + 1 :])
            if choice.split[mail.source] == choice.split[mail.to]:
                if self.journalling:
                    self.journal.append(f"{mail.source}>{mail.to} {describe(mail.message)}")
                world = self._feed(world, mail.to, Received(KEYS[mail.source], mail.message))

    def _is_due(self, mail: Mail, choice: Choice) -> bool:
        return isinstance(mail.message, choice.phase + ALWAYS)

    def _judge(self, world: World) -> None:
        chains = [world.instances[index].chain for index in HONEST]
        for height in range(max(map(len, chains))):
            if len({chain[height] for chain in chains if len(chain) > height}) > 1:
                raise Fork(f"two blocks at height {height + 1}")

    # --- schedules ------------------------------------------------------------------------------

    def choices(self, phase: tuple[type, ...]) -> Iterator[Choice]:
        """Yield every split, with every leader in elections."""
        for split in SPLITS:
            for leader in range(4) if phase is ELECT else (0,):
                yield Choice(phase, split, leader)

    def enumerate(self, phases: tuple[tuple[type, ...], ...]) -> list[list[World]]:
        """Play every schedule of these phases; return the worlds that differ after each.

        Worlds that are the same but for the names of honest instances or of the twins go on once.
        """
        worlds = [self.begin()]
        stages = []
        for phase in phases:
            found: dict[Any, World] = {}
            for world in worlds:
                for choice in self.choices(phase):
                    after = self.play(world, choice)
                    found.setdefault(self._key(after), after)
            worlds = list(found.values())
            stages.append(worlds)
        return stages

    def wander(self, seed: int, terms: int, world: World | None = None) -> World:
        """Play one random schedule of ``terms`` terms, from the beginning or from a world on."""
        rng = Random(seed)
        world = self.begin() if world is None else world
        for _ in range(terms):
            for phase in (ELECT, VOTE, FINISH):
                world = self.play(world, rng.choice(list(self.choices(phase))))
        return world

    def _key(self, world: World) -> Any:
        """Return what matters of a world, by the least of its namings."""
        return min(
            repr(self._named(world, (*twins, *honest)))
            for twins in permutations((0, 1))
            for honest in permutations(HONEST)
        )

    def _named(self, world: World, order: tuple[int, ...]) -> Any:
        place = {index: at for at, index in enumerate(order)}
        key_at = {key: min(place[index] for index in range(5) if KEYS[index] == key) for key in KEYS}

        def block(block_hash: bytes) -> Any:
            name, parts = self.names[block_hash], []
            while name:
                name, term, maker = name
                parts.append((term, place[maker]))
            return parts

        def about(m: Message) -> Any:
            if isinstance(m, Prepared | Committed):
                return block(m.qc.block_hash)
            return block(m.block_hash) if isinstance(m, Propose | Validated | CommitVote) else []

        told = [self._state(world.instances[index].state, key_at, block) for index in order]
        mail = sorted(
            (place[m.source], place[m.to], describe(m.message), about(m.message)) for m in world.mail
        )
        return told, mail

    def _state(self, s: State, key_at: dict[int, int], block: Callable[[bytes], Any]) -> Any:
        """Return what an engine may still act on."""

        def keys(table: Iterable[int]) -> list[int]:
            return sorted(key_at[key] for key in table)

        mine = s.mine
        late = [member for member, shown in s.late.items() if mine and shown.block_hash == mine.block_hash]
        voted = {*s.validated, *late}  # who came before the certificate is chance

        def vote(m: Any) -> Any:
            return None if m is None else (m.term, m.height, block(m.block_hash))

        return (
            (s.cur_term, str(s.role), s.suspect, block(s.committed_hash), s.commit_qc.term),
            (
                keys(() if s.leader is None else [s.leader]),
                keys(() if s.voted_for is None else [s.voted_for]),
            ),
            (
                vote(s.val),
                vote(s.lock),
                vote(s.ec and s.ec.high),
                vote(s.pending),
                vote(s.held),
                vote(s.mine),
            ),
            (vote(s.prepared), vote(s.committing), vote(s.pending_commit), sorted(map(block, s.blocks))),
            [keys(table) for table in (s.pre_votes, s.grants, voted, s.commits, s.requests)],
        )
