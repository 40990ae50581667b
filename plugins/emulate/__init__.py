# SPDX-License-Identifier: Apache-2.0
"""Runs tensorrt engines on the CPU, to check them where there is no GPU."""
