"""How long drafts are, and when they rest, on a clock whose times are given."""

import pytest

from mlx_lfm2vl.generation.pace import PATIENCE, PLAIN, WARM_UP, Pace, _mean


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


def test_drafting_rests_after_rounds_that_lose_but_not_for_those_that_warm_up():
    pace = Pace(5)
    for _ in range(PLAIN):
        pace.plain(1.0)
    rested = []
    for _ in range(WARM_UP + PATIENCE):
        rested.append(pace.rests)
        pace.round(5, 0, [], 3.0)
    assert (any(rested), pace.rests) == (False, True)


def test_a_round_that_gains_forgives_two_that_lose():
    pace = Pace(5)
    for _ in range(PLAIN):
        pace.plain(1.0)
    for _ in range(WARM_UP + PATIENCE - 1):
        pace.round(5, 0, [], 3.0)
    pace.round(5, 5, [], 3.0)
    for _ in range(2):
        pace.round(5, 0, [], 3.0)
        assert not pace.rests
    pace.round(5, 0, [], 3.0)
    assert pace.rests


def test_one_slow_measurement_does_not_move_a_mean_far():
    assert _mean(None, 100.0) == 100
    assert _mean(1.0, 100.0) == pytest.approx(1.1)


def test_what_a_drafter_was_right_about_long_ago_fades():
    pace = Pace(1)
    for accepted in [1] * 200 + [0] * 30:
        pace.judged(1, accepted, [])
    assert pace._chance(0, []) < 0.3


@pytest.mark.parametrize(
    ("seconds", "length"),
    [
        ({2: 1.0, 5: 1.0}, 5),  # more tokens take no longer
        ({2: 2.0, 5: 5.0}, 0),  # every token takes as long as a round
        ({2: 5.0, 3: 0.1}, 5),  # measured badly: none takes less than no time
    ],
)
def test_the_length_is_the_one_that_gives_most_tokens_in_a_second(seconds, length):
    pace = Pace(5)
    for _ in range(WARM_UP):
        pace.took(5, 1, None)
    for tokens, lasted in seconds.items():
        pace.took(tokens, 3, lasted)
    assert pace.length([], 5) == length


def test_a_drafter_that_is_too_sure_is_corrected():
    pace = Pace(1)
    for _ in range(50):
        pace.judged(1, 0, [0.9])
    assert pace._chance(0, [0.9]) < 0.3
