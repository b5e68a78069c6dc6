#!/bin/sh
# Rename scans by what they show: Scan 12.pdf -> 2026-11-29_invoice-of-the-water-works.pdf
# The first run only says the new names. With --really the files are renamed; sidecars go with them,
# no file is overwritten, and "mlx_lfm2vl run --undo FOLDER/renamed.jsonl" takes it all back.
#
# usage: rename_scans.sh FOLDER [--really]
set -u
folder=${1:?usage: rename_scans.sh FOLDER [--really]}
preview=--preview
[ "${2:-}" = --really ] && preview=
# A PDF is named by its first page. ${preview:+...} is nothing if preview is empty.
exec mlx_lfm2vl run caption --model 450m --length short "$folder" --pages 1 \
    --rename '{date}_{slug}{ext}' --undo-file "$folder/renamed.jsonl" ${preview:+"$preview"} \
    --out "$folder/names.jsonl"
