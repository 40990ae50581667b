# SPDX-License-Identifier: Apache-2.0
"""Runs tensorrt engines on an NVIDIA GPU, through the driver's official Python bindings."""
