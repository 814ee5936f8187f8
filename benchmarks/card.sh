#!/usr/bin/env bash
# What to ask of a GPU first, in the order of its worth: half an hour on one card.
#
#   benchmarks/card.sh FOLDER                    # all of it
#   benchmarks/card.sh FOLDER correct warm       # some of it: see the names below
#
# Every part has a limit of time, and leaves what it has measured when it is stopped: FOLDER/summary
# says how each ended, FOLDER/log what it said, and FOLDER/*.json hold the numbers.
set -u
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?usage: benchmarks/card.sh FOLDER [PART ...]}" && cd "$1" && pwd)
shift
parts=${*:-correct warm blocks cold step fullsize compiled}
export PYTHONPATH=src:benchmarks:. PYTHONUNBUFFERED=1
jobs=${JOBS:-14}
speed=(python benchmarks/speed_cuda.py --out "$folder/speed-cuda.json")

# part NAME SECONDS COMMAND ...: run it if it is asked for, and write down how it ended
part() {
    local name=$1 limit=$2 begin=$SECONDS
    shift 2
    [[ " $parts " == *" $name "* ]] || return 0
    echo "== $name: $*" | tee -a "$folder/log"
    timeout --signal INT --kill-after 20 "$limit" "$@" 2>&1 | tee -a "$folder/log"
    echo "$name: exit ${PIPESTATUS[0]} after $((SECONDS - begin)) s" | tee -a "$folder/summary"
}

{ nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  python -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'
} 2>&1 | tee -a "$folder/summary"

# The kernels under the real compiler, on the card: nothing else is worth timing before.
part correct 420 python -m pytest tests/kernels/test_triton.py -n "$jobs" -k "not interpreter" \
    -p no:benchmark --tb short
part warm 240 "${speed[@]}" --warm --jobs "$jobs"
part blocks 420 "${speed[@]}" --part blocks
part cold 180 "${speed[@]}" --part cold
part step 180 "${speed[@]}" --part step
# Two networks, then two more: CIFAR-10 lies in QACT_DATA.
part fullsize 540 python benchmarks/fullsize.py --train relu qact --seeds 3 --data runs/fullsize
part compiled 420 "${speed[@]}" --part compiled
cp runs/fullsize/*.json "$folder" 2>/dev/null
cat "$folder/summary"
