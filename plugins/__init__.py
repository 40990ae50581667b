# SPDX-License-Identifier: Apache-2.0
"""Custom kernels of the GPU targets, their specifications and references."""
