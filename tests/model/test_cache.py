"""The cache: forked, trimmed, written down and read again, always as a fresh one."""

import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import pytest
from conftest import relative_error
from networks import TEXT, lively

from mlx_lfm2vl.model import key_values
from mlx_lfm2vl.model.cache import Cache, Rows
from mlx_lfm2vl.model.conv_window import TRIMMABLE
from mlx_lfm2vl.model.key_values import BLOCK
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


@pytest.mark.parametrize("kv_bits", [0, 8])
def test_a_fork_that_is_written_copies_once(kv_bits):
    decoder = lively(LanguageModel(replace(TEXT, head_dim=32)))
    cache = decoder.make_cache(kv_bits)
    x = read(decoder, IDS * 60, cache)
    mx.eval(x, cache.arrays)
    fork, copied = cache.fork(), []
    for token in (1, 2, 3):
        before = mx.get_active_memory()
        mx.eval(read(decoder, [token], fork), fork.arrays)
        copied.append(mx.get_active_memory() - before)
    assert 0.9 * cache.nbytes < copied[0] < 1.1 * cache.nbytes
    assert max(copied[1:]) < 0.1 * cache.nbytes


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_types", '"conv"'),
        ("layer_types", '["conv", "mamba", "conv", "full_attention"]'),
        ("layer_types", '["conv", ["conv"], "conv", "full_attention"]'),
        ("layer_types", '["full_attention", "conv", "full_attention", "conv"]'),
        ("layer_types", "[" * 100_000),
        ("taps", "0"),
        ("taps", "three"),
        ("offset", "-8"),
        ("offset", "0"),
        ("starts", "[0]"),
        ("starts", "[0, 8]"),
        ("starts", "[0, -1]"),
        ("starts", "[0, 1.5]"),
        ("starts", "[0, true]"),
        ("starts", "[0, 0, 5]"),
        ("starts", "5"),
    ],
)
def test_metadata_that_no_cache_has_is_refused(decoder, name, value):
    batch = Cache.joined([Rows(filled(decoder, ids), [0]) for ids in (IDS, IDS[:3])])
    meta = {**batch.meta_state, name: value}
    with pytest.raises(ValueError, match="saved cache"):
        Cache.from_state(batch.state, meta)


@pytest.mark.parametrize("name", ["0.window.1", "1.keys", "1.values", "3.keys"])
@pytest.mark.parametrize("cut", ["batch", "dimension", "width"])
def test_an_array_of_another_shape_is_refused(decoder, name, cut):
    batch = Cache.joined([Rows(filled(decoder, ids), [0]) for ids in (IDS, IDS)])
    array = batch.state[name]
    cuts = {"batch": array[:1], "dimension": array[None], "width": array[..., :1]}
    with pytest.raises(ValueError, match="do not match"):
        Cache.from_state({**batch.state, name: cuts[cut]}, batch.meta_state)


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


def test_what_was_taken_back_twice_is_taken_back_together(decoder):
    cache = filled(decoder)
    read(decoder, [1, 2, 3, 4], cache)
    cache.trim(1)
    cache.trim(2)
    assert not cache.can_trim(2)  # one of the last step is left
    expected = read(decoder, [9], filled(decoder, [*IDS, 1]))
    assert relative_error(read(decoder, [9], cache), expected) < 1e-5


def test_all_of_a_first_step_can_be_taken_back(decoder):
    cache = filled(decoder)
    cache.trim(len(IDS))
    assert cache.offset == 0
    assert relative_error(read(decoder, [9, 4], cache), read(decoder, [9, 4], None)) < 1e-6


def test_more_than_was_read_cannot_be_taken_back_even_without_convolutions():
    decoder = lively(LanguageModel(replace(TEXT, layer_types=("full_attention",))))
    cache = filled(decoder)
    read(decoder, [1, 2], cache)
    assert [cache.can_trim(count) for count in (10, 11)] == [True, False]
    cache.trim(7)
    expected = read(decoder, [9], filled(decoder, IDS[:3]))
    assert relative_error(read(decoder, [9], cache), expected) < 1e-6


def test_no_window_keeps_the_prompt_alive(decoder):
    ids = [i % 100 for i in range(1500)]
    before = mx.get_active_memory()
    cache = filled(decoder, ids)
    mx.eval(cache.arrays)
    # Each of the two convolutions has seen 1500 rows of 32 float32.
    assert mx.get_active_memory() - before < cache.nbytes + 1500 * 32 * 4


# -- the same verbs for several rows, windows of any size and more than one block --

SMALL = 8  # columns of a block
LENGTHS = [2, SMALL - 1, SMALL + 3]
VERBS = ["fork", "state", "trim", "joined"]


def same_cache(cache, verb, read_more):
    """A cache of the same positions, which has gone through one of the verbs."""
    if verb == "fork":
        return cache.fork()
    if verb == "state":
        return Cache.from_state(cache.state, cache.meta_state)
    if verb == "joined":
        rows = cache.state["1.keys"].shape[0]
        return Cache.joined([Rows(cache, [row]) for row in range(rows)])
    read_more(cache)
    cache.trim(1)
    return cache


@pytest.fixture(scope="module")
def decoders():
    """By the number of taps."""
    return {n: lively(LanguageModel(replace(TEXT, conv_L_cache=n))) for n in (1, 4)}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(key_values, "BLOCK", SMALL)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("taps", [1, 4])
def test_every_verb_keeps_a_batch_whatever_its_windows_and_blocks(decoders, verb, length, taps):
    decoder = decoders[taps]
    ids = mx.random.randint(0, 100, (3, length + 4))

    def step(cache, begin, end):
        return decoder(decoder.embed_tokens(ids[:, begin:end]), cache)

    cache = decoder.make_cache()
    step(cache, 0, length)
    again = same_cache(cache, verb, lambda cache: step(cache, 0, 1))
    assert again.offset == length
    # Three more positions in one step, the last two of them taken back, and three one by one.
    parts = [step(again, length, length + 3)[:, :1]]
    again.trim(2)
    parts += [step(again, i, i + 1) for i in range(length + 1, length + 4)]
    expected = decoder(decoder.embed_tokens(ids))[:, length:]
    assert relative_error(mx.concatenate(parts, axis=1), expected) < 1e-5


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("length", [2, SMALL + 3])
def test_every_verb_keeps_rows_that_begin_in_different_columns(decoders, verb, length):
    decoder = decoders[4]
    prompts = [[(7 * row + i) % 100 for i in range(length + 3 * row)] for row in range(3)]
    batch = Cache.joined([Rows(filled(decoder, ids), [0]) for ids in prompts])

    def step(cache, tokens):
        return decoder(decoder.embed_tokens(mx.array(tokens)[:, None]), cache)

    again = same_cache(batch, verb, lambda cache: step(cache, [1, 2, 3]))
    assert again.starts == [6, 3, 0]
    expected = [read(decoder, [*ids, 40 + row], None)[:, -1] for row, ids in enumerate(prompts)]
    found = step(again, [40, 41, 42])[:, 0]
    assert relative_error(found, mx.concatenate(expected)) < 1e-5


@pytest.mark.parametrize("kv_bits", [0, 8])
def test_rows_that_drop_different_numbers_go_on_as_they_would_alone(kv_bits):
    decoder = lively(LanguageModel(replace(TEXT, head_dim=32)))

    def fresh(ids):
        cache = decoder.make_cache(kv_bits)
        return read(decoder, ids, cache), cache

    said = [IDS, IDS[:3], IDS[:5]]
    batch = Cache.joined([Rows(fresh(ids)[1], [0]) for ids in said])
    blocks, error = [[1, 2, 3, 4], [15, 16, 17, 18], [29, 30, 31, 32]], 2e-2 if kv_bits else 1e-5
    for kept in ([4, 1, 2], [1, 3, 4], [2, 2, 2], [0, 4, 1]):
        x = decoder(decoder.embed_tokens(mx.array(blocks)), batch)
        for row in range(3):
            expected = fresh([*said[row], *blocks[row]])[0][:, -4:]
            assert relative_error(x[row : row + 1], expected) < error
        batch.trim_rows([4 - count for count in kept])
        said = [[*ids, *new[:count]] for ids, new, count in zip(said, blocks, kept, strict=True)]
    assert len({*batch.ends}) == 3
    batch = batch.fork()
    for rows in ([0], [1], [2], [2, 0]):
        joined = Cache.joined([Rows(batch, rows)])
        x = decoder(decoder.embed_tokens(mx.array([[7]] * len(rows))), joined)
        for place, row in enumerate(rows):
            expected, alone = fresh([*said[row], 7])
            assert relative_error(x[place : place + 1], expected[:, -1:]) < error
            if len(rows) == 1 and not kv_bits:
                for name, array in alone.state.items():
                    assert relative_error(joined.state[name], array) < 1e-5
