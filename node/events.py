"""What the node tells whoever wants to know: named events with fields that JSON can carry."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger("wattd.events")

Listener = Callable[[str, Mapping[str, Any]], None]


class Events:
    """Hands each event to all listeners, in order of their subscription. For the event loop only."""

    def __init__(self) -> None:
        self._listeners: dict[Listener, None] = {}

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(name, fields)`` for every event from now on; return how to end that."""
        self._listeners[listener] = None
        return lambda: self._listeners.pop(listener, None)

    def publish(self, name: str, fields: Mapping[str, Any]) -> None:
        """Tell all listeners. One that fails is logged and disturbs neither the others nor the node."""
        for listener in list(self._listeners):
            try:
                listener(name, fields)
            except Exception as bug:
                log.error("a listener failed", extra={"event": name}, exc_info=bug)
