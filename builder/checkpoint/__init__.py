# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints: configuration and weights, checked before they are used."""
