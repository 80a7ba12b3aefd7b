"""The one table of contract state keys.

Every key is an ASCII prefix that ends in "/" and binary parts behind it. Numbers are 8 bytes big
endian, so that keys sort as numbers do. A community id has no "/" (checked at start), so it is
followed by one; an account in the middle of a key carries its length in front. What belongs to one
slot or day carries it right after the community, so that one range holds it and can be pruned.

| key | value (canonical MessagePack array) |
|---|---|
| ``org/<script>`` | name, role |
| ``community/<id>`` | grid operator's script |
| ``energy-params`` | market parameters, in the order of ``EnergyParams`` without communities |
| ``account/<script>`` | available, locked, first debt, next debt |
| ``debt/<account><number>`` | creditor, amount |
| ``debt-of/<account><creditor>`` | number of the debt |
| ``payout/<number>`` | script, amount, height |
| ``payout-next`` | number of the next payout |
| ``members/<community>`` | how many |
| ``member/<community>/<script>`` | provider, height, device keys in use |
| ``device/<key>`` | owner, provider, community, height, height of revocation or nil |
| ``market/<community>/<slot>`` | ``records.Market`` |
| ``order/<community>/<slot><id>`` | ``records.Order`` |
| ``order-at/<id>`` | community, slot |
| ``orders-of/<community>/<slot><script>`` | live orders of that member; gone once the gate closed |
| ``trade/<community>/<slot><u32 number>`` | buy id, sell id, energy_wh, amount |
| ``reading/<community>/<slot><device key>`` | ``records.Reading`` |
| ``result/<community>/<slot><script>`` | ``records.Result`` |
| ``day/<community>/<day><script>`` | ``records.Totals`` so far; gone once the day is billed |
| ``bill/<community>/<day><script>`` | ``records.Bill`` |
| ``bills/<community>/<day>`` | number of bills, hash over them, time |
| ``outcome/<SHA256(item)>`` | code, height, txid |
| ``timer/<due>/<contract>/<key>`` | kind, community, number; of governance kind, subject, 0 |
| ``governance`` | height of the first operation of governance; what follows is there only since then |
| ``provider/<script>`` | ``governance.records.Provider``: an admitted organisation |
| ``application/<id>``, ``application-of/<script>`` | ``governance.records.Application``; its id |
| ``removal/<script>`` | ``governance.records.Removal`` |
| ``delegate-vote/<script>`` | approvals, height |
| ``reveals-next/<script>`` | ``governance.records.NextReveals`` |
| ``meter-read/<device key>`` | step of its last accepted reading |
| ``meters-read/<account><step>`` | meters of a provider whose last accepted reading came in that step |

Keys under ``round/`` are those of ``consensus.rounds``. Of them contracts write ``round/reveal/<script>``
alone: when an organisation registers a reveal chain, when one begins to count, and when it loses its vote.
"""

ORGANISATION = b"org/"
COMMUNITY = b"community/"
ENERGY_PARAMS = b"energy-params"
ACCOUNT = b"account/"
DEBT = b"debt/"
DEBT_OF = b"debt-of/"
PAYOUT = b"payout/"
PAYOUT_NEXT = b"payout-next"
MEMBERS = b"members/"
MEMBER = b"member/"
DEVICE = b"device/"
MARKET = b"market/"
ORDER = b"order/"
ORDER_AT = b"order-at/"
ORDERS_OF = b"orders-of/"
TRADE = b"trade/"
READING = b"reading/"
RESULT = b"result/"
DAY = b"day/"
BILL = b"bill/"
BILLS = b"bills/"
OUTCOME = b"outcome/"
TIMER = b"timer/"
GOVERNANCE = b"governance"
PROVIDER = b"provider/"
APPLICATION = b"application/"
APPLICATION_OF = b"application-of/"
REMOVAL = b"removal/"
DELEGATE_VOTE = b"delegate-vote/"
REVEALS_NEXT = b"reveals-next/"
METER_READ = b"meter-read/"
METERS_READ = b"meters-read/"

NUMBER_BYTES = 8


def number(value: int) -> bytes:
    """Return ``value`` as a key part, 8 bytes big endian."""
    return value.to_bytes(NUMBER_BYTES, "big")


def of_community(prefix: bytes, community: str) -> bytes:
    """Return the prefix of everything of ``community`` under ``prefix``."""
    return b"%b%b/" % (prefix, community.encode())


def numbered(prefix: bytes, community: str, value: int) -> bytes:
    """Return the key, or the range, of one slot or day of ``community``."""
    return b"%b%b/%b" % (prefix, community.encode(), value.to_bytes(NUMBER_BYTES, "big"))


def owned(prefix: bytes, account: bytes) -> bytes:
    """Return the range of what one account owns under ``prefix``."""
    return b"%b%c%b" % (prefix, len(account), account)


def timer(due_s: int, contract: bytes, key: bytes) -> bytes:
    """Return the key of a timer; ascending keys are the order in which timers run."""
    return b"%b%b/%b/%b" % (TIMER, number(due_s), contract, key)


def timer_due(key: bytes) -> int:
    """Return the time of a timer key, seconds."""
    at = len(TIMER)
    return int.from_bytes(key[at : at + NUMBER_BYTES], "big")
