"""The cache: forked, trimmed, written down and read again, always as a fresh one."""

import subprocess
import sys

import mlx.core as mx
import pytest
from conftest import relative_error
from networks import TEXT, lively

from mlx_lfm2vl.model.cache import BLOCK, TRIMMABLE, Cache, Rows
from mlx_lfm2vl.model.language import LanguageModel

IDS = [5, 9, 3, 77, 21, 4, 50, 8]


@pytest.fixture(scope="module")
def decoder():
    return lively(LanguageModel(TEXT))


def read(decoder, ids, cache):
    return decoder(decoder.embed_tokens(mx.array([ids])), cache)


def filled(decoder, ids=IDS):
    cache = decoder.make_cache()
    read(decoder, ids, cache)
    return cache


def test_a_fork_goes_on_by_itself(decoder):
    cache = filled(decoder)
    fork = cache.fork()
    read(decoder, [1, 2, 3], fork)
    expected = read(decoder, [30, 31], filled(decoder))
    assert relative_error(read(decoder, [30, 31], cache), expected) < 1e-6
    again = filled(decoder, [*IDS, 1, 2, 3])
    assert relative_error(read(decoder, [7], fork), read(decoder, [7], again)) < 1e-5
    assert (cache.offset, fork.offset) == (10, 12)


def test_a_fork_shares_memory_until_it_writes(decoder):
    cache = filled(decoder)
    mx.eval(cache.arrays)
    before = mx.get_active_memory()
    fork = cache.fork()
    mx.eval(fork.arrays)
    assert mx.get_active_memory() - before < cache.nbytes / 4


def test_a_cache_of_another_process_goes_on(decoder, tmp_path):
    cache = filled(decoder)
    path = str(tmp_path / "cache.safetensors")
    mx.save_safetensors(path, cache.state, cache.meta_state)
    code = (
        "import sys, mlx.core as mx\n"
        "from networks import TEXT, lively\n"
        "from mlx_lfm2vl.model.cache import Cache\n"
        "from mlx_lfm2vl.model.language import LanguageModel\n"
        "decoder = lively(LanguageModel(TEXT))\n"
        "cache = Cache.from_state(*mx.load(sys.argv[1], return_metadata=True))\n"
        "x = decoder(decoder.embed_tokens(mx.array([[30, 31]])), cache)\n"
        "mx.save_safetensors(sys.argv[2], {'x': x})\n"
    )
    out = str(tmp_path / "out.safetensors")
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code, path, out], check=True, env=environment)
    expected = read(decoder, [30, 31], cache)
    assert relative_error(mx.load(out)["x"], expected) < 1e-5


def test_what_is_written_down_is_what_is_in_use(decoder):
    cache = filled(decoder)
    assert cache.arrays[2].shape[2] == BLOCK
    assert cache.state["1.keys"].shape[2] == cache.offset == len(IDS)
    assert set(cache.state) == {
        *(f"{i}.window.{k}" for i in (0, 2) for k in range(2)),
        *(f"{i}.{kind}" for i in (1, 3) for kind in ("keys", "values")),
    }


def test_a_batch_keeps_its_starts(decoder):
    batch = Cache.joined([Rows(filled(decoder, ids), [0]) for ids in (IDS, IDS[:3])])
    again = Cache.from_state(batch.state, batch.meta_state)
    assert again.starts == batch.starts == [0, 5]
    x = decoder.embed_tokens(mx.array([[7], [8]]))
    assert relative_error(decoder(x, again), decoder(x, batch)) < 1e-6


def test_an_empty_cache_can_be_written_down(decoder):
    empty = decoder.make_cache()
    again = Cache.from_state(empty.state, empty.meta_state)
    assert relative_error(read(decoder, IDS, again), read(decoder, IDS, empty)) < 1e-6


@pytest.mark.parametrize("damage", ["array", "meta", "length", "extra", "json"])
def test_what_does_not_belong_together_is_refused(decoder, damage):
    cache = filled(decoder)
    state, meta = dict(cache.state), dict(cache.meta_state)
    if damage == "array":
        del state["1.keys"]
    elif damage == "meta":
        del meta["taps"]
    elif damage == "length":
        meta["offset"] = "7"
    elif damage == "extra":
        state["9.keys"] = state["1.keys"]
    else:
        meta["starts"] = "["
    with pytest.raises(ValueError, match="cache"):
        Cache.from_state(state, meta)


def test_only_the_last_step_can_be_taken_back(decoder):
    cache = filled(decoder)
    read(decoder, [1, 2, 3], cache)
    assert [cache.can_trim(count) for count in (0, 1, 3, 4, -1)] == [True, True, True, False, False]
    with pytest.raises(ValueError, match="the last 4 of 11 positions"):
        cache.trim(4)
    cache.trim(2)
    expected = read(decoder, [9], filled(decoder, [*IDS, 1]))
    assert relative_error(read(decoder, [9], cache), expected) < 1e-5


@pytest.mark.parametrize(("length", "possible"), [(TRIMMABLE, True), (TRIMMABLE + 1, False)])
def test_a_step_of_the_longest_draft_can_be_taken_back(decoder, length, possible):
    cache = filled(decoder)
    read(decoder, [1] * length, cache)
    assert cache.can_trim(length) == possible
