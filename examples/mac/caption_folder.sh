#!/bin/sh
# Write a caption for every image in a folder, beside the image: photo.jpg -> photo.jpg.txt
# Images that already have a caption are skipped, so a stopped run can be continued. An image that
# cannot be read does not stop the others; the number of failures is printed at the end.
#
# usage: caption_folder.sh FOLDER [MODEL]
# exit codes: 0 every image has a caption, 1 some have none, 2 no folder or no images, 130 Ctrl-C
set -u
folder=${1:?usage: caption_folder.sh FOLDER [MODEL]}
model=${2:-LiquidAI/LFM2.5-VL-450M}
[ -d "$folder" ] || { echo "error: $folder is not a folder" >&2; exit 2; }
found=0
failed=0
for photo in "$folder"/*; do
    # Cameras and phones write endings in capitals.
    case $(printf %s "$photo" | tr '[:upper:]' '[:lower:]') in
    *.jpg | *.jpeg | *.png | *.heic | *.heif | *.webp | *.tif | *.tiff | *.gif | *.avif | *.bmp) ;;
    *) continue ;;
    esac
    [ -f "$photo" ] || continue
    found=$((found + 1))
    [ -s "$photo.txt" ] && continue
    if mlx_lfm2vl generate --model "$model" --image "$photo" --max-tokens 80 \
        --prompt "Describe this photo in one sentence." >"$photo.txt.part"; then
        mv "$photo.txt.part" "$photo.txt"
    else
        code=$?
        rm -f "$photo.txt.part"
        [ "$code" -eq 130 ] && exit 130 # Ctrl-C stops the whole run, not just one photo
        failed=$((failed + 1))
        echo "skipped: $photo" >&2
    fi
done
[ "$found" -gt 0 ] || { echo "error: there are no images in $folder" >&2; exit 2; }
[ "$failed" -eq 0 ] || { echo "$failed not captioned" >&2; exit 1; }
