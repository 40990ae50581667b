# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism: which part of each weight a rank holds, and the collectives between."""
