#!/bin/sh
# Make the demo model: a fresh one, lessons one after the other, its test results and its card.
# Two processes share the work over MLX's ring backend, each with one core for its products.
# Started again, it goes on where it stopped.
#
# usage: tools/demo/train.sh WORK_FOLDER [STEPS]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:?usage: train.sh WORK_FOLDER [STEPS]}
mkdir -p "$work"
cd "$work"

data() { # data NAME MAKE_DATA_OPTIONS...
    [ -d "$1" ] || python "$here/make_data.py" "$@"
}
data reading --lesson reading --samples 20000 --seed 13
data grid --lesson grid --samples 32000 --seed 10
data sight --lesson sight --samples 40000 --seed 14
data all --lesson all --samples 120000 --seed 12 --corpus corpus.txt
[ -d eval ] || python "$here/make_eval.py" eval
[ -d init ] || python "$here/make_model.py" corpus.txt init
echo '[["127.0.0.1:15871"], ["127.0.0.1:15872"]]' >hosts.json

# glibc gives large arrays back to the kernel and has them cleared anew, a third of the time: keep them.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_ARENA_MAX=1
if /sbin/ldconfig -p 2>/dev/null | grep -q 'libopenblas\.so\.0'; then
    export LD_PRELOAD=libopenblas.so.0
fi

model=init stages=
lesson() { # lesson DATA STEPS: from the model so far to the model "after-DATA"
    base=$model run=learn-$1 model=after-$1 stages="$stages --stage $1 learn-$1"
    for rank in 0 1; do
        MLX_RANK=$rank MLX_HOSTFILE=hosts.json OPENBLAS_NUM_THREADS=1 \
            python -m mlx_lfm2vl.train --output "$run" --model "./$base" \
            --data "$1/data.jsonl" --steps "$2" --warmup-steps 20 --learning-rate 1.5e-3 --optimizer muon \
            --method full --parts language connector vision --batch-size 8 --accumulate 2 \
            --weight-decay 0.02 --save-every 100 --resume &
    done
    wait
    [ -d "$model" ] ||
        python -m mlx_lfm2vl.fuse --model "./$base" --adapter "$run" --output "$model"
}
lesson reading 600
lesson grid 1000
lesson sight 1200
lesson all "${2:-3600}"
python -m mlx_lfm2vl.fuse --model "./$base" --adapter "$run" --output demo --dtype float16 --overwrite

python "$here/evaluate.py" ./demo eval --json results.json --answers answers.jsonl
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
# shellcheck disable=SC2086 # the stages are words
python "$here/model_card.py" ./demo results.json $stages \
    --machine "$(getconf _NPROCESSORS_ONLN) cores of ${cpu:-$(uname -m)}"
