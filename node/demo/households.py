"""The households of the community: what they consume and generate, their accounts and meters."""

from dataclasses import dataclass, field

from consensus.keys import ed25519_public
from node.demo.profiles import PvSystem
from node.demo.seeded import Seeded
from node.keyfile import Secret
from node.wallet import Account

PV_SHARE = (7, 12)
"""Seven of twelve have PV; the same share of any other number."""

_CONSUMERS = (
    ("H25", 1_900, "flat"),
    ("H25", 4_200, "family"),
    ("G25", 9_500, "shop"),
    ("H25", 3_100, "couple"),
    ("L25", 14_000, "farm"),
    ("H25", 2_600, "couple"),
    ("H25", 5_600, "family"),
    ("H25", 3_500, "house"),
    ("G25", 6_800, "office"),
    ("H25", 4_800, "family"),
    ("H25", 2_300, "couple"),
    ("H25", 3_900, "house"),
)
"""(load profile, kWh a year, what it is), in turn."""

_ROOFS = (
    (4_200, 35, 180),
    (5_600, 30, 225),
    (3_800, 25, 135),
    (6_900, 15, 180),
    (2_400, 40, 90),
    (4_400, 38, 200),
    (5_000, 20, 270),
)
"""(watts at peak, tilt, azimuth), in turn."""

_SPREAD_PERCENT = 10


@dataclass(frozen=True, slots=True)
class Household:
    """One member: ``provider`` is the position of its service provider among the providers."""

    index: int
    name: str
    kind: str
    annual_kwh: int
    pv: PvSystem | None
    provider: int
    account: Account
    device: Secret = field(repr=False)
    device_key: bytes

    @property
    def script(self) -> bytes:
        """Return the account's scriptPubKey."""
        return self.account.script


def has_pv(index: int) -> bool:
    """Tell whether household ``index`` has PV: ``PV_SHARE`` of them, evenly spread."""
    share, of = PV_SHARE
    return (index + 1) * share // of > index * share // of


def make_households(count: int, providers: int, source: Seeded) -> list[Household]:
    """Return ``count`` households, spread over ``providers``; their sizes vary with the seed."""
    households: list[Household] = []
    roofs = 0
    for index in range(count):
        kind, annual_kwh, what = _CONSUMERS[index % len(_CONSUMERS)]
        pv = None
        if has_pv(index):
            peak_w, tilt_deg, azimuth_deg = _ROOFS[roofs % len(_ROOFS)]
            pv = PvSystem(_vary(peak_w, source, "roof", index), tilt_deg, azimuth_deg)
            roofs += 1
        device = source.secret("device", index)
        households.append(
            Household(
                index=index,
                name=f"{what}-{index + 1:02d}",
                kind=kind,
                annual_kwh=_vary(annual_kwh, source, "size", index),
                pv=pv,
                provider=index % providers,
                account=Account(Secret(source.secret("account", index))),
                device=Secret(device),
                device_key=ed25519_public(device),
            )
        )
    return households


def _vary(value: int, source: Seeded, *label: str | int) -> int:
    return value * source.between(100 - _SPREAD_PERCENT, 100 + _SPREAD_PERCENT, *label) // 100
