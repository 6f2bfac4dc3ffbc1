from io import StringIO

import pytest
from rich.console import Console

from sublayer.training import Bar, Lines


def shown(watcher: type[Lines] | type[Bar], monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told of a stage that takes 40 seconds, 20 of which have passed."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    out = StringIO()
    console = Console(file=out, force_terminal=watcher is Bar, width=120, color_system=None)
    with watcher(console) as told:
        told.preparing("tokenizing", 0.0)
        now[0] += 20
        told.preparing("tokenizing", 0.5, 12.3e6)
    return out.getvalue()


def test_lines_tell_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(Lines, monkeypatch).splitlines() == ["tokenizing …", "tokenizing 50%  12.3 MB/s  0:20 left"]


def test_the_bar_tells_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    told = shown(Bar, monkeypatch)
    assert "tokenizing" in told
    assert "12.3 MB/s" in told
