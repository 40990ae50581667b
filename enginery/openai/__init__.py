# SPDX-License-Identifier: Apache-2.0
"""The OpenAI-compatible front end: HTTP in front of Triton server, in a process of its own.

`front_end` starts and ends the process from `enginery serve`; everything else runs in it.
"""
