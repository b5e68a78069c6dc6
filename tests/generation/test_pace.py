"""How long drafts are, and when they rest, on a clock whose times are given."""

import pytest

from mlx_lfm2vl.generation.pace import Pace


@pytest.mark.parametrize("seconds", [1.5, 3.0])
def test_a_drafter_that_is_always_wrong_costs_little_once_it_has_settled(seconds):
    pace, clock, tokens, settled = Pace(5), 0.0, 0, None
    while tokens < 512:
        tokens += 1
        if pace.rests:
            pace.plain(1.0)
            clock += 1.0
        else:
            lasted = seconds + 0.05 * pace.length([], 5)
            pace.round(5, 0, [], lasted)
            clock += lasted
        if tokens == 64:
            settled = clock
    assert settled is not None
    assert (clock - settled) / (512 - 64) < 1.02
