#!/usr/bin/env bash
# All that needs a GPU, in two parts: what must be right (two minutes), then what must be fast (nine).
#
#     benchmarks/on_gpu.sh right [folder]    the tests, losses in 16 bits and against the CPU's, the examples
#     benchmarks/on_gpu.sh fast [folder]     speed, memory and launches against PyTorch
#     benchmarks/on_gpu.sh list              the parts and their commands
#
# A part has seconds of its own and never more than its half has left, so the most important ones come first; one that
# fails or runs out of time does not stop the next, and the exit code is 1 then. Of the first half several run beside
# each other, since most of their time is Python's; those that are timed run alone. The folder (by default runs/on-gpu)
# gets three files for each half, which may be carried home together: summary-*.txt, to be read in half a minute;
# log-*.txt with all that was said, part after part; json-*.tar.gz with every number.
#
# On a machine that is lent for minutes, without a network:
# - Nothing is installed: the repository's root is put on PYTHONPATH, and python3 (or $PYTHON) must have NumPy, CuPy with
#   CUDA's headers, ml_dtypes, safetensors, threadpoolctl, tiktoken, regex, filelock, tqdm, matplotlib, pytest and
#   hypothesis. What is missing can be carried as wheels and put on PYTHONPATH by pip install --target. Compare the
#   wheels' tags with that machine's Python, not with this one's.
# - PyTorch for CUDA is optional: it is what speed is compared with, and its profiler counts launches. transformers too.
# - Products in a CUDA graph, and biases and GELU within them, need nvmath-python (pip download --no-deps; 5 MB) with
#   cuda-bindings, cuda-core and cuda-pathfinder. Without it steps are not captured, and train_step.py says so.
# - cuDNN's attention needs nvidia-cudnn-frontend (pip download --no-deps; 12 MB), a cuDNN, which PyTorch for CUDA brings,
#   and cuda-bindings. Where one is missing, a line says so and its column is left out.
# - Kernels are compiled at their first use, a second or so each, and kept in ~/.cupy. So all that the tests launch are
#   compiled first, on all cores; then the tests run in several processes where pytest-xdist is there. On the same
#   machine the second half finds them compiled; on a fresh one it compiles the few it needs.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
half=${1:-list} out=${2:-runs/on-gpu} python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
json=$(mktemp -d)
trap 'rm -rf "$json"' EXIT

has() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }

part() { # name, seconds at most, lines to show, command
    [ "$half" = list ] && echo "$section $1 $2 $4" && return
    [ "$half" = "$section" ] || return
    local start=$SECONDS code=0 left=$((budget - SECONDS)) said
    [ "$left" -gt 5 ] || { echo "NOT RUN: $1" | tee -a "$summary" && touch "$json/failed" && return; }
    said=$(mktemp)
    # SIGINT first, so that pytest still says what has failed
    timeout -s INT -k 10 $((left < $2 ? left : $2)) bash -c "$4" >"$said" 2>&1 || code=$?
    { echo "#### $1: $4" && cat "$said"; } >>"$log"
    [ "$code" = 124 ] || [ "$code" = 137 ] && echo "OUT OF TIME: $1" | tee -a "$summary"
    [ "$code" = 0 ] || { touch "$json/failed" && echo "FAILED ($code): $1" | tee -a "$summary"; }
    { echo "== $1: $((SECONDS - start)) s" && tail -n "$3" "$said" | cut -c1-160 | sed 's/^/    /'; } | tee -a "$summary"
    rm -f "$said"
}

if [ "$half" != list ]; then
    [ "$half" = right ] || [ "$half" = fast ] || { echo "on_gpu.sh: right, fast or list, not $half" >&2 && exit 2; }
    mkdir -p "$out" && summary="$out/summary-$half.txt" log="$out/log-$half.txt"
    : >"$summary" && : >"$log"
fi
SECONDS=0 budget=$([ "$half" = right ] && echo 240 || echo 560)  # seconds of a half

gpt="--preset gpt2-124m --context 1024 --dropout 0 --device cuda"
against="" transformers="" workers=""
has torch && against="torch"
has transformers && transformers="--against transformers"
has xdist && workers="-n 8"

section=right
part machine 20 8 "nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,utilization.gpu --format=csv,noheader
    $python benchmarks/machine.py"
part compile 60 3 "$python -m pytest -q --tb=short -p no:cacheprovider -m cuda tests/cuda/test_compiling.py"
part tests 150 14 "$python -m pytest -q --tb=short -p no:cacheprovider -m cuda $workers tests" &
{
    part losses-bf16 90 5 "$python benchmarks/losses.py --preset gpt2-124m --batch 4 --context 1024 --device cuda \
        --dtype bfloat16 --steps 200 --most 1e-2 --json $json/losses-bf16.json"
    part losses-f16 40 5 "$python benchmarks/losses.py --device cuda --dtype float16 --steps 200 \
        --json $json/losses-f16.json"
} &
{
    part losses-cpu 60 5 "$python benchmarks/losses.py --device cuda --against cpu --steps 100 --most 1e-4 \
        --json $json/losses-cpu.json"
    part classify 60 4 "$python examples/finetune_classifier.py --device cuda --epochs 2 --out '$out/classifier'"
} &
{
    part pretrain 60 6 "$python examples/pretrain.py --device cuda --dtype bfloat16 --steps 200 --samples 1 \
        --out '$out/pretrain'"
    part resumed-on-cpu 60 3 "$python examples/pretrain.py --device cpu --steps 203 --resume --out '$out/pretrain'"
    part generate 20 4 "$python examples/generate.py '$out/pretrain' 'Once upon a time' --device cuda --top-p 0.9 --seed 1"
} &
wait

section=fast
part compile-again 60 3 "$python -m pytest -q --tb=short -p no:cacheprovider -m cuda tests/cuda/test_compiling.py"
part step-bf16 90 12 "$python benchmarks/train_step.py $gpt --batch 16 --dtype bfloat16 --tf32 --steps 10 --rounds 3 \
    --warmup 5 --against ${against:-none} --json $json/step-bf16.json"
part writing 75 8 "$python benchmarks/generate.py --device cuda --dtype bfloat16 --batch 1 64 --rounds 2 $transformers \
    --json $json/writing.json"
part attention 110 65 "$python benchmarks/attention.py --device cuda --dtype bfloat16 --rounds 3 --runs 5 \
    --json $json/attention.json"
command -v ncu >/dev/null && part profile 60 90 "ncu --clock-control none -k regex:^attention -c 60 --section SpeedOfLight \
    --section WarpStateStats --section Occupancy $python benchmarks/attention.py --device cuda --dtype bfloat16 \
    --tokens 2048 --rounds 1 --runs 1 --against none"
part bandwidth 40 26 "$python benchmarks/bandwidth.py --rounds 3 --dtype bfloat16"
part ladder 200 9 "$python benchmarks/ladder.py --device cuda --rounds 2 --json $json/ladder.json"
part step-tf32 60 9 "$python benchmarks/train_step.py $gpt --batch 8 --tf32 --steps 5 --rounds 3 --warmup 5 \
    --against ${against:-none} --json $json/step-tf32.json"
part step-bf16-eager 50 7 "$python benchmarks/train_step.py $gpt --batch 16 --dtype bfloat16 --tf32 --no-graph --steps 10 \
    --rounds 3 --warmup 5 --against none --json $json/step-bf16-eager.json"
part ops 60 14 "$python benchmarks/ops.py --device cuda --dtype bfloat16 --tf32 --rounds 2 --seconds 0.1 --json $json/ops.json"

if [ "$half" != list ]; then
    tar -czf "$out/json-$half.tar.gz" -C "$json" .
    rm -rf "$out/pretrain" "$out/classifier"
    echo "$half: $SECONDS s, $([ -e "$json/failed" ] && echo SOMETHING FAILED || echo all passed)" | tee -a "$summary"
fi
[ ! -e "$json/failed" ]
