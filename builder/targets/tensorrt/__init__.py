# SPDX-License-Identifier: Apache-2.0
"""The `tensorrt` target: segments for TensorRT or fused kernels, and kernels for what is between."""
