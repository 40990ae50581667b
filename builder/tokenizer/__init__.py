# SPDX-License-Identifier: Apache-2.0
"""What an engine takes from a checkpoint's tokenizer."""
