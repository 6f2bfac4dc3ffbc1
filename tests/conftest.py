"""What all tests share: hypothesis profiles, one thread for torch, registries put back, and the grid's tally."""

import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch

import sublayer.run  # noqa: F401  (registers every part before the first test looks)
from sublayer.registry import Registry

hypothesis.settings.register_profile(
    "sublayer",
    deadline=None,
    derandomize=True,  # the same examples in every run: an ordinary run never fails for another reason than a change
    database=None,
    print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("sublayer")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Puts every registry back as it was, so that a part registered in a test is gone after it."""
    before = {family: dict(registry._parts) for family, registry in Registry.families.items()}
    modules = set(sys.modules)
    yield
    for family, registry in Registry.families.items():
        registry._parts.clear()
        registry._parts.update(before[family])
    for name in set(sys.modules) - modules:
        if name.startswith("sublayer_plugin_"):
            del sys.modules[name]


def pytest_sessionfinish(session: pytest.Session) -> None:
    tally = sys.modules.get("tests.properties.tally")
    worker = getattr(session.config, "workeroutput", None)
    if tally is None:
        return
    if worker is not None:
        worker["grid"] = tally.TALLY.as_tree()
    elif tally.TALLY.too_few():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Under xdist: adds what a worker counted."""
    told = getattr(node, "workeroutput", {}).get("grid")
    if told:
        from tests.properties.tally import TALLY

        TALLY.add(told)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    module = sys.modules.get("tests.properties.tally")
    if module is not None and module.TALLY.drawn:
        terminalreporter.section("the grid of compositions")
        for line in module.TALLY.lines():
            terminalreporter.write_line(line)
