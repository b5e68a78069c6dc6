"""The instruments in benchmarks/, and what they promise about the code."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import drafts  # noqa: E402
import host_syncs  # noqa: E402
import interop  # noqa: E402
import interop_adapters  # noqa: E402
import mlx.core as mx  # noqa: E402
import op_counts  # noqa: E402
import training  # noqa: E402
import training_ours  # noqa: E402
from conftest import golden  # noqa: E402

from mlx_lfm2vl import cli  # noqa: E402
from mlx_lfm2vl.model import language  # noqa: E402


# The prompt is long in the first case only: sampling begins behind it.
@pytest.mark.parametrize(
    ("checkpoint", "sampling"),
    [
        (host_syncs.TINY, host_syncs.Sampling()),
        (golden("new_names").folder, host_syncs.LIQUIDS),
    ],
    ids=["greedy", "recommended"],
)
def test_the_device_is_waited_for_once_per_token_and_never_before(checkpoint, sampling):
    syncs = host_syncs.count_waits(checkpoint, sampling, 3)
    assert dict(syncs.count) == {"mx.array.tolist": 3}


def test_the_counter_sees_waits():
    import mlx.core as mx
    import numpy as np

    with host_syncs.HostSyncs() as syncs:
        x = mx.arange(3)
        mx.eval(x)
        np.array(x)
        int(x[0])
        x.tolist()
        mx.async_eval(x + 1)
    assert syncs.total == 4
    assert syncs.count["mx.eval"] == 1


@pytest.fixture(scope="module")
def decoder_of_16_layers():
    return op_counts.make_model()


@pytest.mark.parametrize(
    ("sampling", "kernels", "chain"),
    [(op_counts.Sampling(), 228, 182), (op_counts.LIQUIDS, 228 - 1 + 8, 182 - 1 + 6)],
    ids=["greedy", "recommended"],
)
def test_a_decode_step_is_no_more_kernels_and_no_longer_chain(
    decoder_of_16_layers, sampling, kernels, chain
):
    cost = op_counts.decode_step(decoder_of_16_layers, sampling)
    assert cost.kernels.total() <= kernels
    assert cost.chain <= chain


def test_a_draft_round_is_at_most_two_fifths_of_the_kernels_of_its_tokens():
    model, drafter = drafts.deep_pair(drafts.SHAPES["450M"])
    for sampling, kernels in zip(drafts.SAMPLINGS.values(), (228, 236), strict=True):
        found = drafts.draft_round(model, drafter, sampling, 7).kernels.total()
        assert found / drafts.TOKENS_PER_ROUND <= 0.4 * kernels


def test_an_image_is_no_more_kernels_than_counted(decoder_of_16_layers):
    one = op_counts.image_embeddings(decoder_of_16_layers, op_counts.SEVEN_VIEWS[:1])
    seven = op_counts.image_embeddings(decoder_of_16_layers, op_counts.SEVEN_VIEWS)
    assert (one.kernels.total(), one.chain) <= (161, 133)
    assert (seven.kernels.total(), seven.chain) <= (472, 134)


def test_the_count_sees_one_kernel_more(decoder_of_16_layers, monkeypatch):
    fewer = op_counts.prompt_pass(decoder_of_16_layers)
    original = language._gated_sum

    def summed(c, rows, weights):
        return original(c, rows, weights) + mx.sum(c)

    monkeypatch.setattr(language, "_gated_sum", summed)
    more = op_counts.prompt_pass(decoder_of_16_layers)
    assert more.kernels["Sum"] == fewer.kernels["Sum"] + 10
    assert more.chain > fewer.chain


def test_the_interop_check_asks_for_conversions_that_there_are(wide, monkeypatch, capsys):
    def run(_python, *arguments):
        if arguments[1] == "mlx_lfm2vl.convert":
            assert cli.main(["convert", *arguments[2:]]) == 0
        return "[1, 2]"

    monkeypatch.setattr(interop, "run", run)
    monkeypatch.setattr(interop, "our_answer", lambda *_: ([0], [1, 2]))
    monkeypatch.setattr(sys, "argv", ["interop.py", str(wide), "--peer-python", "python"])
    assert interop.main() == 0
    assert capsys.readouterr().out.count("| 2 | yes |") == 8


def test_the_interop_check_of_adapters_asks_for_trainings_that_there_are(monkeypatch, capsys):
    commands = []

    def run(_python, *arguments):
        if arguments[1].startswith("mlx_lfm2vl."):
            module = import_module(arguments[1].replace("mlx_lfm2vl.", "mlx_lfm2vl.commands."))
            commands.append(module.build_parser().parse_args(arguments[2:]))
        return "[1, 2]"

    def our_answer(*arguments):
        return [0], [1, 2] if arguments[3:] else [3]

    monkeypatch.setattr(interop, "run", run)
    monkeypatch.setattr(interop_adapters, "run", run)
    monkeypatch.setattr(interop_adapters, "our_answer", our_answer)
    monkeypatch.setattr(sys, "argv", ["interop_adapters.py", "demo", "--peer-python", "python"])
    assert interop_adapters.main() == 0
    assert capsys.readouterr().out.count("| 2 | yes | yes |") == 11
    assert len(commands) == 2 + 5


def test_our_side_of_the_comparison_of_training_measures_every_update(tmp_path, capsys):
    rows = training.write_rows(tmp_path)
    training_ours.main(str(golden("new_names").folder), str(rows), 6)
    measured = json.loads(capsys.readouterr().out)
    assert len(measured["seconds"]) == len(measured["cpu_seconds"]) == 6
    assert measured["trained_numbers"] > 0
    training.check_equal_work(measured, dict(measured))
    text = training.table([measured, measured], [{**measured, "seconds": [9] * 4 + [9e3] * 2}])
    later = next(line for line in text.splitlines() if "later update, best" in line)
    assert later.endswith(" | 9e+03 | s |")


@pytest.mark.parametrize("key", ["loss", "tokens", "trained_layers", "trained_numbers"])
def test_trainings_that_differ_are_not_compared(key):
    work = {"loss": 2.0, "tokens": 3, "trained_layers": 4, "trained_numbers": 5}
    with pytest.raises(SystemExit, match=key):
        training.check_equal_work(work, {**work, key: work[key] + 1})
