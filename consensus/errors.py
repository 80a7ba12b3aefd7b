"""The two error families of the node: the peer's fault and ours.

Whatever is neither is a bug: it reaches the top of the daemon and stops it with a non-zero exit.
"""


class PeerFault(Exception):
    """Something that came from outside is wrong: a peer, a client or a device sent it.

    ``code`` is a short kebab-case identifier that tests and clients match on (Bitcoin Core's
    reason string where one exists); ``reason`` says in words what was wrong.
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason


class DecodeError(PeerFault):
    """Bytes that do not parse as what they claim to be."""


class RuleError(PeerFault):
    """A well-formed object that the rules refuse.

    ``permanent`` is False where the same object may become valid later (a missing input, a
    time in the future, a full block).
    """

    def __init__(self, code: str, reason: str = "", *, permanent: bool = True) -> None:
        super().__init__(code, reason)
        self.permanent = permanent


class LocalFault(Exception):
    """Our own side is wrong: configuration, disk, data directory, port.

    ``exit_status`` is what the process exits with; values follow BSD sysexits.
    """

    exit_status = 70

    def __init__(self, code: str, reason: str, *, fix: str = "") -> None:
        super().__init__(f"{code}: {reason}" + (f" ({fix})" if fix else ""))
        self.code = code
        self.reason = reason
        self.fix = fix


class ConfigError(LocalFault):
    """A chain file, configuration file or command line that cannot be used.

    ``problems`` lists every fault found, each naming its field and the fix.
    """

    exit_status = 78

    def __init__(self, code: str, problems: tuple[str, ...]) -> None:
        super().__init__(code, "; ".join(problems))
        self.problems = problems


class StorageError(LocalFault):
    """The data directory cannot be used or trusted: locked, foreign, corrupt or full."""

    exit_status = 74
