#!/bin/sh
# Write a caption for every photo in a folder, beside the photo: photo.jpg -> photo.jpg.txt
# Photos that already have a caption are skipped, so a stopped run can be continued. A photo that
# cannot be read does not stop the others; the number of failures is printed at the end.
#
# usage: caption_folder.sh FOLDER [MODEL]
set -u
folder=${1:?usage: caption_folder.sh FOLDER [MODEL]}
model=${2:-LiquidAI/LFM2.5-VL-450M}
found=0 failed=0
# Cameras write names such as IMG_1.HEIC and IMG_2.JPG, and patterns tell upper from lower case.
for photo in "$folder"/*.[Jj][Pp][Gg] "$folder"/*.[Jj][Pp][Ee][Gg] "$folder"/*.[Pp][Nn][Gg] \
    "$folder"/*.[Hh][Ee][Ii][Cc]; do
    [ -e "$photo" ] || continue
    found=1
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
[ "$found" -eq 1 ] || { echo "no photos in $folder" >&2; exit 1; }
[ "$failed" -eq 0 ] || { echo "$failed not captioned" >&2; exit 1; }
