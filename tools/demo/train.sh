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
[ -d full ] || python "$here/make_data.py" full --samples 80000 --seed 12
[ -d eval ] || python "$here/make_eval.py" eval
[ -d init ] || python "$here/make_model.py" corpus.txt init
echo '[["127.0.0.1:15871"], ["127.0.0.1:15872"]]' >hosts.json

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
run trained --model warm --data full/data.jsonl --steps "${3:-20000}" --learning-rate 1.5e-3 --warmup-steps 50
python -m mlx_lfm2vl.fuse --model warm --adapter trained --output demo --dtype float16 --overwrite
python "$here/evaluate.py" demo eval
