"""Arrays by name, and number types as words."""

import mlx.core as mx
import pytest

from mlx_lfm2vl.arrays import dtype_name, mlx_dtype, named_arrays
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.options import DTYPES


def test_arrays_are_named_by_their_path_and_other_values_are_left_out():
    weight, bias = mx.ones(2), mx.zeros(3)
    found = named_arrays({"layers": [{"weight": weight, "bits": 4}], "bias": bias, "name": "x"})
    assert found.keys() == {"layers.0.weight", "bias"}
    assert found["layers.0.weight"] is weight
    assert found["bias"] is bias


@pytest.mark.parametrize("name", DTYPES)
def test_a_number_type_has_the_same_name_in_both_directions(name):
    assert mlx_dtype(name) == getattr(mx, name)
    assert dtype_name(mlx_dtype(name)) == name


def test_other_number_types_are_refused():
    with pytest.raises(InputError, match="dtype 'int8' is not one of float32, float16, bfloat16"):
        mlx_dtype("int8")
