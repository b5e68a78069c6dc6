"""Image settings, wherever a checkpoint keeps them; known mistakes are undone and said."""

import logging

import pytest
from conftest import PUBLISHED_MODELS, edit_json

from mlx_lfm2vl.checkpoint.image_config import load_image_config, read_image_config
from mlx_lfm2vl.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "thumbnail", "resample"),
    [("LFM2-VL-450M", False, 3), ("LFM2.5-VL-450M", True, 2), ("LFM2.5-VL-1.6B", True, 2)],
)
def test_published_image_settings(published, caplog, name, thumbnail, resample):
    config = load_image_config(published(name))
    assert (config.use_thumbnail, config.resample) == (thumbnail, resample)
    assert (config.min_image_tokens, config.max_image_tokens) == (64, 256)
    assert (config.tile_size, config.min_tiles, config.max_tiles) == (512, 2, 10)
    assert (config.encoder_patch_size, config.downsample_factor) == (16, 2)
    assert config.use_image_special_tokens
    assert not caplog.records


def test_the_3b_settings(assets, published):
    folder = published("LFM2.5-VL-1.6B")
    text = (assets / "LFM2.5-VL-3B" / "processor_config.json").read_text()
    (folder / "processor_config.json").write_text(text)
    config = load_image_config(folder)
    assert (config.min_tiles, config.resample, config.use_thumbnail) == (1, 3, True)


def test_both_processor_files_are_merged_and_the_first_wins(checkpoint):
    path = checkpoint / "processor_config.json"
    edit_json(path, image_processor__max_tiles=None, image_processor__min_tiles=3)
    legacy = '{"max_tiles": 5, "min_tiles": 2, "max_num_patches": 256, "do_resize": false}'
    (checkpoint / "preprocessor_config.json").write_text(legacy)
    config = read_image_config(checkpoint)
    assert (config.min_tiles, config.max_tiles) == (3, 5)


def test_the_class_that_only_cut_patches_was_used_with_bicubic_resizing(checkpoint):
    path = checkpoint / "processor_config.json"
    edit_json(path, image_processor__image_processor_type="Siglip2ImageProcessor")
    assert read_image_config(checkpoint).resample == 3
    edit_json(path, image_processor__image_processor_type="Lfm2VlImageProcessor")
    assert read_image_config(checkpoint).resample == 2


def test_the_processor_file_wins_over_the_models(checkpoint):
    edit_json(checkpoint / "config.json", max_tiles=4, min_tiles=3)
    path = checkpoint / "processor_config.json"
    edit_json(path, image_processor__max_tiles=5, image_processor__min_tiles=None)
    config = read_image_config(checkpoint)
    assert (config.min_tiles, config.max_tiles) == (3, 5)


def test_unknown_processor_keys_are_named_once(checkpoint, caplog):
    edit_json(checkpoint / "processor_config.json", image_processor__new_idea=1, mystery=2)
    read_image_config(checkpoint)
    assert [r.getMessage() for r in caplog.records] == [
        "ignoring unknown keys in the processor files: mystery, new_idea"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor__resample": 4}, "resample 4"),
        ({"image_processor__do_normalize": False}, "do_normalize False"),
        ({"image_processor__image_mean": [1, 2]}, "image_mean"),
        ({"image_processor__max_tiles": "ten"}, "max_tiles is 'ten'"),
        ({"image_processor__use_thumbnail": 1}, "use_thumbnail is 1"),
        ({"image_processor__min_tiles": 40}, "min_tiles 40"),
        ({"image_processor__tile_size": 25}, "tile_size 25"),
    ],
)
def test_impossible_image_settings_are_refused(checkpoint, changes, message):
    edit_json(checkpoint / "processor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_image_config(checkpoint)


def mlx_index(folder):
    names = '{"weight_map": {"language_model.model.embed_tokens.weight": "model.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(names)


@pytest.mark.parametrize(("name", "thumbnail"), [("LFM2-VL-450M", False), ("LFM2.5-VL-1.6B", True)])
def test_tiling_switched_off_in_an_mlx_repository_is_restored_and_said(
    published, caplog, name, thumbnail
):
    folder = published(name)
    (folder / "processor_config.json").write_text('{"use_image_special_tokens": true}')
    (folder / "preprocessor_config.json").write_text(
        '{"do_image_splitting": false, "use_thumbnail": false, "max_num_patches": 256}'
    )
    assert not load_image_config(folder).do_image_splitting  # a Hub-layout fine-tune means it
    mlx_index(folder)
    with caplog.at_level(logging.WARNING):
        config = load_image_config(folder)
    assert (config.do_image_splitting, config.use_thumbnail) == (True, thumbnail)
    assert len(caplog.records) == 1
    assert "do_image_splitting=true" in caplog.text


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_a_right_mlx_repository_passes_without_a_note(published, caplog, name):
    folder = published(name)
    before = load_image_config(folder)
    mlx_index(folder)
    assert load_image_config(folder) == before
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor": "none"}, "image_processor is not a JSON object"),
        ({"image_processor__image_std": [0, 1, 1]}, "image_std holds a 0"),
        ({"image_processor__rescale_factor": 0}, "rescale_factor is 0"),
        ({"image_processor__max_tiles": 5000}, "max_tiles 5000"),
        ({"image_processor__image_std": [1e-320] * 3}, "pixel values beyond float32"),
        ({"image_processor__rescale_factor": 1e29}, "pixel values beyond float32"),
    ],
)
def test_more_impossible_image_settings_are_refused(checkpoint, changes, message):
    edit_json(checkpoint / "processor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_image_config(checkpoint)


def test_a_checkpoint_without_processor_files_is_refused(checkpoint):
    (checkpoint / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no processor_config\.json"):
        read_image_config(checkpoint)
