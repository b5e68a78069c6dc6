#!/bin/sh
# Make the demo model: data, a fresh model, a warm-up on easy scenes, then the whole world.
# Two processes share the work over MLX's ring backend, each with one core for its products.
#
# usage: tools/demo/train.sh WORK_FOLDER [WARMUP_STEPS] [STEPS]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:?usage: train.sh WORK_FOLDER [WARMUP_STEPS] [STEPS]}
mkdir -p "$work"
cd "$work"
[ -d easy ] || python "$here/make_data.py" easy --samples 24000 --seed 11 --easy --corpus corpus.txt
[ -d full ] || python "$here/make_data.py" full --samples 120000 --seed 12
[ -d eval ] || python "$here/make_eval.py" eval
[ -d init ] || python "$here/make_model.py" corpus.txt init
echo '[["127.0.0.1:15871"], ["127.0.0.1:15872"]]' >hosts.json

# glibc gives large arrays back to the kernel and has them cleared anew, a third of the time: keep them.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_ARENA_MAX=1

run() { # run OUTPUT ARGUMENTS...
    output=$1
    shift
    for rank in 0 1; do
        MLX_RANK=$rank MLX_HOSTFILE=hosts.json OPENBLAS_NUM_THREADS=1 \
            python -m mlx_lfm2vl.train --output "$output" --method full \
            --parts language connector vision --batch-size 16 --weight-decay 0.02 \
            --save-every 100 --resume "$@" &
    done
    wait
}

run warmup --model init --data easy/data.jsonl --steps "${2:-400}" --learning-rate 1.5e-3 --warmup-steps 50
[ -d warm ] || python -m mlx_lfm2vl.fuse --model init --adapter warmup --output warm
run trained --model warm --data full/data.jsonl --steps "${3:-5500}" --learning-rate 1.5e-3 --warmup-steps 50
python -m mlx_lfm2vl.fuse --model warm --adapter trained --output demo --dtype float16 --overwrite
python "$here/evaluate.py" demo eval
