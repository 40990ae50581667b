# SPDX-License-Identifier: Apache-2.0
"""Tests; folders mirror the source."""
