/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Motorola MC146818A data sheet. Time is the host's UTC plus what the guest
 * set. Flags are worked out when somebody looks; a host timer runs only for
 * an interrupt that is enabled and not already asserted.
 */
#include "x86/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "x86/chips.h"
#include "x86/platform.h"

#define NS        1000000000ll
#define DAY       86400ll
#define YEAR_1800 (-5364662400ll)
#define YEAR_2200 7258118400ll
#define UIP_NS    244000 /* an update is announced this long ahead */

enum cmos_reg {
    CMOS_SEC,
    CMOS_SEC_ALARM,
    CMOS_MIN,
    CMOS_MIN_ALARM,
    CMOS_HOUR,
    CMOS_HOUR_ALARM,
    CMOS_WEEKDAY,
    CMOS_DAY,
    CMOS_MONTH,
    CMOS_YEAR,
    CMOS_A,
    CMOS_B,
    CMOS_C,
    CMOS_D,
    CMOS_CENTURY = 0x32,
};

#define A_UIP         0x80u
#define A_RATE        0x0fu
#define A_DIVIDER     0x70u
#define A_DIVIDER_RUN 0x20u
#define B_SET         0x80u
#define B_PERIODIC    0x40u
#define B_ALARM       0x20u
#define B_UPDATE      0x10u
#define B_BINARY      0x04u
#define B_24H         0x02u
#define C_IRQ         0x80u
#define FLAGS         (B_PERIODIC | B_ALARM | B_UPDATE) /* same bits in B (enable) and C (flag) */
#define D_VALID       0x80u
#define HOUR_PM       0x80u
#define ALARM_ANY     0xc0u

struct rtc {
    pthread_mutex_t lock;
    struct vm *vm;
    struct irq_line irq8;
    bool level;
    uint8_t cmos[128]; /* the time registers are valid only while B_SET stops the clock */
    uint8_t index;
    int64_t offset_ns;   /* guest's idea of UTC minus the host's */
    int64_t seen_sec;    /* updates up to this second are in the flags */
    int64_t seen_period; /* likewise for the periodic interrupt */
    struct vtimer timer;
};

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t rtc_now(const struct rtc *rtc)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * NS + ts.tv_nsec + rtc->offset_ns;
}

static bool is_stopped(const struct rtc *rtc)
{
    return (rtc->cmos[CMOS_B] & B_SET) || (rtc->cmos[CMOS_A] & A_DIVIDER) != A_DIVIDER_RUN;
}

/* Data sheet table 2, 32768 Hz time base; 0: no periodic interrupt. */
static int64_t period_ns(const struct rtc *rtc)
{
    unsigned rate = rtc->cmos[CMOS_A] & A_RATE;

    if (!rate || (rtc->cmos[CMOS_A] & A_DIVIDER) != A_DIVIDER_RUN)
        return 0;
    if (rate < 3)
        rate += 7;
    return NS * (1 << (rate - 1)) / 32768;
}

static uint8_t encode(const struct rtc *rtc, unsigned n)
{
    return (uint8_t)(rtc->cmos[CMOS_B] & B_BINARY ? n : n / 10 << 4 | n % 10);
}

/* -1 when the byte is no number in the present mode. */
static int decode(const struct rtc *rtc, uint8_t byte)
{
    if (rtc->cmos[CMOS_B] & B_BINARY)
        return byte;
    return (byte >> 4) > 9 || (byte & 15) > 9 ? -1 : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
    if (rtc->cmos[CMOS_B] & B_24H)
        return encode(rtc, hour);
    return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc *rtc, uint8_t byte)
{
    int hour;

    if (rtc->cmos[CMOS_B] & B_24H)
        return decode(rtc, byte);
    hour = decode(rtc, byte & (uint8_t)~HOUR_PM);
    if (hour < 1 || hour > 12)
        return -1;
    return hour % 12 + (byte & HOUR_PM ? 12 : 0);
}

static void time_to_cmos(struct rtc *rtc, int64_t now)
{
    time_t sec = (time_t)floor_div(now, NS);
    unsigned year;
    struct tm tm;

    if (!gmtime_r(&sec, &tm))
        return;
    year = (unsigned)(tm.tm_year + 1900) % 10000;
    rtc->cmos[CMOS_SEC] = encode(rtc, (unsigned)tm.tm_sec);
    rtc->cmos[CMOS_MIN] = encode(rtc, (unsigned)tm.tm_min);
    rtc->cmos[CMOS_HOUR] = encode_hour(rtc, (unsigned)tm.tm_hour);
    rtc->cmos[CMOS_WEEKDAY] = encode(rtc, (unsigned)tm.tm_wday + 1);
    rtc->cmos[CMOS_DAY] = encode(rtc, (unsigned)tm.tm_mday);
    rtc->cmos[CMOS_MONTH] = encode(rtc, (unsigned)tm.tm_mon + 1);
    rtc->cmos[CMOS_YEAR] = encode(rtc, year % 100);
    rtc->cmos[CMOS_CENTURY] = encode(rtc, year / 100);
}

/*
 * False when the registers hold no date, or one whose nanoseconds would not fit 64 bits. timegm
 * brings 31 February and the like into range.
 */
static bool cmos_to_time(const struct rtc *rtc, int64_t *sec)
{
    int year = decode(rtc, rtc->cmos[CMOS_YEAR]), century = decode(rtc, rtc->cmos[CMOS_CENTURY]);
    struct tm tm = {
        .tm_sec = decode(rtc, rtc->cmos[CMOS_SEC]),
        .tm_min = decode(rtc, rtc->cmos[CMOS_MIN]),
        .tm_hour = decode_hour(rtc, rtc->cmos[CMOS_HOUR]),
        .tm_mday = decode(rtc, rtc->cmos[CMOS_DAY]),
        .tm_mon = decode(rtc, rtc->cmos[CMOS_MONTH]) - 1,
        .tm_year = century * 100 + year - 1900,
    };

    if (tm.tm_sec < 0 || tm.tm_min < 0 || tm.tm_hour < 0 || tm.tm_mday < 0 || tm.tm_mon < -1 ||
        year < 0 || century < 0)
        return false;
    *sec = (int64_t)timegm(&tm);
    return *sec >= YEAR_1800 && *sec < YEAR_2200;
}

/* An alarm byte: matches anything, one value, or (false) nothing. */
static bool alarm_matches(uint8_t byte, int decoded, int64_t value)
{
    return (byte & ALARM_ANY) == ALARM_ANY || decoded == value;
}

/* The first second after `sec` the alarm goes off in, or -1. It repeats daily. */
static int64_t next_alarm(const struct rtc *rtc, int64_t sec)
{
    uint8_t ab[3] = {rtc->cmos[CMOS_SEC_ALARM], rtc->cmos[CMOS_MIN_ALARM],
                     rtc->cmos[CMOS_HOUR_ALARM]};
    int want_sec = decode(rtc, ab[0]), want_min = decode(rtc, ab[1]),
        want_hour = decode_hour(rtc, ab[2]);
    int64_t end = sec + DAY;

    for (sec++; sec <= end;) {
        int64_t of_day = sec - floor_div(sec, DAY) * DAY;

        if (!alarm_matches(ab[2], want_hour, of_day / 3600))
            sec += 3600 - of_day % 3600;
        else if (!alarm_matches(ab[1], want_min, of_day / 60 % 60))
            sec += 60 - of_day % 60;
        else if (!alarm_matches(ab[0], want_sec, of_day % 60))
            sec++;
        else
            return sec;
    }
    return -1;
}

/* Bring the flags up to date with everything that happened until now. */
static void flags_sync(struct rtc *rtc, int64_t now)
{
    int64_t sec = floor_div(now, NS), period = period_ns(rtc), alarm;

    if (!is_stopped(rtc) && sec > rtc->seen_sec) {
        rtc->cmos[CMOS_C] |= B_UPDATE;
        alarm = next_alarm(rtc, rtc->seen_sec);
        if (alarm >= 0 && alarm <= sec)
            rtc->cmos[CMOS_C] |= B_ALARM;
    }
    rtc->seen_sec = sec; /* may go back when somebody sets the host's clock */
    if (period) {
        if (floor_div(now, period) > rtc->seen_period)
            rtc->cmos[CMOS_C] |= B_PERIODIC;
        rtc->seen_period = floor_div(now, period);
    }
}

static void earliest(int64_t *at, int64_t candidate)
{
    if (candidate < *at)
        *at = candidate;
}

static void update_locked(struct rtc *rtc)
{
    int64_t now = rtc_now(rtc), at = INT64_MAX, period = period_ns(rtc), alarm;
    uint8_t enabled;
    bool level;

    flags_sync(rtc, now);
    enabled = rtc->cmos[CMOS_B] & FLAGS;
    level = rtc->cmos[CMOS_C] & enabled;
    rtc->cmos[CMOS_C] = (rtc->cmos[CMOS_C] & FLAGS) | (level ? C_IRQ : 0);
    if (level != rtc->level) {
        rtc->level = level;
        irq_set(rtc->irq8, level);
    }
    if (!level) {
        if ((enabled & B_PERIODIC) && period)
            earliest(&at, (rtc->seen_period + 1) * period);
        if ((enabled & B_UPDATE) && !is_stopped(rtc))
            earliest(&at, (rtc->seen_sec + 1) * NS);
        if ((enabled & B_ALARM) && !is_stopped(rtc)) {
            alarm = next_alarm(rtc, rtc->seen_sec);
            if (alarm >= 0)
                earliest(&at, alarm * NS);
        }
    }
    if (at == INT64_MAX)
        vtimer_disarm(&rtc->timer);
    else
        vtimer_arm(&rtc->timer,
                   clock_now_ns(&rtc->vm->clock) + (uint64_t)(at > now ? at - now : 0));
}

static void timer_fire(void *opaque)
{
    struct rtc *rtc = opaque;

    pthread_mutex_lock(&rtc->lock);
    update_locked(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

static bool is_time(unsigned reg)
{
    return (reg <= CMOS_YEAR && reg != CMOS_SEC_ALARM && reg != CMOS_MIN_ALARM &&
            reg != CMOS_HOUR_ALARM) ||
           reg == CMOS_CENTURY;
}

/* Make the clock continue from the registers. Sub-seconds start anew, as the divider chain does. */
static void clock_set(struct rtc *rtc, bool keep_fraction)
{
    int64_t host = rtc_now(rtc) - rtc->offset_ns, sec, fraction = 0;

    if (!cmos_to_time(rtc, &sec))
        return;
    if (keep_fraction) {
        int64_t now = host + rtc->offset_ns;

        fraction = now - floor_div(now, NS) * NS;
    }
    rtc->offset_ns = sec * NS + fraction - host;
    rtc->seen_sec = sec;
    if (period_ns(rtc))
        rtc->seen_period = floor_div(rtc_now(rtc), period_ns(rtc));
}

static void control_write(struct rtc *rtc, unsigned reg, uint8_t val)
{
    bool was_stopped = is_stopped(rtc);
    int64_t now = rtc_now(rtc);

    if (reg == CMOS_A)
        val &= (uint8_t)~A_UIP;
    else if (val & B_SET)
        val &= (uint8_t)~B_UPDATE; /* setting SET clears UIE */
    /* A clock that stops leaves the time in its registers, in the mode that was valid so far. */
    if (!was_stopped)
        time_to_cmos(rtc, now);
    rtc->cmos[reg] = val;
    if (was_stopped && !is_stopped(rtc))
        clock_set(rtc, false);
    if (reg == CMOS_A && period_ns(rtc))
        rtc->seen_period = floor_div(now, period_ns(rtc));
}

static void cmos_write(struct rtc *rtc, unsigned reg, uint8_t val)
{
    if (reg == CMOS_C || reg == CMOS_D)
        return;
    if (reg == CMOS_A || reg == CMOS_B) {
        control_write(rtc, reg, val);
    } else if (is_time(reg) && !is_stopped(rtc)) {
        time_to_cmos(rtc, rtc_now(rtc));
        rtc->cmos[reg] = val;
        clock_set(rtc, true);
    } else {
        rtc->cmos[reg] = val;
    }
}

static uint8_t cmos_read(struct rtc *rtc, unsigned reg)
{
    int64_t now = rtc_now(rtc);
    uint8_t val;

    if (is_time(reg) && !is_stopped(rtc))
        time_to_cmos(rtc, now);
    val = rtc->cmos[reg];
    if (reg == CMOS_A && !is_stopped(rtc) && now - floor_div(now, NS) * NS >= NS - UIP_NS)
        val |= A_UIP;
    if (reg == CMOS_C)
        rtc->cmos[CMOS_C] = 0;
    return val;
}

static int rtc_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct rtc *rtc = opaque;

    if (off == 0)
        return -1; /* the index is write-only */
    pthread_mutex_lock(&rtc->lock);
    update_locked(rtc);
    *val = cmos_read(rtc, rtc->index);
    update_locked(rtc);
    pthread_mutex_unlock(&rtc->lock);
    return 0;
}

static int rtc_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct rtc *rtc = opaque;

    pthread_mutex_lock(&rtc->lock);
    if (off == 0) {
        rtc->index = val & 0x7f; /* bit 7 masks NMIs: there are none from the chipset */
    } else {
        update_locked(rtc);
        cmos_write(rtc, rtc->index, (uint8_t)val);
        update_locked(rtc);
    }
    pthread_mutex_unlock(&rtc->lock);
    return 0;
}

static const struct region_ops rtc_ops = {rtc_read, rtc_write, 1, 1};

/* A reset clears interrupts only; time, alarm and CMOS bytes live on the battery. */
void rtc_reset(struct rtc *rtc)
{
    pthread_mutex_lock(&rtc->lock);
    update_locked(rtc);
    rtc->cmos[CMOS_B] &= (uint8_t)~FLAGS;
    rtc->cmos[CMOS_C] = 0;
    rtc->index = 0;
    update_locked(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

void rtc_save(struct rtc *rtc, struct rtc_state *s)
{
    pthread_mutex_lock(&rtc->lock);
    update_locked(rtc);
    memcpy(s->cmos, rtc->cmos, sizeof(s->cmos));
    s->index = rtc->index;
    s->offset_ns = rtc->offset_ns;
    pthread_mutex_unlock(&rtc->lock);
}

static bool offset_is_right(const struct rtc *rtc, int64_t offset)
{
    int64_t host = rtc_now(rtc) - rtc->offset_ns, sum;

    return !__builtin_add_overflow(host, offset, &sum) && sum >= YEAR_1800 * NS &&
           sum < YEAR_2200 * NS;
}

/* Updates and periods that went by while nobody ran the guest are not made up for. */
int rtc_load(struct rtc *rtc, const struct rtc_state *s)
{
    int rc = -EINVAL;

    pthread_mutex_lock(&rtc->lock);
    if (offset_is_right(rtc, s->offset_ns)) {
        memcpy(rtc->cmos, s->cmos, sizeof(rtc->cmos));
        rtc->cmos[CMOS_A] &= (uint8_t)~A_UIP;
        rtc->cmos[CMOS_C] &= FLAGS | C_IRQ;
        rtc->cmos[CMOS_D] = D_VALID;
        rtc->index = s->index & 0x7f;
        rtc->offset_ns = s->offset_ns;
        rtc->seen_sec = floor_div(rtc_now(rtc), NS);
        if (period_ns(rtc))
            rtc->seen_period = floor_div(rtc_now(rtc), period_ns(rtc));
        update_locked(rtc);
        rc = 0;
    }
    pthread_mutex_unlock(&rtc->lock);
    return rc;
}

int rtc_new(struct rtc **out, struct vm *vm, struct irq_line irq8, struct err *err)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    int ret;

    if (!rtc)
        return err_set(err, -ENOMEM, "not enough memory for the real-time clock");
    rtc->vm = vm;
    rtc->irq8 = irq8;
    rtc->cmos[CMOS_A] = A_DIVIDER_RUN | 6; /* 1024 Hz */
    rtc->cmos[CMOS_B] = B_24H;
    rtc->cmos[CMOS_D] = D_VALID;
    rtc->seen_sec = floor_div(rtc_now(rtc), NS);
    rtc->seen_period = floor_div(rtc_now(rtc), period_ns(rtc));
    pthread_mutex_init(&rtc->lock, NULL);
    vtimer_init(&rtc->timer, &vm->clock, timer_fire, rtc);
    rtc_reset(rtc);
    ret = bus_map(&vm->pio, PIO_RTC, 2, &rtc_ops, rtc, "rtc", err);
    if (ret < 0) {
        rtc_free(rtc);
        return ret;
    }
    *out = rtc;
    return 0;
}

void rtc_free(struct rtc *rtc)
{
    if (!rtc)
        return;
    vtimer_fini(&rtc->timer);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}
