"""The version of the daemon; ``pyproject.toml`` takes it from here."""

VERSION = "0.1.0"


def version_number() -> int:
    """Return the version as one integer, like Bitcoin Core's CLIENT_VERSION."""
    major, minor, patch = map(int, VERSION.split("."))
    return major * 10_000 + minor * 100 + patch
