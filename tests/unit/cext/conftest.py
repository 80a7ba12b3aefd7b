"""Every test of cext runs against both implementations: the native module and its pure twin."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(params=["pure", "native"])
def impl(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "native":
        return pytest.importorskip(
            "cext._native", reason="the native module is not built", exc_type=ImportError
        )
    return importlib.import_module("cext._pure")


@pytest.fixture
def native() -> ModuleType:
    return pytest.importorskip("cext._native", reason="the native module is not built", exc_type=ImportError)
