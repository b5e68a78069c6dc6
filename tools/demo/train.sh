#!/bin/sh
# Train a demo model from scratch and test it: first tower and decoder separately, then both together
# in three lessons. Two processes share the joint lessons over MLX's ring backend, each with one core
# for matrix products.
# Started again, it continues with the lesson in which it stopped. All lessons but the tower's resume
# from a checkpoint.
#
# usage: [SAMPLES=120000] [..._STEPS=...] tools/demo/train.sh WORK_FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:?usage: train.sh WORK_FOLDER}
samples=${SAMPLES:-120000} # conversations in the first joint lesson; others have a fraction of it
tower_steps=${TOWER_STEPS:-6000} reading_steps=${READING_STEPS:-600}
decoder_steps=${DECODER_STEPS:-4000} relation_steps=${RELATION_STEPS:-200} steps=${STEPS:-3400}
again_steps=${AGAIN_STEPS:-400}
mkdir -p "$work"
cd "$work"
beside= # background processes, which end with the script
trap 'kill $beside 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

# Keep large arrays in the process: returning them to the kernel, which clears them again, costs a
# third of the time.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_ARENA_MAX=1 OPENBLAS_NUM_THREADS=1
if /sbin/ldconfig -p 2>/dev/null | grep -q 'libopenblas\.so\.0'; then
    export LD_PRELOAD=libopenblas.so.0
fi

data() { # data NAME MAKE_DATA_OPTIONS...
    [ -f "$1/data.jsonl" ] || python "$here/make_data.py" "$@"
}
learn() { # learn RUN MODEL DATA STEPS TRAIN_OPTIONS...: replaces the shell that calls it
    run=$1 model=$2 lesson=$3 updates=$4
    shift 4
    exec python -m mlx_lfm2vl.train --output "$run" --model "./$model" --data "$lesson/data.jsonl" \
        --steps "$updates" --method full --batch-size 4 --optimizer muon --weight-decay 0.15 \
        --save-every 50 --resume "$@"
}
fuse() { # fuse RUN MODEL OUT: merge what a run has trained into its model
    [ -d "$3" ] || python -m mlx_lfm2vl.fuse --model "./$2" --adapter "$1" --output "$3"
}
teach() { # teach LESSON MODEL OUT STEPS SEED: a lesson on true codes
    [ -d "$3" ] || python "$here/teach_decoder.py" "$2" "$3" --lesson "$1" --steps "$4" --seed "$5" \
        --samples $((samples / 4))
}

together() { # together MODEL DATA OUT STEPS RATE SEED: a joint lesson, in two processes
    [ ! -d "$3" ] || return 0
    for rank in 0 1; do
        MLX_RANK="$rank" MLX_HOSTFILE=hosts.json python "$here/teach_together.py" "$1" \
            "$2/data.jsonl" "$3" --steps "$4" --learning-rate "$5" --seed "$6" &
        beside="$beside $!"
    done
    for process in $beside; do
        wait "$process"
    done
    beside=
}

data scenes --lesson scenes --samples "$samples" --seed 31 --workers 2 --corpus corpus.txt
data alike --lesson alike --samples $((samples / 6)) --seed 33 --workers 2
data print --lesson print --samples $((samples / 6)) --seed 34 --workers 2
data reading --lesson reading --samples $((samples / 6)) --seed 13 --workers 2
[ -d init ] || python "$here/make_model.py" corpus.txt init
[ -f eval/eval.jsonl ] || python "$here/make_eval.py" eval

if [ ! -d tower ]; then
    python "$here/teach_tower.py" init tower --steps "$tower_steps" >tower.log &
    beside=$!
fi
(learn read init reading "$reading_steps" --accumulate 8 --parts language --learning-rate 1.5e-3)
fuse read init reader
teach all reader teller $((decoder_steps / 2)) 1
teach above teller comparer "$relation_steps" 2
teach relations comparer placer "$relation_steps" 3
teach all placer teacher $((decoder_steps / 4)) 4
teach print teacher decoder $((decoder_steps / 4)) 5
for tower in $beside; do
    wait "$tower"
done
beside=
[ -d joined ] || python "$here/put_together.py" tower decoder joined

echo '[["127.0.0.1:15871"], ["127.0.0.1:15872"]]' >hosts.json
together joined scenes first "$steps" 7e-4 0
together first alike second "$again_steps" 4e-4 1
together second print third "$again_steps" 3e-4 2
[ -d demo ] || python -m mlx_lfm2vl.convert --model ./third --output demo --dtype float16 --no-report
OPENBLAS_NUM_THREADS=$(getconf _NPROCESSORS_ONLN) python "$here/evaluate.py" ./demo eval \
    --json results.json --answers answers.jsonl
