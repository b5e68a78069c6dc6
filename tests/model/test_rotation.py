import mlx.core as mx
import numpy as np
import pytest

from mlx_lfm2vl.model.rotation import rotation_from


@pytest.mark.parametrize("first", [70, 510, 120_001])
@pytest.mark.parametrize("half_split", [False, True])
def test_a_rotation_of_few_rows_is_that_of_mlx(half_split, first):
    x = mx.random.normal((1, 3, 5, 32), key=mx.random.key(1))
    settings = {"traditional": not half_split, "base": 1e6, "scale": 1.0, "offset": first}
    turn = rotation_from(first, 5, 32, 1e6, half_split=half_split)
    np.testing.assert_allclose(turn(x), mx.fast.rope(x, 32, **settings), atol=1e-6)


def test_rows_of_a_rotation_are_those_of_their_positions():
    x = mx.random.normal((1, 3, 2, 32), key=mx.random.key(2))
    around = rotation_from(40, 9, 32, 1e6, half_split=False)
    last = rotation_from(47, 2, 32, 1e6, half_split=False)
    for numbers in (slice(7, None), mx.array([7, 8])):
        np.testing.assert_array_equal(around.rows(numbers)(x), last(x))
