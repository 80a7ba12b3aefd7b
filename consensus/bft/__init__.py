"""The BFT engine: PBFT's safety, a Raft-shaped elected leader, quorum certificates.

Theory of operation: ``docs/consensus.md``. Everything here is pure; ``engine.step`` turns
(state, event, now) into (state, effects) and the daemon carries the effects out.
"""
