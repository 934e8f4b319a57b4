/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The 8259A pair with ELCR (ports 0x20, 0xa0, 0x4d0). */
#ifndef LODGE_X86_PIC_H
#define LODGE_X86_PIC_H

#include "core/irq.h"
#include "core/vm.h"

struct pic;
struct pic_state;

int pic_new(struct pic **pic, struct vm *vm, struct err *err); /* maps its ports */
void pic_free(struct pic *pic);
void pic_reset(struct pic *pic);
void pic_save(struct pic *pic, struct pic_state *s);
void pic_load(struct pic *pic, const struct pic_state *s); /* drives the INT output */
void pic_connect(struct pic *pic, struct irq_line out);    /* the INT output */
struct irq_line pic_pin(struct pic *pic, unsigned pin);    /* 0..15, not 2 */
int pic_ack(struct pic *pic); /* INTA cycle: vector (spurious 7 included) */

#endif
