# SPDX-License-Identifier: Apache-2.0
"""The network: ordered nodes over symbolic packed tensors, between a checkpoint and a target."""
