// SPDX-License-Identifier: Apache-2.0
#include "enginery/enginery.h"

const char* enginery_version(void) { return ENGINERY_VERSION; }
