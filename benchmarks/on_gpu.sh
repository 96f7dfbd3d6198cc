#!/usr/bin/env bash
# All that needs a GPU, in one go of about ten minutes: what must be right first, then what must be fast.
# Run it from the root of the repository, in an environment with pip install -e '.[test,examples,cuda]' and, to be
# compared, PyTorch for CUDA. Everything it says goes to the folder given, by default runs/on-gpu. A part that fails does
# not stop the next; the exit code is 1 then.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-runs/on-gpu}
mkdir -p "$out"
failed=0

part() { # name, seconds at most, command
    local start=$SECONDS
    timeout "$2" bash -c "$3" >"$out/$1.txt" 2>&1 || { failed=1 && echo "FAILED: $1"; }
    tail -n "${4:-3}" "$out/$1.txt" | sed 's/^/    /'
    echo "== $1: $((SECONDS - start)) s"
}

gpt="--preset gpt2-124m --batch 8 --context 1024 --dropout 0 --device cuda --steps 5"
python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' && gpt+=" --against torch"

part tests 240 "python -m pytest -q -m cuda tests/cuda" 15
part bandwidth 60 "python benchmarks/bandwidth.py" 20
part tf32 90 "python benchmarks/train_step.py $gpt --tf32" 6
part float32 90 "python benchmarks/train_step.py $gpt" 6
part ops 60 "python benchmarks/ops.py --device cuda --tf32" 20
part pretrain 60 "python examples/pretrain.py --device cuda --steps 200 --samples 1 --out '$out/pretrain'" 8
part resumed-on-cpu 60 "python examples/pretrain.py --device cpu --steps 203 --resume --out '$out/pretrain'" 3
part generate 30 "python examples/generate.py '$out/pretrain' 'Once upon a time' --device cuda --top-p 0.9 --seed 1" 5
part classify 60 "python examples/finetune_classifier.py --device cuda --epochs 2 --out '$out/classifier'" 5
exit $failed
