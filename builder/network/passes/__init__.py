# SPDX-License-Identifier: Apache-2.0
"""Rewrites of a network, one per file. Each takes a network and returns a new one."""
