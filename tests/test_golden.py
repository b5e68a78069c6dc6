"""The whole pipeline against the PyTorch reference, on tiny random checkpoints."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import CASES, GOLDEN, golden, load_tensors, relative_error

from mlx_lfm2vl.generation.loop import generate_step
from mlx_lfm2vl.generation.sampling import draw_greedily
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.cache import Place
from mlx_lfm2vl.prompt.processor import Inputs

PROMPTS = [(case, prompt) for case in CASES for prompt in golden(case).prompts]


@pytest.fixture(scope="module")
def loaded():
    """Each checkpoint, loaded once."""
    cache = {}

    def get(name):
        if name not in cache:
            cache[name] = load(golden(name).folder, dtype="float32")
        return cache[name]

    return get


def views(inputs: Inputs) -> np.ndarray:
    return np.concatenate(inputs.pixel_values)


@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_ids_and_pixels_are_the_references(loaded, name, prompt):
    case = golden(name)
    _, processor = loaded(name)
    inputs = processor(case.messages(prompt))
    assert inputs.input_ids == case.expected(prompt, "input_ids").tolist()
    if not inputs.images:
        return
    assert [list(s) for s in inputs.spatial_shapes] == case.expected(
        prompt, "spatial_shapes"
    ).tolist()
    if f"{prompt}.pixel_values" in case.tensors:
        # Our own resize of the image, bit for bit.
        np.testing.assert_array_equal(views(inputs), case.expected(prompt, "pixel_values"))
    else:
        means = [((view - 127.5) / 127.5).mean() for view in inputs.pixel_values]
        np.testing.assert_allclose(means, case.expected(prompt, "pixel_means"), atol=2e-6)


@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_features_logits_and_greedy_tokens_are_the_references(loaded, name, prompt):
    case = golden(name)
    model, processor = loaded(name)
    inputs = processor(case.messages(prompt))
    features = None
    if inputs.images:
        features = model.encode_images(inputs.pixel_values, inputs.spatial_shapes)
        assert relative_error(features, case.expected(prompt, "image_features")) < 1e-5
    embeds = model.embed(inputs.input_ids, features)
    cache = model.make_cache()
    logits = model.head(model.language_model(embeds, cache)[:, -1])
    assert relative_error(logits[0], case.expected(prompt, "logits")) < 1e-5
    greedy = case.expected(prompt, "greedy").tolist()
    cache = model.make_cache()
    steps = generate_step(model, embeds, cache, draw_greedily, len(greedy))
    assert [token.id for token in steps] == greedy


@pytest.mark.parametrize("name", CASES)
def test_answers_end_with_the_end_of_a_turn_wherever_it_is_named(loaded, name):
    model, processor = loaded(name)
    assert model.config.eos_token_ids == (processor.tokenizer.id_of("<|im_end|>"),)


@pytest.mark.parametrize("name", ["new_names", "head_72"])
def test_every_stage_is_the_references(loaded, name):
    case = golden(name)
    expected = load_tensors(GOLDEN / name / "stages.safetensors")
    model, processor = loaded(name)
    inputs = processor(case.messages("small"))
    assert len(inputs.pixel_values) == 1
    grid = inputs.spatial_shapes[0]
    stages = {}
    x = model._normalize(mx.array(inputs.pixel_values[0])[None])
    x = stages["vision.embeddings"] = model.vision_tower.embeddings(x, grid)
    for i, layer in enumerate(model.vision_tower.encoder.layers):
        x = stages[f"vision.layers.{i}"] = layer(x)
    x = stages["vision.post_layernorm"] = model.vision_tower.post_layernorm(x)
    x = stages["projector"] = model.multi_modal_projector(x.reshape(1, *grid, -1))
    x = model.embed(inputs.input_ids, x[0])
    for i, layer in enumerate(model.language_model.layers):
        x = stages[f"language.layers.{i}"] = layer(x, None, Place())
    stages["language.embedding_norm"] = model.language_model.embedding_norm(x)
    assert set(stages) == set(expected)
    for stage, value in stages.items():
        assert relative_error(value[0], expected[stage]) < 1e-5, stage
