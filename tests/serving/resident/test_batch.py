"""Several calls at a time, and no more than that."""

import threading

from mlx_lfm2vl.serving.resident.batch import answer_together


def test_no_more_calls_than_the_batch_has_are_made_at_a_time():
    gate, lock, under_way, most = threading.Event(), threading.Lock(), [], [0]

    def ask(item, _question):
        with lock:
            under_way.append(item)
            most[0] = max(most[0], len(under_way))
            if len(under_way) == 2:  # time enough for a third
                threading.Timer(0.05, gate.set).start()
        assert gate.wait(20)
        with lock:
            under_way.remove(item)
        return item

    assert sorted(answer_together(ask, range(5), 2)) == [(number, number) for number in range(5)]
    assert most[0] == 2
