#!/bin/sh
# Write a caption for every image in a folder, beside the image: photo.jpg -> photo.txt
# The model is loaded once. The same command continues a run that was stopped, and a text file that
# is there already is kept. The answers are also in FOLDER/captions.jsonl.
#
# usage: caption_folder.sh FOLDER [MODEL]
# exit codes: those of mlx_lfm2vl run: 0 all captioned, 1 some not, 2 wrong use, 130 Ctrl-C
set -u
folder=${1:?usage: caption_folder.sh FOLDER [MODEL]}
[ -d "$folder" ] || { echo "error: $folder is not a folder" >&2; exit 2; }
exec mlx_lfm2vl run caption --model "${2:-450m}" "$folder" \
    --write txt --out "$folder/captions.jsonl"
