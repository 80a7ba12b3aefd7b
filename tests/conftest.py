"""Helpers shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something of the machine and its load, nothing of the code.
settings.register_profile("wattd", deadline=None)
settings.load_profile("wattd")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The folder of public test vectors: ``$WATTD_SHARED/vectors``, by default beside the repository.

    Where it is missing the test is skipped and says so; in CI (``CI=true``) it fails.
    """
    shared = Path(os.environ.get("WATTD_SHARED") or REPOSITORY.parent / "shared")
    vectors = shared / "vectors"
    if not vectors.is_dir():
        reason = f"no test vectors at {vectors}: set WATTD_SHARED to the folder that holds vectors/"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return vectors
