# SPDX-License-Identifier: Apache-2.0
"""The models of TensorRT-LLM's Triton backend, so that its clients find theirs unchanged."""
