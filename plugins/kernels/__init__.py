# SPDX-License-Identifier: Apache-2.0
"""Triton-language kernels of the tensorrt target: a module each, listed in `spec.KERNELS`."""
