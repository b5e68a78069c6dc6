"""What is said of a model before its weights are loaded is what holds afterwards."""

import pytest

from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.serving.served import served_model


@pytest.mark.usefixtures("caplog")
def test_images_are_cut_alike_before_and_after_loading_where_a_converter_lost_the_tiling(published):
    folder = published("LFM2.5-VL-1.6B")
    (folder / "processor_config.json").write_text('{"use_image_special_tokens": true}')
    off = '{"do_image_splitting": false, "use_thumbnail": false, "max_num_patches": 256}'
    (folder / "preprocessor_config.json").write_text(off)
    names = '{"weight_map": {"language_model.model.embed_tokens.weight": "model.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(names)
    images = served_model(str(folder)).info.images
    assert images.do_image_splitting
    assert images == Processor.from_folder(folder).image_config
