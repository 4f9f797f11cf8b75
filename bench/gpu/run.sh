#!/usr/bin/env bash
# LoRA training steps on an NVIDIA GPU: Remora on ONNX Runtime against PyTorch + PEFT. README.md says more.
#
#   bench/gpu/run.sh [--work DIR] [options of bench/gpu/compare.py]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
work=$root/target/gpu-bench
if [ "${1:-}" = --work ]; then
    work=$2
    shift 2
fi
case "${1:-}" in
-h | --help)
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    echo "Options: --shapes 1b 7b, --tokens 1024 4096, --rounds 2, --steps 5, --device cuda:0, --json FILE"
    exit 0
    ;;
esac

say() { echo "gpu bench: $*" >&2; }
for tool in nvidia-smi cargo python3; do
    command -v "$tool" >/dev/null || {
        say "$tool is missing"
        exit 2
    }
done
driver=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)
say "$driver"
# CUDA 13 needs driver 580 or newer.
version=$(echo "$driver" | cut -d, -f2 | tr -dc '0-9.' | cut -d. -f1)
if [ "$version" -lt 580 ]; then
    say "driver $version is too old for CUDA 13, which onnxruntime-gpu 1.31 needs (580 or newer)"
    exit 2
fi

mkdir -p "$work"
# Two places, since PyTorch and ONNX Runtime bring different versions of the same CUDA libraries.
if [ ! -e "$work/torch/done" ]; then
    say "installing PyTorch, transformers, PEFT"
    python3 -m venv "$work/torch"
    "$work/torch/bin/pip" install --quiet -r "$here/requirements-torch.txt"
    touch "$work/torch/done"
fi
if [ ! -e "$work/ort/done" ]; then
    say "installing onnxruntime-gpu and its CUDA 13 libraries"
    "$work/torch/bin/pip" install --quiet --target "$work/ort" -r "$here/requirements-ort.txt"
    touch "$work/ort/done"
fi

say "building the engine"
(cd "$root" && cargo build --release --example engine)

library=$(find "$work/ort/onnxruntime/capi" -name 'libonnxruntime.so.*' | head -1)
if [ -z "$library" ]; then
    say "no libonnxruntime.so in $work/ort/onnxruntime/capi"
    exit 1
fi
cuda=$(find "$work/ort/nvidia" -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd:)

exec "$work/torch/bin/python" "$here/compare.py" --models "$work/models" \
    --ort-library "$library" --cuda-libraries "$cuda" "$@"
