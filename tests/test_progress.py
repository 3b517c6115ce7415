"""Progress where the output is no terminal: lines now and then, or none."""

import pytest

from cdc_jax import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("show", [True, False])
def test_a_line_says_rate_and_time_left(clock, capsys, show):
    with progress.Progress("CoOp: training", total=110, done=10, show=show) as shown:
        for _ in range(50):
            clock[0] += 2.0
            shown.advance()
    lines = capsys.readouterr().out.splitlines()
    expected = [  # after 32, 64 and 96 seconds, at 0.5 steps a second
        "CoOp: training: 26 of 110, 0.5/s, 168 s left",
        "CoOp: training: 42 of 110, 0.5/s, 136 s left",
        "CoOp: training: 58 of 110, 0.5/s, 104 s left",
    ]
    assert lines == (expected if show else [])


@pytest.mark.parametrize(("total", "told"), [(99_999, 0), (100_000, 1), (110_000, 1)])
@pytest.mark.parametrize("show", [True, False])
def test_many_short_steps(clock, capsys, monkeypatch, total, told, show):
    """All are gone through, and only a long way is shown, after blocks of 8192."""
    steps = progress.shown(range(total), "reading", total, show)
    assert next(steps) == 0
    clock[0] += 31.0
    assert list(steps) == list(range(1, total))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (told if show else 0)
    if lines:
        assert lines[0].startswith(f"reading: 8192 of {total}, 264.3/s, ")
