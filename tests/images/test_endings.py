"""Image files are told by their names."""

import pytest

from mlx_lfm2vl.images.endings import images_in, is_image_name


@pytest.mark.parametrize("name", ["IMG_0001.JPG", "a.Jpeg", "a.jfif", "a.HEIC", "a.tiff", "a.j2k"])
def test_endings_count_in_any_case(name):
    assert is_image_name(name)
    assert not is_image_name(name + ".txt")


def test_a_folder_has_the_images_that_are_seen(tmp_path):
    for name in ("b.JPG", "a.png", "._b.JPG", ".hidden.png", "notes.txt", "IMG_1.CR2"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["a.png", "b.JPG"]
