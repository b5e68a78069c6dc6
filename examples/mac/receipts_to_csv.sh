#!/bin/sh
# Read shop, date and total of every receipt in a folder into a table that Numbers and Excel open.
# Run it again after new receipts came: only those are read.
#
# usage: receipts_to_csv.sh FOLDER [MODEL]
set -u
folder=${1:?usage: receipts_to_csv.sh FOLDER [MODEL]}
exec mlx_lfm2vl run extract --model "${2:-450m}" "$folder" \
    --fields "shop: name of the shop" "date: day of purchase, as YYYY-MM-DD" \
    "total: amount paid, as a number" "currency: three letters, such as EUR" \
    --out "$folder/receipts.csv"
