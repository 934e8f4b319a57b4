/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The 8259A pair (Intel 8259A data sheet) as chipsets integrate it: ELCR in
 * place of the LTIM bit, the slave's INT on the master's IR2. An edge stays
 * latched until it is acknowledged, also when the line falls before, so that
 * pulses count.
 */
#include "x86/pic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "x86/chips.h"
#include "x86/platform.h"

#define CASCADE 2

#define ICW1_ICW4     (1u << 0)
#define ICW1_SINGLE   (1u << 1)
#define ICW1_INIT     (1u << 4)
#define ICW4_AUTO_EOI (1u << 1)
#define ICW4_NESTED   (1u << 4)
#define OCW3_SELECT   (1u << 3)
#define OCW3_POLL     (1u << 2)

enum init_step { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct chip {
    uint8_t lines;   /* levels of the inputs */
    uint8_t latched; /* edges not acknowledged yet */
    uint8_t isr, imr;
    uint8_t elcr, elcr_mask;
    uint8_t base;   /* vector of IR0 */
    uint8_t lowest; /* input with the lowest priority; 7 without rotation */
    bool auto_eoi, rotate_auto, special_mask, nested;
    bool read_isr, poll;
    bool need_icw4, single;
    enum init_step step;
};

struct pic {
    pthread_mutex_t lock;
    struct chip chip[2]; /* master, slave */
    struct irq_line out;
    bool out_level;
};

static uint8_t chip_irr(const struct chip *c)
{
    return (uint8_t)((c->latched & ~c->elcr) | (c->lines & c->elcr));
}

/* Distance from the top priority, 8 when nothing is set. */
static unsigned top_priority(const struct chip *c, uint8_t set)
{
    unsigned prio = 0;

    if (!set)
        return 8;
    while (!(set & 1u << ((c->lowest + 1 + prio) & 7)))
        prio++;
    return prio;
}

static unsigned input_at(const struct chip *c, unsigned prio)
{
    return (c->lowest + 1 + prio) & 7;
}

/* The input INT is raised for, or -1. */
static int chip_request(const struct chip *c, bool master)
{
    unsigned wanted = top_priority(c, chip_irr(c) & (uint8_t)~c->imr);
    uint8_t serving = c->isr;

    if (c->special_mask)
        serving &= (uint8_t)~c->imr;
    if (c->nested && master)
        serving &= (uint8_t) ~(1u << CASCADE); /* a higher input of the slave may interrupt it */
    return wanted < top_priority(c, serving) ? (int)input_at(c, wanted) : -1;
}

static void chip_eoi(struct chip *c, unsigned input, bool rotate)
{
    c->isr &= (uint8_t) ~(1u << input);
    if (rotate)
        c->lowest = (uint8_t)input;
}

static void chip_ack(struct chip *c, unsigned input)
{
    c->latched &= (uint8_t) ~(1u << input);
    if (!c->auto_eoi)
        c->isr |= (uint8_t)(1u << input);
    else if (c->rotate_auto)
        c->lowest = (uint8_t)input;
}

static void chip_set(struct chip *c, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (level && !(c->lines & bit))
        c->latched |= bit;
    c->lines = (uint8_t)(level ? c->lines | bit : c->lines & ~bit);
}

static void update_locked(struct pic *pic)
{
    struct chip *master = &pic->chip[0];
    bool cascade = chip_request(&pic->chip[1], false) >= 0, level;

    /* IR2 follows the slave's INT as a level: each of the slave's requests must get through. */
    master->lines = (uint8_t)((master->lines & ~(1u << CASCADE)) | (unsigned)cascade << CASCADE);
    master->latched =
        (uint8_t)((master->latched & ~(1u << CASCADE)) | (unsigned)cascade << CASCADE);
    level = chip_request(master, true) >= 0;
    if (level != pic->out_level) {
        pic->out_level = level;
        irq_set(pic->out, level);
    }
}

static void pin_set(void *opaque, unsigned pin, bool level)
{
    struct pic *pic = opaque;

    pthread_mutex_lock(&pic->lock);
    chip_set(&pic->chip[pin / 8], pin % 8, level);
    update_locked(pic);
    pthread_mutex_unlock(&pic->lock);
}

struct irq_line pic_pin(struct pic *pic, unsigned pin)
{
    static const struct irq_line_ops ops = {.set = pin_set};

    if (pin > 15 || pin == CASCADE)
        return (struct irq_line){0};
    return (struct irq_line){.ops = &ops, .opaque = pic, .n = pin};
}

void pic_connect(struct pic *pic, struct irq_line out)
{
    pthread_mutex_lock(&pic->lock);
    pic->out = out;
    irq_set(out, pic->out_level);
    pthread_mutex_unlock(&pic->lock);
}

/* One chip's answer to INTA: a vector; IR7's, not in service, when the request went away. */
static int chip_inta(struct chip *c, bool master, unsigned *input)
{
    int wanted = chip_request(c, master);

    *input = wanted < 0 ? 7 : (unsigned)wanted;
    if (wanted >= 0)
        chip_ack(c, *input);
    return (int)(c->base + *input);
}

int pic_ack(struct pic *pic)
{
    struct chip *master = &pic->chip[0];
    unsigned input;
    int vector;

    pthread_mutex_lock(&pic->lock);
    vector = chip_inta(master, true, &input);
    if (input == CASCADE && !master->single)
        vector = chip_inta(&pic->chip[1], false, &input);
    update_locked(pic);
    pthread_mutex_unlock(&pic->lock);
    return vector;
}

static void icw1_write(struct chip *c, uint8_t val)
{
    c->latched = c->isr = c->imr = 0;
    c->lowest = 7;
    c->special_mask = c->read_isr = c->poll = false;
    c->need_icw4 = val & ICW1_ICW4;
    c->single = val & ICW1_SINGLE;
    if (!c->need_icw4)
        c->auto_eoi = c->nested = false;
    c->rotate_auto = false;
    c->step = INIT_ICW2;
}

static void ocw2_write(struct chip *c, uint8_t val)
{
    unsigned level = val & 7, prio;
    bool rotate = val & 0x80;

    switch (val >> 5) {
    case 0: /* rotation in automatic EOI mode: clear, set */
    case 4:
        c->rotate_auto = rotate;
        break;
    case 1: /* non-specific EOI, 5: with rotation */
    case 5:
        prio = top_priority(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
        if (prio < 8)
            chip_eoi(c, input_at(c, prio), rotate);
        break;
    case 3: /* specific EOI, 7: with rotation */
    case 7:
        chip_eoi(c, level, rotate);
        break;
    case 6: /* set priority */
        c->lowest = (uint8_t)level;
        break;
    default: /* 2: no operation */
        break;
    }
}

static void ocw3_write(struct chip *c, uint8_t val)
{
    if (val & OCW3_POLL)
        c->poll = true;
    if (val & 2)
        c->read_isr = val & 1;
    if (val & 0x40)
        c->special_mask = val & 0x20;
}

static void command_write(struct chip *c, uint8_t val)
{
    if (val & ICW1_INIT)
        icw1_write(c, val);
    else if (val & OCW3_SELECT)
        ocw3_write(c, val);
    else
        ocw2_write(c, val);
}

static void data_write(struct chip *c, uint8_t val)
{
    switch (c->step) {
    case INIT_ICW2:
        c->base = val & 0xf8;
        c->step = !c->single ? INIT_ICW3 : c->need_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW3: /* the cascade is wired, not programmed */
        c->step = c->need_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW4:
        c->auto_eoi = val & ICW4_AUTO_EOI;
        c->nested = val & ICW4_NESTED;
        c->step = INIT_DONE;
        break;
    default:
        c->imr = val;
    }
}

static uint8_t poll_read(struct chip *c, bool master)
{
    int input = chip_request(c, master);

    c->poll = false;
    if (input < 0)
        return 0;
    chip_ack(c, (unsigned)input);
    return (uint8_t)(0x80 | input);
}

static int port_read(struct pic *pic, struct chip *c, uint64_t off, uint64_t *val)
{
    pthread_mutex_lock(&pic->lock);
    if (c->poll)
        *val = poll_read(c, c == &pic->chip[0]);
    else if (off & 1)
        *val = c->imr;
    else
        *val = c->read_isr ? c->isr : chip_irr(c);
    update_locked(pic);
    pthread_mutex_unlock(&pic->lock);
    return 0;
}

static int port_write(struct pic *pic, struct chip *c, uint64_t off, uint64_t val)
{
    pthread_mutex_lock(&pic->lock);
    if (off & 1)
        data_write(c, (uint8_t)val);
    else
        command_write(c, (uint8_t)val);
    update_locked(pic);
    pthread_mutex_unlock(&pic->lock);
    return 0;
}

static int master_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pic *pic = opaque;

    return port_read(pic, &pic->chip[0], off, val);
}

static int master_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pic *pic = opaque;

    return port_write(pic, &pic->chip[0], off, val);
}

static int slave_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pic *pic = opaque;

    return port_read(pic, &pic->chip[1], off, val);
}

static int slave_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pic *pic = opaque;

    return port_write(pic, &pic->chip[1], off, val);
}

static int elcr_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pic *pic = opaque;

    pthread_mutex_lock(&pic->lock);
    *val = pic->chip[off & 1].elcr;
    pthread_mutex_unlock(&pic->lock);
    return 0;
}

static int elcr_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pic *pic = opaque;
    struct chip *c = &pic->chip[off & 1];

    pthread_mutex_lock(&pic->lock);
    c->elcr = (uint8_t)val & c->elcr_mask;
    update_locked(pic);
    pthread_mutex_unlock(&pic->lock);
    return 0;
}

static const struct region_ops master_ops = {master_read, master_write, 1, 1};
static const struct region_ops slave_ops = {slave_read, slave_write, 1, 1};
static const struct region_ops elcr_ops = {elcr_read, elcr_write, 1, 1};

/* The chip has no reset pin; everything is masked until a kernel or firmware initializes it. */
void pic_reset(struct pic *pic)
{
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < 2; i++) {
        struct chip *c = &pic->chip[i];

        *c = (struct chip){
            .lines = c->lines,
            .imr = 0xff,
            .elcr_mask =
                i ? 0xde : 0xf8, /* the timer, keyboard, cascade, clock and FPU are edges */
            .lowest = 7,
        };
    }
    update_locked(pic);
    pthread_mutex_unlock(&pic->lock);
}

static void chip_save(const struct chip *c, struct pic_chip_state *s)
{
    *s = (struct pic_chip_state){
        .lines = c->lines,
        .latched = c->latched,
        .isr = c->isr,
        .imr = c->imr,
        .elcr = c->elcr,
        .base = c->base,
        .lowest = c->lowest,
        .step = c->step,
        .auto_eoi = c->auto_eoi,
        .rotate_auto = c->rotate_auto,
        .special_mask = c->special_mask,
        .nested = c->nested,
        .read_isr = c->read_isr,
        .poll = c->poll,
        .need_icw4 = c->need_icw4,
        .single = c->single,
    };
}

static void chip_load(struct chip *c, const struct pic_chip_state *s)
{
    *c = (struct chip){
        .lines = s->lines,
        .latched = s->latched,
        .isr = s->isr,
        .imr = s->imr,
        .elcr = s->elcr & c->elcr_mask,
        .elcr_mask = c->elcr_mask,
        .base = s->base & 0xf8,
        .lowest = s->lowest & 7,
        .step = s->step & 3,
        .auto_eoi = s->auto_eoi,
        .rotate_auto = s->rotate_auto,
        .special_mask = s->special_mask,
        .nested = s->nested,
        .read_isr = s->read_isr,
        .poll = s->poll,
        .need_icw4 = s->need_icw4,
        .single = s->single,
    };
}

void pic_save(struct pic *pic, struct pic_state *s)
{
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < 2; i++)
        chip_save(&pic->chip[i], &s->chip[i]);
    pthread_mutex_unlock(&pic->lock);
}

void pic_load(struct pic *pic, const struct pic_state *s)
{
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < 2; i++)
        chip_load(&pic->chip[i], &s->chip[i]);
    update_locked(pic);
    pthread_mutex_unlock(&pic->lock);
}

int pic_new(struct pic **out, struct vm *vm, struct err *err)
{
    struct pic *pic = calloc(1, sizeof(*pic));
    int ret;

    if (!pic)
        return err_set(err, -ENOMEM, "not enough memory for the interrupt controllers");
    pthread_mutex_init(&pic->lock, NULL);
    pic_reset(pic);
    ret = bus_map(&vm->pio, PIO_PIC_MASTER, 2, &master_ops, pic, "pic-master", err);
    if (!ret)
        ret = bus_map(&vm->pio, PIO_PIC_SLAVE, 2, &slave_ops, pic, "pic-slave", err);
    if (!ret)
        ret = bus_map(&vm->pio, PIO_ELCR, 2, &elcr_ops, pic, "elcr", err);
    if (ret < 0) {
        pic_free(pic);
        return ret;
    }
    *out = pic;
    return 0;
}

void pic_free(struct pic *pic)
{
    if (!pic)
        return;
    pthread_mutex_destroy(&pic->lock);
    free(pic);
}
