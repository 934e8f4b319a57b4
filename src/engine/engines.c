/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/engine.h"

const struct engine_ops *const engines[] = {&engine_kvm, &engine_soft, NULL};
