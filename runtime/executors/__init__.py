# SPDX-License-Identifier: Apache-2.0
"""Executors of segmented engines, and what they share.

    image       what the executor needs of an engine file, read and checked
    device      the operations that a device offers to the executor
    segmented   the executor: one program for a GPU and for its emulation
    cuda        a device over the CUDA driver

Nothing here knows the builder or a kernel's source: an engine directory is all there is.
"""
