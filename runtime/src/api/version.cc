// SPDX-License-Identifier: Apache-2.0
#include "enginery/enginery.h"

uint32_t enginery_abi_version(void) { return ENGINERY_ABI_VERSION; }

const char* enginery_version(void) { return ENGINERY_VERSION; }
