# SPDX-License-Identifier: Apache-2.0
"""Builds engine directories from Hugging Face checkpoints."""
