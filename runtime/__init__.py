# SPDX-License-Identifier: Apache-2.0
"""Opens engine directories and serves requests on them."""
