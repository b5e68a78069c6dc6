"""Work ahead: in order, within a window, never waited for while there is something else to do."""

import threading
import time
from itertools import count

import pytest

from mlx_lfm2vl.desktop.ahead import ahead


def test_results_come_in_the_order_of_the_items():
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number

    assert list(ahead(slow_first, range(20), window=6, is_idle=lambda: True)) == [*range(20)]


def test_no_more_than_the_window_is_begun():
    taken = []

    def endless():
        for number in count():
            taken.append(number)
            yield number

    results = ahead(lambda number: number, endless(), window=5, is_idle=lambda: True)
    for _ in range(3):
        next(results)
    results.close()
    assert len(taken) == 2 + 5  # the third result is still one of the window


def test_a_caller_with_work_to_do_is_not_kept_waiting():
    gate = threading.Event()
    results = ahead(lambda _: gate.wait(10), [1], window=2, is_idle=lambda: False)
    assert [next(results), next(results)] == [None, None]
    gate.set()
    assert True in results


def test_none_says_that_there_is_no_item_now_and_more_may_come():
    idle = [False]
    results = ahead(str, iter([1, None, 2]), window=4, is_idle=lambda: idle[0])
    found = []
    for result in results:
        idle[0] = True
        found.append(result)
    assert [result for result in found if result] == ["1", "2"]


def test_an_error_of_the_function_rises_in_its_turn():
    results = ahead(lambda number: 1 // number, [1, 0], window=2, is_idle=lambda: True)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
