"""Bills: what each member traded, took and paid over a day, fixed when the day's last slot is settled.

A bill's content hash is SHA-256 of its record; the day's hash is SHA-256 over the content hashes in
order of account, so that a copy of all bills of a day can be checked against one value.
"""

from consensus.hashes import sha256
from contracts import keys
from contracts.records import Bill, Totals, pack, unpack
from contracts.scope import Scope


def close_day(scope: Scope, community: str, day: int, budget: int) -> int | None:
    """Write the bills of a day; return the units, one per bill, or None if ``budget`` is too small."""
    prefix = keys.numbered(keys.DAY, community, day)
    totals = list(scope.state.scan(prefix))
    units = max(1, len(totals))
    if units > budget:
        return None
    hashes = []
    for key, value in totals:
        who = key[len(prefix) :]
        bill = pack(Bill(community, day, who, Totals(*unpack(value))))
        scope.state.put(keys.numbered(keys.BILL, community, day) + who, bill)
        scope.state.delete(key)
        hashes.append(sha256(bill))
    summary = pack((len(hashes), sha256(b"".join(hashes)), scope.context.time_s))
    scope.state.put(keys.numbered(keys.BILLS, community, day), summary)
    return units
