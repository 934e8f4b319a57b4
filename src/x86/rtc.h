/* SPDX-License-Identifier: GPL-2.0-or-later */
/* MC146818 clock and 128 bytes of CMOS: host UTC, alarm, periodic and update-ended interrupts. */
#ifndef LODGE_X86_RTC_H
#define LODGE_X86_RTC_H

#include "core/irq.h"
#include "core/vm.h"

struct rtc;
struct rtc_state;

int rtc_new(struct rtc **rtc, struct vm *vm, struct irq_line irq8,
            struct err *err); /* maps its ports */
void rtc_free(struct rtc *rtc);
void rtc_reset(struct rtc *rtc);

/* The whole state (x86/chips.h); no vCPU runs. load: -EINVAL when it cannot be right, and nothing has changed. */
void rtc_save(struct rtc *rtc, struct rtc_state *s);
int rtc_load(struct rtc *rtc, const struct rtc_state *s);

#endif
