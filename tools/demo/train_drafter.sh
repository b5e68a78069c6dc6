#!/bin/sh
# Train the demo model's drafter, from nothing or from a drafter: data, the model's answers, updates.
# Started again, it continues.
#
# usage: [START=FOLDER] [SAMPLES=160] [SEED=61] [STEPS=260] [RATE=2e-3]
#        tools/demo/train_drafter.sh WORK_FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:?usage: train_drafter.sh WORK_FOLDER}
mkdir -p "$work"
cd "$work"

# As in train.sh: memory stays in the process, and OpenBLAS is used if it is installed.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_ARENA_MAX=1
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"

[ -f train/data.jsonl ] || python "$here/make_data.py" train --samples "${SAMPLES:-160}" --seed "${SEED:-61}"
[ -f held/data.jsonl ] || python "$here/make_data.py" held --samples 20 --seed 62 --split test
if /sbin/ldconfig -p 2>/dev/null | grep -q 'libopenblas\.so\.0'; then
    export LD_PRELOAD=libopenblas.so.0
fi
if [ "${START:-}" ]; then
    set -- --drafter "$START"
else
    set -- --drafter --draft-block 5 --draft-rank 32
fi
python -m mlx_lfm2vl.train --model demo --data train/data.jsonl --validation held/data.jsonl \
    "$@" --steps "${STEPS:-260}" --optimizer muon --learning-rate "${RATE:-2e-3}" \
    --feature-memory 4 --validate-every 50 --save-every 50 --output drafter --resume
