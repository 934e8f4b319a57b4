/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tables are built in a host buffer that mirrors the area from ACPI_BASE and is
 * written in one go. The DSDT's AML comes from a small emitter (ACPI 6.4,
 * chapter 20): blocks are emitted body first, their length put in front when
 * they close.
 */
#include "x86/acpi.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "x86/pci_window.h"
#include "x86/platform.h"

#define ACPI_BASE ACPI_TABLES
#define ACPI_ROOM ACPI_TABLES_SIZE

#define RSDP_LEN   36
#define HEADER_LEN 36
#define FACS_LEN   64
#define FADT_LEN   276
#define MAX_CPUS   255 /* xAPIC identifiers; 0xff is broadcast */

struct out {
    uint8_t *buf;
    size_t len, cap;
    bool full; /* something did not fit; what is in buf is useless */
};

static void emit(struct out *o, const void *p, size_t n)
{
    if (n > o->cap - o->len) {
        o->full = true;
        return;
    }
    memcpy(o->buf + o->len, p, n);
    o->len += n;
}

static void emit_zero(struct out *o, size_t n)
{
    if (n > o->cap - o->len) {
        o->full = true;
        return;
    }
    memset(o->buf + o->len, 0, n);
    o->len += n;
}

/* The low n bytes of v, little-endian. */
static void emit_int(struct out *o, uint64_t v, size_t n)
{
    v = htole64(v);
    emit(o, &v, n);
}

static void patch_int(struct out *o, size_t at, uint64_t v, size_t n)
{
    v = htole64(v);
    if (!o->full)
        memcpy(o->buf + at, &v, n);
}

static void emit_align(struct out *o, size_t a)
{
    emit_zero(o, ALIGN_UP(o->len, a) - o->len);
}

/* Make the bytes [from, from+n) add up to zero by the byte at `at`. */
static void patch_checksum(struct out *o, size_t from, size_t n, size_t at)
{
    uint8_t sum = 0;

    if (o->full)
        return;
    o->buf[at] = 0;
    for (size_t i = 0; i < n; i++)
        sum += o->buf[from + i];
    o->buf[at] = -sum;
}

/* AML: section 20.2 */

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_DUAL_NAME = 0x2e,
    AML_EXT = 0x5b,
    AML_EXT_DEVICE = 0x82,
    AML_NOTIFY = 0x86,
};

static void aml_op(struct out *o, enum aml_op op)
{
    emit_int(o, op, 1);
}

/* `name`: four characters, after a backslash when it starts at the root. */
static void aml_name_string(struct out *o, const char *name)
{
    emit(o, name, strlen(name));
}

static void aml_integer(struct out *o, uint32_t v)
{
    if (v <= 1) {
        aml_op(o, v ? AML_ONE : AML_ZERO);
    } else if (v <= 0xff) {
        aml_op(o, AML_BYTE);
        emit_int(o, v, 1);
    } else if (v <= 0xffff) {
        aml_op(o, AML_WORD);
        emit_int(o, v, 2);
    } else {
        aml_op(o, AML_DWORD);
        emit_int(o, v, 4);
    }
}

static void aml_string(struct out *o, const char *s)
{
    aml_op(o, AML_STRING);
    emit(o, s, strlen(s) + 1);
}

/* Put PkgLength (20.2.4), which counts itself, in front of what was emitted since `start`. */
static void aml_end(struct out *o, size_t start)
{
    size_t body = o->len - start;
    unsigned extra = body + 1 < 0x40 ? 0 : body + 2 < 0x1000 ? 1 : 2;
    size_t len = body + 1 + extra;
    uint8_t pkg[3];

    pkg[0] = extra ? extra << 6 | (len & 0xf) : len;
    pkg[1] = len >> 4;
    pkg[2] = len >> 12;
    emit_zero(o, 1 + extra);
    if (o->full)
        return;
    memmove(o->buf + start + 1 + extra, o->buf + start, body);
    memcpy(o->buf + start, pkg, 1 + extra);
}

static size_t aml_scope(struct out *o, const char *name)
{
    size_t start;

    aml_op(o, AML_SCOPE);
    start = o->len;
    aml_name_string(o, name);
    return start;
}

static size_t aml_device(struct out *o, const char *name)
{
    size_t start;

    aml_op(o, AML_EXT);
    aml_op(o, AML_EXT_DEVICE);
    start = o->len;
    aml_name_string(o, name);
    return start;
}

static void aml_named_integer(struct out *o, const char *name, uint32_t v)
{
    aml_op(o, AML_NAME);
    aml_name_string(o, name);
    aml_integer(o, v);
}

/* EISAID of "PNPxxxx" (19.6.37): three letters of five bits and four hex digits, most significant first. */
static uint32_t eisa_id(const char *id)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < 3; i++)
        v = v << 5 | (uint32_t)(id[i] - '@');
    return htobe32(v << 16 | strtoul(id + 3, NULL, 16));
}

static void aml_hid(struct out *o, const char *id)
{
    aml_op(o, AML_NAME);
    aml_name_string(o, "_HID");
    aml_op(o, AML_DWORD);
    emit_int(o, le32toh(eisa_id(id)), 4);
}

/* _CRS with one 16-bit I/O range and one ISA interrupt (6.4.2.5, 6.4.2.1, 6.4.2.9). */
static void aml_crs_io_irq(struct out *o, uint16_t port, uint8_t len, unsigned irq)
{
    const uint16_t mask = 1u << irq;
    const uint8_t res[] = {
        0x47, 0x01, port & 0xff, port >> 8,   port & 0xff, port >> 8,
        0x01, len,  0x22,        mask & 0xff, mask >> 8, /* edge-triggered, active high, exclusive */
        0x79, 0x00,                                      /* end; zero means the checksum is right */
    };
    size_t start;

    aml_op(o, AML_NAME);
    aml_name_string(o, "_CRS");
    aml_op(o, AML_BUFFER);
    start = o->len;
    aml_integer(o, sizeof(res));
    emit(o, res, sizeof(res));
    aml_end(o, start);
}

static void aml_sleep_state(struct out *o)
{
    size_t start;

    aml_op(o, AML_NAME);
    aml_name_string(o, "\\_S5_");
    aml_op(o, AML_PACKAGE);
    start = o->len;
    emit_int(o, 4, 1);
    aml_integer(o, ACPI_S5_SLP_TYP); /* PM1a, PM1b, two reserved (7.4.2) */
    aml_integer(o, ACPI_S5_SLP_TYP);
    aml_integer(o, 0);
    aml_integer(o, 0);
    aml_end(o, start);
}

static void aml_processors(struct out *o, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        char name[8];
        size_t dev;

        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        dev = aml_device(o, name);
        aml_op(o, AML_NAME);
        aml_name_string(o, "_HID");
        aml_string(o, "ACPI0007");
        aml_named_integer(o, "_UID", i);
        aml_end(o, dev);
    }
}

static void aml_isa_device(struct out *o, const char *name, const char *hid, uint16_t port,
                           uint8_t len, unsigned irq)
{
    size_t dev = aml_device(o, name);

    aml_hid(o, hid);
    aml_named_integer(o, "_UID", 0);
    aml_crs_io_irq(o, port, len, irq);
    aml_end(o, dev);
}

/* Address space descriptor (6.4.3.5) of a range that the bridge passes on, its ends fixed; `width` of its numbers. */
static void res_window(struct out *o, unsigned width, unsigned type, unsigned flags, uint64_t base,
                       uint64_t size)
{
    const uint8_t tag = width == 2 ? 0x88 : width == 4 ? 0x87 : 0x8a;

    emit_int(o, tag, 1);
    emit_int(o, 3 + 5 * width, 2);
    emit_int(o, type, 1);
    emit_int(o, 0x0c, 1);
    emit_int(o, flags, 1);
    emit_int(o, 0, width); /* granularity */
    emit_int(o, base, width);
    emit_int(o, base + size - 1, width);
    emit_int(o, 0, width); /* translation */
    emit_int(o, size, width);
}

#define RES_MEMORY 0
#define RES_IO     1
#define RES_BUS    2

static void res_pci(struct out *o, const struct mem *mem)
{
    const uint8_t config[] = {0x47, 0x01, 0xf8, 0x0c, 0xf8, 0x0c, 0x01, 0x08}; /* decoded here */
    gpa_t high = pci_high_base(mem);

    res_window(o, 2, RES_BUS, 0, 0, 1);
    emit(o, config, sizeof(config));
    res_window(o, 2, RES_IO, 3, 0, PIO_PCI_ADDRESS);
    res_window(o, 2, RES_IO, 3, PIO_PCI_DATA + 4, 0x10000 - (PIO_PCI_DATA + 4));
    res_window(o, 4, RES_MEMORY, 1, PCI_LOW_BASE, PCI_LOW_SIZE);
    if (high)
        res_window(o, 8, RES_MEMORY, 1, high, PCI_HIGH_SIZE);
    emit_int(o, 0x79, 2); /* end; zero means the checksum is right */
}

/* A buffer's length comes first, so the resources are emitted and then moved. */
static void aml_crs_pci(struct out *o, const struct mem *mem)
{
    uint8_t buf[256];
    struct out res = {.buf = buf, .cap = sizeof(buf)};
    size_t start;

    res_pci(&res, mem);
    aml_op(o, AML_NAME);
    aml_name_string(o, "_CRS");
    aml_op(o, AML_BUFFER);
    start = o->len;
    aml_integer(o, (uint32_t)res.len);
    emit(o, buf, res.len);
    aml_end(o, start);
}

#define PCI_SLOTS 32

/* _PRT (6.2.13): INTA of each slot, straight to its interrupt. */
static void aml_prt(struct out *o)
{
    size_t table;

    aml_op(o, AML_NAME);
    aml_name_string(o, "_PRT");
    aml_op(o, AML_PACKAGE);
    table = o->len;
    emit_int(o, PCI_SLOTS, 1);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        size_t entry;

        aml_op(o, AML_PACKAGE);
        entry = o->len;
        emit_int(o, 4, 1);
        aml_integer(o, slot << 16 | 0xffff); /* any function */
        aml_integer(o, 0);                   /* INTA */
        aml_integer(o, 0);                   /* no link device */
        aml_integer(o, IRQ_PCI(slot));
        aml_end(o, entry);
    }
    aml_end(o, table);
}

static void aml_pci(struct out *o, const struct mem *mem)
{
    size_t dev = aml_device(o, "PCI0");

    aml_hid(o, "PNP0A03");
    aml_named_integer(o, "_UID", 0);
    aml_named_integer(o, "_ADR", 0);
    aml_named_integer(o, "_BBN", 0);
    aml_crs_pci(o, mem);
    aml_prt(o);
    aml_end(o, dev);
}

/* _CRS with one range of memory (6.4.3.4), which is not for others: where the configuration space is. */
static void aml_board(struct out *o)
{
    uint8_t res[14] = {0x86, 9, 0, 1, [12] = 0x79};
    const uint32_t base = htole32((uint32_t)MMIO_PCI_CONFIG);
    const uint32_t size = htole32((uint32_t)MMIO_PCI_CONFIG_SIZE);
    size_t dev = aml_device(o, "MBRD"), start;

    memcpy(res + 4, &base, 4);
    memcpy(res + 8, &size, 4);
    aml_hid(o, "PNP0C02");
    aml_named_integer(o, "_UID", 0);
    aml_op(o, AML_NAME);
    aml_name_string(o, "_CRS");
    aml_op(o, AML_BUFFER);
    start = o->len;
    aml_integer(o, sizeof(res));
    emit(o, res, sizeof(res));
    aml_end(o, start);
    aml_end(o, dev);
}

static void aml_named_string(struct out *o, const char *name, const char *s)
{
    aml_op(o, AML_NAME);
    aml_name_string(o, name);
    aml_string(o, s);
}

/*
 * Virtual Machine Generation ID (Microsoft, 2018): a device known by its _CID and _DDN, with the address of the ID in two halves
 * in ADDR, and 0x80 as the notification that it has changed.
 */
static void aml_generation(struct out *o)
{
    size_t dev = aml_device(o, "VGEN"), package;

    aml_named_string(o, "_HID", "LDGE0001");
    aml_named_string(o, "_CID", "VM_Gen_Counter");
    aml_named_string(o, "_DDN", "VM_Gen_Counter");
    aml_op(o, AML_NAME);
    aml_name_string(o, "ADDR");
    aml_op(o, AML_PACKAGE);
    package = o->len;
    emit_int(o, 2, 1);
    aml_integer(o, (uint32_t)ACPI_GENERATION);
    aml_integer(o, (uint32_t)(ACPI_GENERATION >> 32));
    aml_end(o, package);
    aml_end(o, dev);
}

/* The event (5.6.4.1.1), edge-triggered: its bit is cleared before this runs. */
static void aml_generation_event(struct out *o)
{
    size_t gpe = aml_scope(o, "\\_GPE"), method;
    char name[5];

    snprintf(name, sizeof(name), "_E%02X", GPE_GENERATION);
    aml_op(o, AML_METHOD);
    method = o->len;
    aml_name_string(o, name);
    emit_int(o, 0, 1); /* no arguments */
    aml_op(o, AML_NOTIFY);
    aml_name_string(o, "\\");
    aml_op(o, AML_DUAL_NAME);
    aml_name_string(o, "_SB_VGEN");
    aml_integer(o, 0x80);
    aml_end(o, method);
    aml_end(o, gpe);
}

static void emit_dsdt_body(struct out *o, const struct mem *mem, unsigned cpus)
{
    size_t sb;

    aml_sleep_state(o);
    sb = aml_scope(o, "\\_SB_");
    aml_processors(o, cpus);
    aml_isa_device(o, "COM1", "PNP0501", PIO_COM1, 8, IRQ_COM1);
    aml_isa_device(o, "RTC0", "PNP0B00", PIO_RTC, 2, IRQ_RTC);
    aml_board(o);
    aml_pci(o, mem);
    aml_generation(o);
    aml_end(o, sb);
    aml_generation_event(o);
}

/* System description table header (5.2.6); returns where the table starts. */
static size_t table_begin(struct out *o, const char *sig, uint8_t rev)
{
    size_t start;

    emit_align(o, 16);
    start = o->len;
    emit(o, sig, 4);
    emit_int(o, 0, 4); /* length */
    emit_int(o, rev, 1);
    emit_int(o, 0, 1); /* checksum */
    emit(o, "LODGE ", 6);
    emit(o, "LODGE_PC", 8);
    emit_int(o, 1, 4);
    emit(o, "LDGE", 4);
    emit_int(o, 1, 4);
    return start;
}

static gpa_t table_end(struct out *o, size_t start)
{
    patch_int(o, start + 4, o->len - start, 4);
    patch_checksum(o, start, o->len - start, start + 9);
    return ACPI_BASE + start;
}

static gpa_t build_dsdt(struct out *o, const struct mem *mem, unsigned cpus)
{
    size_t t = table_begin(o, "DSDT", 2);

    emit_dsdt_body(o, mem, cpus);
    return table_end(o, t);
}

/* 5.2.10; 64-byte aligned, without checksum. */
static gpa_t build_facs(struct out *o)
{
    size_t start;

    emit_align(o, 64);
    start = o->len;
    emit(o, "FACS", 4);
    emit_int(o, FACS_LEN, 4);
    emit_zero(o, FACS_LEN - 8);
    patch_int(o, start + 32, 2, 1); /* version */
    return ACPI_BASE + start;
}

/* Byte offsets in the FADT (5.2.9, table 5.9). */
enum fadt {
    FADT_FIRMWARE_CTRL = 36,
    FADT_DSDT = 40,
    FADT_SCI_INT = 46,
    FADT_PM1A_EVT_BLK = 56,
    FADT_PM1A_CNT_BLK = 64,
    FADT_PM_TMR_BLK = 76,
    FADT_GPE0_BLK = 80,
    FADT_PM1_EVT_LEN = 88,
    FADT_PM1_CNT_LEN = 89,
    FADT_PM_TMR_LEN = 91,
    FADT_GPE0_BLK_LEN = 92,
    FADT_P_LVL2_LAT = 96,
    FADT_P_LVL3_LAT = 98,
    FADT_CENTURY = 108,
    FADT_IAPC_BOOT_ARCH = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REG = 116,
    FADT_RESET_VALUE = 128,
    FADT_MINOR_VERSION = 131,
    FADT_X_DSDT = 140,
    FADT_X_PM1A_EVT_BLK = 148,
    FADT_X_PM1A_CNT_BLK = 172,
    FADT_X_PM_TMR_BLK = 208,
    FADT_X_GPE0_BLK = 220,
};

#define FADT_WBINVD  (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_NO_SLEEP_BUTTON                                                                       \
    (1u << 5) /* PWR_BUTTON (4) is clear: the power button is fixed hardware */
#define FADT_NO_FIXED_RTC  (1u << 6) /* the RTC alarm does not wake the machine */
#define FADT_TMR_VAL_EXT   (1u << 8) /* 32-bit PM timer */
#define FADT_RESET_REG_SUP (1u << 10)

#define BOOT_ARCH_LEGACY_DEVICES (1u << 0)
#define BOOT_ARCH_NO_VGA         (1u << 2) /* 8042 (1) and "no CMOS RTC" (5) are clear */

#define CMOS_CENTURY 0x32

/* Generic address structure (5.2.3.2) of an I/O port block of 8 << (access-1) bit registers. */
static void patch_gas(struct out *o, size_t at, unsigned bits, unsigned access, uint16_t port)
{
    patch_int(o, at, 1, 1); /* system I/O space */
    patch_int(o, at + 1, bits, 1);
    patch_int(o, at + 2, 0, 1);
    patch_int(o, at + 3, access, 1);
    patch_int(o, at + 4, port, 8);
}

static gpa_t build_fadt(struct out *o, gpa_t facs, gpa_t dsdt)
{
    const uint32_t flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC |
                           FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP;
    size_t t = table_begin(o, "FACP", 6);

    /* Without SMI_CMD the machine is in ACPI mode from the start. */
    emit_zero(o, FADT_LEN - HEADER_LEN);
    patch_int(o, t + FADT_FIRMWARE_CTRL, facs, 4); /* and no X_FIRMWARE_CTRL: only one may be set */
    patch_int(o, t + FADT_DSDT, dsdt, 4);
    patch_int(o, t + FADT_X_DSDT, dsdt, 8);
    patch_int(o, t + FADT_SCI_INT, IRQ_SCI, 2);
    patch_int(o, t + FADT_PM1A_EVT_BLK, PIO_PM1A_EVT, 4);
    patch_int(o, t + FADT_PM1A_CNT_BLK, PIO_PM1A_CNT, 4);
    patch_int(o, t + FADT_PM_TMR_BLK, PIO_PM_TMR, 4);
    patch_int(o, t + FADT_GPE0_BLK, PIO_GPE0, 4);
    patch_int(o, t + FADT_GPE0_BLK_LEN, 2, 1);
    patch_int(o, t + FADT_PM1_EVT_LEN, 4, 1);
    patch_int(o, t + FADT_PM1_CNT_LEN, 2, 1);
    patch_int(o, t + FADT_PM_TMR_LEN, 4, 1);
    patch_int(o, t + FADT_P_LVL2_LAT, 0xfff, 2); /* over 100 and 1000 us: no C2, no C3 */
    patch_int(o, t + FADT_P_LVL3_LAT, 0xfff, 2);
    patch_int(o, t + FADT_CENTURY, CMOS_CENTURY, 1);
    patch_int(o, t + FADT_IAPC_BOOT_ARCH, BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA, 2);
    patch_int(o, t + FADT_FLAGS, flags, 4);
    patch_gas(o, t + FADT_RESET_REG, 8, 1, PIO_RESET);
    patch_int(o, t + FADT_RESET_VALUE, RESET_VALUE, 1);
    patch_int(o, t + FADT_MINOR_VERSION, 4, 1);
    patch_gas(o, t + FADT_X_PM1A_EVT_BLK, 32, 2, PIO_PM1A_EVT);
    patch_gas(o, t + FADT_X_PM1A_CNT_BLK, 16, 2, PIO_PM1A_CNT);
    patch_gas(o, t + FADT_X_PM_TMR_BLK, 32, 3, PIO_PM_TMR);
    patch_gas(o, t + FADT_X_GPE0_BLK, 16, 1, PIO_GPE0);
    return table_end(o, t);
}

#define MADT_PCAT_COMPAT 1
#define MPS_CONFORMS     0x0
#define MPS_LEVEL_HIGH   0xd /* polarity 01, trigger mode 11 */

static void madt_override(struct out *o, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    emit_int(o, 2, 1);
    emit_int(o, 10, 1);
    emit_int(o, 0, 1); /* ISA */
    emit_int(o, irq, 1);
    emit_int(o, gsi, 4);
    emit_int(o, flags, 2);
}

/* 5.2.12 */
static gpa_t build_madt(struct out *o, unsigned cpus)
{
    size_t t = table_begin(o, "APIC", 5);

    emit_int(o, MMIO_LAPIC, 4);
    emit_int(o, MADT_PCAT_COMPAT, 4);
    for (unsigned i = 0; i < cpus; i++) {
        emit_int(o, 0, 1); /* processor local APIC */
        emit_int(o, 8, 1);
        emit_int(o, i, 1); /* _UID */
        emit_int(o, i, 1); /* APIC ID */
        emit_int(o, 1, 4); /* enabled */
    }
    emit_int(o, 1, 1); /* I/O APIC */
    emit_int(o, 12, 1);
    emit_int(o, 0, 1); /* its ID after reset */
    emit_int(o, 0, 1);
    emit_int(o, MMIO_IOAPIC, 4);
    emit_int(o, 0, 4); /* first GSI */
    madt_override(o, IRQ_PIT, 2, MPS_CONFORMS);
    madt_override(o, IRQ_SCI, IRQ_SCI, MPS_LEVEL_HIGH);
    madt_override(o, IRQ_PCI_EVEN, IRQ_PCI_EVEN, MPS_LEVEL_HIGH);
    madt_override(o, IRQ_PCI_ODD, IRQ_PCI_ODD, MPS_LEVEL_HIGH);
    emit_int(o, 4, 1); /* local APIC NMI */
    emit_int(o, 6, 1);
    emit_int(o, 0xff, 1); /* all processors */
    emit_int(o, MPS_CONFORMS, 2);
    emit_int(o, 1, 1); /* LINT1 */
    return table_end(o, t);
}

/* PCI Firmware Specification 3.0, 4.1.2 */
static gpa_t build_mcfg(struct out *o)
{
    size_t t = table_begin(o, "MCFG", 1);

    emit_zero(o, 8);
    emit_int(o, MMIO_PCI_CONFIG, 8);
    emit_int(o, 0, 2); /* segment */
    emit_int(o, 0, 1); /* first bus */
    emit_int(o, 0, 1); /* last bus */
    emit_zero(o, 4);
    return table_end(o, t);
}

static gpa_t build_xsdt(struct out *o, gpa_t fadt, gpa_t madt, gpa_t mcfg)
{
    size_t t = table_begin(o, "XSDT", 1);

    emit_int(o, fadt, 8);
    emit_int(o, madt, 8);
    emit_int(o, mcfg, 8);
    return table_end(o, t);
}

/* 5.2.5.3; at the very start of the area, where a scan of the BIOS ROM finds it too. */
static void patch_rsdp(struct out *o, gpa_t xsdt)
{
    if (o->full)
        return;
    memcpy(o->buf, "RSD PTR ", 8);
    memcpy(o->buf + 9, "LODGE ", 6);
    patch_int(o, 15, 2, 1); /* revision */
    patch_int(o, 20, RSDP_LEN, 4);
    patch_int(o, 24, xsdt, 8);
    patch_checksum(o, 0, 20, 8);
    patch_checksum(o, 0, RSDP_LEN, 32);
}

int acpi_build(struct mem *mem, unsigned cpus, gpa_t *rsdp, struct err *err)
{
    struct out o = {.cap = ACPI_ROOM};
    gpa_t facs, dsdt, fadt, madt, mcfg, xsdt;
    int ret;

    if (!cpus || cpus > MAX_CPUS)
        return err_set(err, -EINVAL, "ACPI tables cannot describe %u CPUs (1 to %d)", cpus,
                       MAX_CPUS);
    o.buf = malloc(ACPI_ROOM);
    if (!o.buf)
        return err_set(err, -ENOMEM, "no memory to build the ACPI tables");
    emit_zero(&o, RSDP_LEN);
    facs = build_facs(&o);
    dsdt = build_dsdt(&o, mem, cpus);
    fadt = build_fadt(&o, facs, dsdt);
    madt = build_madt(&o, cpus);
    mcfg = build_mcfg(&o);
    xsdt = build_xsdt(&o, fadt, madt, mcfg);
    patch_rsdp(&o, xsdt);
    if (o.full)
        ret = err_set(err, -ENOSPC, "the ACPI tables for %u CPUs take more than %d KiB", cpus,
                      (int)(ACPI_ROOM >> 10));
    else if (mem_write(mem, ACPI_BASE, o.buf, o.len) < 0)
        ret = err_set(err, -EFAULT, "the guest has no memory at %#llx for the ACPI tables",
                      (unsigned long long)ACPI_BASE);
    else
        ret = 0;
    free(o.buf);
    if (!ret)
        *rsdp = ACPI_BASE;
    return ret;
}
