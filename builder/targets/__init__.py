# SPDX-License-Identifier: Apache-2.0
"""Targets: what a network is lowered to."""
