// SPDX-License-Identifier: Apache-2.0
//
// Kernels rely on inlining to keep accumulators in registers, so they demand it rather than hope
// for it.
#ifndef ENGINERY_SRC_KERNELS_INLINE_H_
#define ENGINERY_SRC_KERNELS_INLINE_H_

#define ENGINERY_INLINE inline __attribute__((always_inline))
#define ENGINERY_LAMBDA_INLINE __attribute__((always_inline))

#endif  // ENGINERY_SRC_KERNELS_INLINE_H_
