"""Image files told by the endings of their names."""

from pathlib import Path

# Not those of raw photos, which often lie beside the JPEG of the same picture.
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)

PDF_ENDING = ".pdf"
VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")


def is_picture_name(name: str | Path) -> bool:
    """Whether a name ends as those of images, PDFs and videos do, in any case."""
    return is_page_name(name) or is_video_name(name)


def is_video_name(name: str | Path) -> bool:
    """Whether a name ends as those of videos do, in any case."""
    return str(name).lower().endswith(VIDEO_ENDINGS)


def is_image_name(name: str | Path) -> bool:
    """Whether a name ends as those of image files do, in any case."""
    return str(name).lower().endswith(IMAGE_ENDINGS)


def is_page_name(name: str | Path) -> bool:
    """Whether a name ends as those of images and PDFs do, in any case."""
    return is_image_name(name) or str(name).lower().endswith(PDF_ENDING)
