"""Who signs which heights, worked out from the chain file on instead of believed.

Each end of a round is certified by the set that is known so far and names the next (``consensus.light``);
where operators began a round, their restart says so, which must be in the data directory. Nothing is taken
from the contract state, which is what the tools check.
"""

from collections.abc import Callable

from consensus.bft.certificates import check_qc
from consensus.bft.codec import decode_qc
from consensus.bft.config import SCHNORR, Electorate, genesis_base
from consensus.bft.types import QC
from consensus.bft.types import Kind as VoteKind
from consensus.errors import RuleError
from consensus.light import RoundStep, Signers, next_signers
from consensus.restart import Restart, check_form, check_signed, decree, needed_signers
from node.proofs import founding_trust
from node.store.target import Target


class SetWalk:
    """Follows the validator sets of a chain; all of those that sign ``keep_from`` or higher are known.

    ``set_at`` and ``check`` answer for what was walked so far.
    """

    def __init__(self, target: Target, keep_from: int = 0) -> None:
        self._target = target
        self._keep_from = keep_from
        self._restarts = {each.round: each for each in target.restarts.values()}
        self.latest = founding_trust(target.params, target.chain_id).signers
        self.sets = {self.latest.round: self.latest}
        self.restarted: set[int] = set()
        """Rounds that operators began."""

    def set_at(self, height: int) -> Signers:
        """Return the set that signs ``height``."""
        known = [each for each in self.sets.values() if each.first_height <= height]
        return max(known, key=lambda each: each.round) if known else self.latest

    def check(self, certificate: bytes) -> QC:
        """Return a commit certificate that the set of its height signed. Raises DecodeError, RuleError."""
        qc = decode_qc(certificate)
        check_qc(self._electorate(self.set_at(qc.height)), qc, VoteKind.COMMIT)
        return qc

    def step(self, step: RoundStep) -> None:
        """Follow the end of a round. Raises RuleError; the walk then stays where it is."""
        if step.voters is not None:
            raise RuleError("light-skip-refused", "a step that skips rounds")
        self._take(next_signers(self._target.chain_id, self.latest, step))

    def restart_of(self, number: int) -> Restart | None:
        """Return the restart that begins a round, None where the data directory was given none."""
        return self._restarts.get(number)

    def restart(self, height: int, block_hash: bytes) -> bool:
        """Follow the restart at this block; return whether there is one. Raises RuleError."""
        found = self._restarts.get(self.latest.round + 1)
        if found is None or (found.height, found.block_hash) != (height, block_hash):
            return False
        self._follow_restart(found)
        return True

    def restart_up_to(self, number: int, hash_at: Callable[[int], bytes | None]) -> None:
        """Follow restarts until round ``number`` is known. Raises RuleError "restart-missing" and others.

        ``hash_at`` tells which block the chain has at a height.
        """
        while self.latest.round < number:
            found = self._restarts.get(self.latest.round + 1)
            if found is None or hash_at(found.height) != found.block_hash:
                raise RuleError("restart-missing", f"nothing here begins round {self.latest.round + 1}")
            self._follow_restart(found)

    def _follow_restart(self, restart: Restart) -> None:
        target, before = self._target, self.latest
        check_form(restart, target.chain_id, target.params.name)
        check_signed(restart)
        keys = tuple([member.vote_key for member in restart.members])
        if restart.height < before.first_height - 1:
            raise RuleError("restart-wrong-height", f"round {before.round} begins at {before.first_height}")
        if sum(key in keys for key in before.keys) < needed_signers(len(before.keys)):
            raise RuleError("restart-too-few", f"of round {before.round}")
        qc = restart.certificate
        is_base = restart.height == before.first_height - 1 and qc.kind is VoteKind.PREPARE and not qc.sigs
        if not is_base:  # the base of a round needs no signatures: the boundary before it has them
            check_qc(self._electorate(before), qc, qc.kind)
        self.restarted.add(restart.round)
        self._take(Signers(restart.round, restart.height + 1, keys))

    def _take(self, following: Signers) -> None:
        if following.first_height <= self._keep_from:
            self.sets.clear()
        self.sets[following.round] = following
        self.latest = following

    def _electorate(self, signers: Signers) -> Electorate:
        chain_id = self._target.chain_id
        restart = self._restarts.get(signers.round + 1)
        made = None if restart is None else decree(restart)
        decrees = () if made is None else (made,)
        return Electorate(chain_id, signers.voters(), genesis_base(chain_id), SCHNORR, decrees)
