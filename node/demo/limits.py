"""Bounds and times of the demo, each with its reason. ``_REAL_S`` is real time, whatever the speed."""

DEFAULT_SPEED = 900
"""A slot of 900 s per real second: a day in a minute and a half."""

MAX_SPEED = 3_600
"""Four slots per real second: beyond it two busy cores cannot keep the pace."""

MAX_HOUSEHOLDS = 200
"""What the meters of a slot fit with ease beside four nodes on two cores."""

TICK_REAL_S = 0.25
"""Pause between two looks at the nodes: often enough for the eye, cheap beside the nodes' work."""

POLL_TIMEOUT_REAL_S = 3.0
"""A node that takes longer to answer counts as away for now."""

SLOW_REAL_S = 0.5
"""Nobody waits longer for a node; its answer is taken when it comes."""

RESEND_REAL_S = 1.5
"""A transaction that no block holds by then goes to another node; a change of leader takes as long."""

REFUSED_REAL_S = 0.4
"""What a node refused is offered to the next one after this."""

GIVE_UP_REAL_S = 30.0
"""Nothing that is valid waits longer, leader changes included."""

MAX_IN_FLIGHT = 12
"""Unconfirmed operations of one account: nodes take 16, and hear of blocks at different moments."""

COINS_PER_HOUSEHOLD = 8
"""Genesis outputs of a household: as many orders wait side by side without spending each other's change."""

MAX_BLOCKS_PER_POLL = 60
"""Blocks fetched at once: a minute of them."""

SETUP_REAL_S = 10.0
"""Time for four nodes to start and the households to be registered, on two busy cores."""

SETUP_PER_HOUSEHOLD_REAL_S = 0.08
"""More households take longer: two registrations each, in the order of the operator's account."""

SETUP_RETRY_FACTOR = 3
"""What a second attempt gets, if the first was too slow."""

END_REAL_S = 60.0
"""Time after the last settlement for bills, payouts and nodes that are still catching up."""

CAUGHT_UP_BLOCKS = 1
"""A node so close to the best one is there: blocks keep coming while we ask."""

CALLS_PER_BATCH = 500
"""RPC calls sent at once; well below what a node takes."""

EVENTS_SHOWN = 7
"""Lines of events in the live view."""

PROGRESS_EVERY_SLOTS = 8
"""Without a terminal, a line every two hours of the day."""

RATE_WINDOW_REAL_S = 5.0
"""Transactions per second are counted over this."""
