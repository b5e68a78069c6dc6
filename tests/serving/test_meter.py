"""What a core counts, and what it tells those who find its queue full."""

from scripted_core import result

from mlx_lfm2vl.serving.meter import LONGEST_WAIT, FirstTokens, Meter


def test_a_time_belongs_to_the_class_that_it_bounds():
    first = FirstTokens() + 0.05 + 0.06 + 1000.0
    assert first.counts == (1, 1, *[0] * 8, 1)
    assert first.seconds == 1000.11


def test_a_queue_has_room_when_those_before_are_answered_side_by_side():
    meter = Meter()
    assert meter.until_room(3, 2) == 2  # a second each, as long as nothing is known
    meter.answered(result("Hi"), 10.0)
    assert meter.until_room(0, 1) == 10
    meter.answered(result("Hi"), 20.0)  # the mean follows slowly
    assert [meter.until_room(before, 2) for before in (0, 1, 2)] == [6, 12, 18]
    assert (meter.until_room(0, 100), meter.until_room(10**6, 1)) == (1, LONGEST_WAIT)
