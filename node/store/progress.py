"""How far a tool is, and where it may stop. Nothing here draws, since the daemon migrates with it."""


class Progress:
    """Counts without showing anything."""

    def __init__(self) -> None:
        self.interrupted = False

    def begin(self, what: str, total: int) -> None:
        """Start to count to ``total``."""
        self.advance(0)

    def advance(self, amount: int = 1) -> None:
        """Count on. Raises KeyboardInterrupt if the operator asked to stop: a safe moment."""
        if self.interrupted:
            raise KeyboardInterrupt
