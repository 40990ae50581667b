# SPDX-License-Identifier: Apache-2.0
"""Formats of checkpoints whose weights are quantised already, one module per format."""
