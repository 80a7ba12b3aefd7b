"""All targets by name. A target is made when it is asked for: some need a chain first."""

from collections.abc import Callable

from tests.fuzz import ledger, light, local, psbt, restarts, wire
from tests.fuzz.runner import Target

FACTORIES: tuple[Callable[[], Target], ...] = (
    *ledger.TARGETS,
    *light.TARGETS,
    *psbt.TARGETS,
    *restarts.TARGETS,
    *wire.TARGETS,
    *local.TARGETS,
)
TARGETS: dict[str, Callable[[], Target]] = {factory.__name__: factory for factory in FACTORIES}


def make(name: str) -> Target:
    """Return the target called ``name``."""
    return TARGETS[name]()
