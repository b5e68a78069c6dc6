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
    return is_image_name(name) or str(name).lower().endswith((PDF_ENDING, *VIDEO_ENDINGS))


def is_image_name(name: str | Path) -> bool:
    """Whether a name ends as those of image files do, in any case."""
    return str(name).lower().endswith(IMAGE_ENDINGS)


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted. Hidden ones are left out.

    On disks of cameras, macOS keeps a hidden `._IMG_1.JPG` beside `IMG_1.JPG`, which is no image.
    """
    return sorted(p for p in folder.glob("[!.]*") if is_image_name(p) and p.is_file())
