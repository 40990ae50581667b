# SPDX-License-Identifier: Apache-2.0
"""Quantisation schemes and calibration; numpy only."""
