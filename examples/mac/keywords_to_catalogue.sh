#!/bin/sh
# Write keywords for the photos of a folder, and of those in it, to where a photo catalogue reads
# them. Keywords that are there already stay.
#
#   lightroom  photo.xmp beside raw photos; then Metadata > Read Metadata from Files
#   digikam    photo.jpg.xmp; reading from sidecars is in Settings > Metadata > Sidecars
#   embed      a table, from which exiftool writes them into the files. Lightroom reads no sidecar
#              of a JPEG or DNG, so those need this
#
# usage: keywords_to_catalogue.sh {lightroom|digikam|embed} FOLDER [MODEL]
set -u
usage="usage: keywords_to_catalogue.sh {lightroom|digikam|embed} FOLDER [MODEL]"
catalogue=${1:?$usage}
folder=${2:?$usage}
model=${3:-450m}
results=$folder/keywords.jsonl
case $catalogue in
lightroom | digikam)
    naming="file"
    if [ "$catalogue" = lightroom ]; then naming="stem"; fi
    exec mlx_lfm2vl run keywords --model "$model" "$folder" --recursive \
        --write xmp --xmp-name "$naming" --out "$results"
    ;;
embed)
    table=$folder/keywords.csv
    mlx_lfm2vl run keywords --model "$model" "$folder" --recursive \
        --exiftool-csv "$table" --out "$results" || exit
    exec exiftool -charset UTF8 -csv="$table" -sep "; " -r "$folder"
    ;;
*)
    echo "$usage" >&2
    exit 2
    ;;
esac
