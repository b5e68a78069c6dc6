"""Image files are told by their names."""

import pytest

from mlx_lfm2vl.images.endings import is_image_name, is_page_name, is_picture_name


@pytest.mark.parametrize("name", ["IMG_0001.JPG", "a.Jpeg", "a.jfif", "a.HEIC", "a.tiff", "a.j2k"])
def test_endings_count_in_any_case(name):
    assert is_image_name(name)
    assert not is_picture_name(name + ".txt")


def test_pdfs_have_pages_and_videos_have_pictures():
    assert is_page_name("a.PDF")
    assert not is_image_name("a.PDF")
    assert is_picture_name("a.MOV")
    assert not is_page_name("a.MOV")
