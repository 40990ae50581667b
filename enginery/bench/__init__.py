# SPDX-License-Identifier: Apache-2.0
"""Measures engines under load; the command is `enginery bench`."""
