# SPDX-License-Identifier: Apache-2.0
"""Data files: a TOML file per SKU in skus/, and in schemes.toml what is built for which of them."""
