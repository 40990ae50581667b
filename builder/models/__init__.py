# SPDX-License-Identifier: Apache-2.0
"""Model families: one declarative file each, and the decoder that they share."""
