# SPDX-License-Identifier: Apache-2.0
"""The `tensorrt` target: segments that TensorRT or fused kernels run, and kernels between them."""
