/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 8254 timer, three channels, modes 0 to 5, with port 0x61 (gate and output of channel 2). */
#ifndef LODGE_X86_PIT_H
#define LODGE_X86_PIT_H

#include "core/irq.h"
#include "core/vm.h"

struct pit;
struct pit_state;

int pit_new(struct pit **pit, struct vm *vm, struct irq_line irq0,
            struct err *err); /* maps its ports */
void pit_free(struct pit *pit);
void pit_reset(struct pit *pit);
void pit_save(struct pit *pit, struct pit_state *s);
void pit_load(struct pit *pit, const struct pit_state *s);

#endif
