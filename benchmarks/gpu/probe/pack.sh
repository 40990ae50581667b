#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs TensorRT-RTX, plans and kernels built with no GPU, for a GPU machine that has no network.
#
#   pack.sh WORK     makes WORK/payload/a and WORK/payload/b, about 31 MiB each
#                    (4 minutes of xz the first time)
#
# PYTHON_TAG is the GPU machine's Python, 312 unless set. Unpack there with unpack.sh.
set -euo pipefail
work=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/../../.."
version=1.7.1.116
tag=${PYTHON_TAG:-312}

[ -d "$work/venv" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q numpy ml_dtypes onnx triton==3.9.0 \
  tensorrt-rtx-cu13-libs==$version tensorrt-rtx-cu13-bindings==$version
"$work/venv/bin/pip" download -q --no-deps --only-binary=:all: -d "$work/wheels" \
  --python-version "${tag:0:1}.${tag:1}" --implementation cp --platform manylinux_2_28_x86_64 \
  tensorrt-rtx-cu13-libs==$version tensorrt-rtx-cu13-bindings==$version

rm -rf "$work/carried" "$work/site" "$work/payload"
mkdir -p "$work/carried" "$work/site" "$work/payload/a" "$work/payload/b"
"$work/venv/bin/python" -m benchmarks.gpu.probe.make_plans "$work/carried/plans"
"$work/venv/bin/python" -m benchmarks.gpu.compile_kernels "$work/carried/kernels"
tar -C "$work/carried" -cf - . | xz -9e > "$work/payload/a/carried.tar.xz"

for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done
rm -rf "$work"/site/*.dist-info
library=$work/site/tensorrt_rtx_libs/libtensorrt_rtx.so.1
(cd "$(dirname "$library")" && sha256sum libtensorrt_rtx.so.1) > "$work/payload/b/library.sha256"
if [ ! -f "$work/library.xz" ]; then
  xz -T1 --x86 --lzma2=preset=9e,dict=256MiB -k -c "$library" > "$work/library.xz.part"
  mv "$work/library.xz.part" "$work/library.xz"
fi
rm "$library"
split -n 2 -d -a 1 "$work/library.xz" "$work/library.xz."
mv "$work/library.xz.0" "$work/payload/a/"
mv "$work/library.xz.1" "$work/payload/b/"
tar -C "$work/site" -cf - . | xz -9e > "$work/payload/b/site.tar.xz"
du -sb "$work/payload/a" "$work/payload/b"
