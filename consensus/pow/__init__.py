"""The proof-of-work engine: targets, difficulty, header tree and fork choice, all pure.

``target`` and ``asert`` say what work is and how much is asked for, ``rules`` what a header and a
coinbase must be, ``engine.step`` which chain is followed. See ``docs/pow.md``.
"""
