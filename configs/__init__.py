# SPDX-License-Identifier: Apache-2.0
"""Data files: one TOML file per SKU in skus/."""
