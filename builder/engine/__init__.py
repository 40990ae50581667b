# SPDX-License-Identifier: Apache-2.0
"""The engine directory and its container, as docs/engine-format.md specifies them: writing only."""
