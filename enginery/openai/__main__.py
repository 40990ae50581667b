# SPDX-License-Identifier: Apache-2.0
"""`python -m enginery.openai`, as `front_end` starts it."""

from __future__ import annotations

import sys

from .process import main

if __name__ == "__main__":
    sys.exit(main())
