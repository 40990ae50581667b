# SPDX-License-Identifier: Apache-2.0
"""Serves engines with Triton Inference Server."""
