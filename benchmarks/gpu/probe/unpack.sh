#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On the GPU machine: unpack.sh PART ROOT, once for each part that pack.sh made, in any order.
# When both are there, makes ROOT/site (TensorRT-RTX); part a alone makes ROOT/kernels and
# ROOT/plans.
set -euo pipefail
part=$1 root=$2
mkdir -p "$root/parts" "$root/site"
cp "$part"/* "$root/parts/"
cd "$root/parts"
[ -d ../plans ] || [ ! -f carried.tar.xz ] || tar -C .. -xJf carried.tar.xz
[ -f library.xz.0 ] && [ -f library.xz.1 ] || { echo "unpack: one part still missing"; exit 0; }
[ ! -f ../.complete ] || exit 0
tar -C ../site -xJf site.tar.xz
cat library.xz.? | xz -dc > ../site/tensorrt_rtx_libs/libtensorrt_rtx.so.1
cd ../site/tensorrt_rtx_libs
sha256sum -c "$root/parts/library.sha256"
touch "$root/.complete"
