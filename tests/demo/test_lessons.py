"""What the demo model's tower and decoder are taught apart is true, and fits when joined."""

import random
import sys
from dataclasses import replace

import average_weights
import codes
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import scenes
import take_apart
import teach_decoder
import teach_tower
import wordings
from put_together import transform
from teach_together import MeanOfWeights
from words import CHARACTERS

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.saving import save_checkpoint

WORLD = replace(scenes.TRAIN_WORLD, fonts=("Aileron",), large=0.0)  # matplotlib has the other fonts
GRID, PATCHES = (8, 9), (16, 18)  # rows and columns of a view


def many_scenes(count):
    generator = random.Random(3)
    return [scenes.make_scene(generator, scenes.KINDS[i % 3], WORLD) for i in range(count)]


@pytest.fixture
def demo():
    return load("demo", dtype="float32")


@pytest.fixture
def pictures(demo, monkeypatch):
    monkeypatch.setattr(teach_tower, "WORLD", WORLD)
    return teach_tower.draw_pictures(demo[1].image_config, "test", 12)


class TellsTheTruth:
    """A model whose tower says the given vectors of a picture's true codes."""

    def __init__(self, pictures, vectors, config):
        self.known = {picture.patches.tobytes(): picture for picture in pictures}
        self.vectors, self.image_config = mx.array(vectors), config

    def encode_views(self, patches, _grid):
        picture = self.known[np.array(patches)[0].tobytes()]
        return mx.array(picture.tokens.astype(np.float32)) @ self.vectors


def test_the_tower_is_taught_on_what_it_is_shown_later(demo, monkeypatch):
    model, processor = demo
    monkeypatch.setattr(teach_tower, "WORLD", WORLD)
    shown = []
    draw = teach_tower.draw
    monkeypatch.setattr(teach_tower, "draw", lambda *a: shown.append(draw(*a)) or shown[-1])
    pictures = teach_tower.draw_pictures(processor.image_config, "test", 12)
    assert any(picture.grid[0] != picture.grid[1] for picture in pictures)
    for picture, image in zip(pictures, shown, strict=True):
        inputs = processor(user_message("What?", [image]))
        assert np.array_equal(inputs.pixel_values[0], picture.patches)
        assert inputs.spatial_shapes[0] == picture.grid


# -- codes --


def word(code, name, words):
    values = codes.field(code, name)
    assert sorted(values)[:-1] == [0] * (len(values) - 1)
    assert max(values) == 1
    return list(words)[values.argmax()]


def test_the_token_in_the_middle_of_a_shape_tells_what_it_is_and_where():
    for scene in many_scenes(30):
        told = codes.token_codes(scene, GRID).reshape(*GRID, -1)
        shapes = 0
        for item in scene.objects:
            x, y = item.centre
            code = told[int(y * GRID[0]), int(x * GRID[1])]
            assert word(code, "shape", scenes.SHAPES) == item.shape
            assert word(code, "size", scenes.SIZES) == item.size
            assert word(code, "color", scenes.COLORS) == item.color
            first_of_each = codes.field(code, "box").reshape(6, -1)[:, 0]
            coordinates = np.arccos(first_of_each / codes.HEIGHT) / np.pi
            assert coordinates == pytest.approx([*item.box, x, y], abs=1e-3)
            shapes += 1
        assert codes.field(told, "is")[..., 0].sum() == shapes
        assert word(told[0, 0], "background", scenes.BACKGROUNDS) == scene.background


def test_print_can_be_read_off_its_tokens():
    for scene in many_scenes(30):
        if not scene.text:
            continue
        told = codes.token_codes(scene, GRID)
        assert codes.field(told, "is")[:, 1].sum() == 1
        characters = codes.field(told, "character").reshape(-1, codes.SLOTS, len(CHARACTERS))
        read = ["".join(CHARACTERS[i] for i in np.nonzero(token)[1]) for token in characters]
        assert sorted("".join(read)) == sorted("".join(scene.text.lines))
        is_read = codes.field(told, "place").any(-1)
        assert (codes.field(told, "line").any(-1) == is_read).all()
        assert (is_read <= codes.tells(told)).all()


def test_patches_under_a_shape_tell_its_name_and_others_do_not():
    for scene in many_scenes(20):
        under = codes.patch_codes(scene, PATCHES).reshape(*PATCHES, -1)
        is_shape = np.zeros(PATCHES, bool)
        for item in scene.objects:
            x1, x2 = (round(PATCHES[1] * edge) for edge in item.box[::2])
            y1, y2 = (round(PATCHES[0] * edge) for edge in item.box[1::2])
            is_shape[y1:y2, x1:x2] = True
            assert codes.field(under[y1:y2, x1:x2], "shape").any(-1).all()
        assert (codes.field(under, "shape").any(-1) == is_shape).all()


def test_codes_have_vectors_of_their_own():
    vectors = codes.dictionary()
    assert vectors.shape == (codes.COUNT, codes.HIDDEN)
    assert vectors @ vectors.T == pytest.approx(np.eye(codes.COUNT), abs=1e-5)


# -- the tower --


def test_a_tower_that_tells_the_truth_measures_so(demo, pictures):
    vectors = codes.dictionary()
    truthful = TellsTheTruth(pictures, vectors, demo[1].image_config)
    measured = teach_tower.measure(truthful, pictures, vectors)
    assert measured.pop("box") < 1e-6
    assert set(measured.values()) == {1.0}
    measured = teach_tower.measure(truthful, pictures, np.roll(vectors, 1, axis=0))
    assert measured["character"] < 0.2
    assert measured["shapes found"] < 0.8


@pytest.mark.slow
def test_the_tower_learns_what_it_is_taught(demo, pictures):
    model, _ = demo
    taught = teach_tower.Taught(model)
    picked = [picture for picture in pictures if picture.grid == pictures[0].grid]
    patches, tokens, under = teach_tower.as_arrays(picked)
    gradient = teach_tower.nn.value_and_grad(taught, teach_tower.loss)
    given = (patches, picked[0].grid, tokens, under, mx.array(codes.dictionary()))
    optimizer = teach_tower.optim.AdamW(learning_rate=1e-3)
    losses = []
    for _ in range(10):
        value, grads = gradient(taught, *given)
        optimizer.update(taught, grads)
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]


def test_pictures_go_on_being_drawn_while_they_are_learned_from(demo, monkeypatch):
    class Now:
        def submit(self, draw, *arguments):
            self.value = draw(*arguments)
            return self

        def done(self):
            return True

        def result(self):
            return self.value

    for name, value in {"WORLD": WORLD, "PART": 12, "PLENTY": 12, "MOST": 36, "BATCH": 2}.items():
        monkeypatch.setattr(teach_tower, name, value)
    supply = teach_tower.Supply(demo[1].image_config, 0, Now())
    counts = []
    for _ in range(3):
        batch = supply.batch()
        assert len({picture.grid for picture in batch}) == 1
        counts.append(supply.count)
    assert counts == [36, 36, 36]
    drawn = [picture.patches.tobytes() for group in supply.pictures.values() for picture in group]
    assert len(set(drawn)) == len(drawn) == 36


# -- the decoder --


def test_the_decoder_is_told_what_the_scene_holds_with_a_little_noise(demo, monkeypatch):
    monkeypatch.setattr(teach_decoder, "WORLD", WORLD)
    model, processor = demo
    row = teach_decoder.make_row("all", 0, 5)
    maker = teach_decoder.TrueTokens(SampleMaker(processor, {2}), 2)
    sample = maker(row)
    assert sample.is_answer.sum() > len(row.turns)
    for scene, told, (rows, columns) in zip(
        row.scenes, sample.pixel_values, sample.spatial_shapes, strict=True
    ):
        truth = codes.token_codes(scene, (rows // 2, columns // 2))
        assert told.shape == truth.shape
        assert np.abs(told - truth).mean() == pytest.approx(teach_decoder.NOISE * 0.8, rel=0.1)
    vectors = 30 * codes.dictionary()
    teach_decoder.read_codes(model, vectors)
    said = model.encode_views(mx.array(told[None]), (rows, columns))
    assert np.array(said) == pytest.approx(told @ vectors, abs=1e-3)
    assert np.linalg.norm(model.code_embedding.weight, axis=0) == pytest.approx(1, abs=1e-3)
    assert model.code_embedding.vectors() == pytest.approx(vectors, abs=1e-4)


def test_the_lesson_above_never_asks_for_below(monkeypatch):
    monkeypatch.setattr(teach_decoder, "WORLD", WORLD)
    asked = {
        lesson: {
            word
            for number in range(40)
            for turn in teach_decoder.make_row(lesson, 0, number).turns
            for word in ("above", "below")
            if turn.answer.startswith(("Yes", "No")) and word in turn.question
        }
        for lesson in ("above", "relations")
    }
    assert asked == {"above": {"above"}, "relations": {"above", "below"}}


def test_in_the_print_lesson_many_answers_stand_alone_so_that_none_can_be_copied(monkeypatch):
    monkeypatch.setattr(teach_decoder, "WORLD", WORLD)
    rows = [teach_decoder.make_row("print", 0, number) for number in range(60)]
    alone = [row.turns[0] for row in rows if len(row.turns) == 1]
    differences = [turn for turn in alone if turn.question in wordings.DIFFERENCE]
    assert len([turn for turn in alone if turn.category == "text"]) > 12
    assert len(differences) > 5
    assert len([row for row in rows if len(row.turns) > 3]) > 12


# -- together --


def test_a_transformed_connector_says_the_same_in_other_words(demo):
    model, _ = demo
    connector = model.multi_modal_projector
    seen = mx.random.normal((1, 4, 4, model.config.vision.hidden_size))
    before = np.array(connector(seen)).reshape(-1, codes.HIDDEN)
    matrix, offset = np.random.default_rng(1).normal(size=(2, codes.HIDDEN, codes.HIDDEN))
    transform(connector, matrix, offset[0])
    after = np.array(connector(seen)).reshape(-1, codes.HIDDEN)
    assert after == pytest.approx(before @ matrix + offset[0], rel=1e-3, abs=1e-3)


def test_the_mean_of_two_models_lies_between_them(demo, tmp_path, monkeypatch):
    model, _ = demo
    before = named_arrays(model.parameters())
    model.load_weights([(name, value + 0.5) for name, value in before.items()])
    save_checkpoint(model, DEMO_FOLDER, tmp_path / "other")
    mean = tmp_path / "mean"
    monkeypatch.setattr(
        sys, "argv", ["average_weights.py", str(mean), str(DEMO_FOLDER), str(tmp_path / "other")]
    )
    average_weights.main()
    written = mx.load(str(mean / "model.safetensors"))
    assert isinstance(written, dict)
    assert {value.dtype for value in written.values()} == {mx.float16}
    after = named_arrays(load(mean)[0].parameters())
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value + 0.25, rtol=1e-3, atol=1e-4)


def test_the_mean_of_a_run_goes_on_where_the_run_does(tmp_path):
    model = nn.Linear(2, 1)

    def learn(mean, steps):
        for step in steps:
            model.weight = mx.full((1, 2), step)
            mean({"step": step})

    learn(MeanOfWeights(model, tmp_path, 125), range(1, 118))  # the last third begins at 84
    (tmp_path / "checkpoints" / "step-0000107").mkdir(parents=True)  # as Ctrl-C leaves one
    again = MeanOfWeights(model, tmp_path, 125)
    assert np.array(again.mean["weight"]) == pytest.approx((90 + 100) / 2)
    learn(again, range(108, 126))
    assert np.array(again.mean["weight"]) == pytest.approx((90 + 100 + 110 + 120 + 125) / 5)
    (tmp_path / "checkpoints" / "step-0000125").mkdir()
    ended = MeanOfWeights(model, tmp_path, 125)
    assert np.array(ended.mean["weight"]) == pytest.approx(np.array(again.mean["weight"]))


@pytest.mark.slow
def test_taken_apart_a_model_gives_its_vectors_and_the_reading_of_them(demo, pictures):
    vectors = 30 * np.random.default_rng(1).normal(size=(codes.COUNT, codes.HIDDEN))
    truthful = TellsTheTruth(pictures, vectors.astype(np.float32), demo[1].image_config)
    true, told = take_apart.tell(truthful, pictures)
    assert told == pytest.approx(true @ vectors, rel=1e-3, abs=1e-2)
    fitted = take_apart.fit_vectors(true, told)
    assert np.square(true @ fitted - told).sum() < 0.05 * np.square(told - told.mean(0)).sum()
    matrix, offset = take_apart.fit_reading(true, told)
    read = told @ matrix + offset
    assert np.square(read - true).sum() < 0.05 * np.square(true - true.mean(0)).sum()
