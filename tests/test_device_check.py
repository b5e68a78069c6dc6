"""A GPU's numbers against the CPU's: what is compared, and what counts as rounding."""

import numpy as np
import pytest
from conftest import golden

from mlx_lfm2vl.device_check import (
    PICTURES,
    Agreement,
    compare,
    count_work,
    observe,
    observe_on_cpu,
)
from mlx_lfm2vl.errors import Lfm2VLError

TINY = str(golden("new_names").folder)


@pytest.fixture(scope="module")
def reference():
    return observe_on_cpu(TINY)


def test_the_cpu_path_in_a_process_of_its_own_gives_the_same_numbers(reference):
    kinds = ["features", "logits", "tokens"]
    names = {f"{kind}{number}" for kind in kinds for number in range(PICTURES + 1)}
    assert reference.keys() == names - {f"features{PICTURES}"}  # the text
    agreement = compare(observe(TINY, "float32"), reference)
    assert agreement.features < 1e-5
    assert agreement.best == 1
    assert agreement.greedy == agreement.tokens > 0
    assert agreement.is_expected("float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_differ_by_rounding(reference, dtype):
    agreement = compare(observe(TINY, dtype), reference)
    assert agreement.logits > 1e-4
    assert not agreement.is_expected("float32")
    assert agreement.is_expected(dtype)


def test_a_wrong_feature_is_found(reference):
    wrong = {**reference, "features1": reference["features1"] + np.float32(0.1)}
    assert compare(wrong, reference).features > 0.01
    wrong["features1"] = np.full_like(wrong["features1"], np.nan)
    assert compare(wrong, reference).features == float("inf")
    assert not compare(wrong, reference).is_expected("bfloat16")


def test_greedy_tokens_count_up_to_the_first_different_one():
    ours = {"logits0": np.eye(2), "features0": np.ones(1), "tokens0": np.array([1, 2, 9, 4])}
    theirs = {**ours, "tokens0": np.array([1, 2, 3, 4])}
    assert compare(ours, theirs) == Agreement(0, 0, 1, 2, 4)


def test_a_cpu_path_that_fails_says_why():
    with pytest.raises(Lfm2VLError, match="the CPU path failed: .*neither a folder"):
        observe_on_cpu("nowhere")


def test_the_work_of_a_token_is_that_of_its_layers_on_any_machine():
    work = count_work(TINY)
    assert work.token_reads == 1
    assert work.image_reads == 0
    assert 30 < work.token_chain < work.token_kernels < 60  # four layers
    assert work.image_chain < work.image_kernels
    assert work.dtype == "float32"
