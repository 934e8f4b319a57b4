/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/acpi.c src/core/mem.c src/base/err.c */
/* The tables, read back from guest memory by a reader that shares nothing with the writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "x86/acpi.h"
#include "x86/platform.h"

#define AREA     0xe0000u
#define AREA_END 0xff000u /* the page of the generation ID is none of the tables' */

struct tables {
    struct mem mem;
    const uint8_t *fadt, *madt, *mcfg, *dsdt, *facs;
};

static uint64_t get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    while (n--)
        v = v << 8 | p[n];
    return v;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;

    while (n--)
        s += *p++;
    return s;
}

static const uint8_t *at(const struct mem *mem, gpa_t gpa, uint64_t len)
{
    const uint8_t *p = mem_hva(mem, gpa, len);

    assert_true(gpa >= AREA && gpa + len <= AREA_END);
    assert_non_null(p);
    return p;
}

static const uint8_t *table_at(const struct mem *mem, gpa_t gpa, const char *sig)
{
    uint32_t len = get(at(mem, gpa, 36) + 4, 4);
    const uint8_t *t = at(mem, gpa, len);

    assert_memory_equal(t, sig, 4);
    assert_true(len >= 36);
    assert_int_equal(sum(t, len), 0);
    return t;
}

static void tables_init(struct tables *tb, unsigned cpus)
{
    struct err err = {0};
    const uint8_t *rsdp, *xsdt;
    gpa_t gpa = 0;

    assert_int_equal(mem_init(&tb->mem, MIB(2), &err), 0);
    assert_int_equal(acpi_build(&tb->mem, cpus, &gpa, &err), 0);
    assert_int_equal(gpa % 16, 0);
    rsdp = at(&tb->mem, gpa, 36);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    assert_int_equal(rsdp[15], 2);
    assert_int_equal(get(rsdp + 16, 4), 0); /* no RSDT: 64-bit guests follow the XSDT */
    assert_int_equal(get(rsdp + 20, 4), 36);
    xsdt = table_at(&tb->mem, get(rsdp + 24, 8), "XSDT");
    assert_int_equal(get(xsdt + 4, 4), 36 + 3 * 8);
    tb->fadt = table_at(&tb->mem, get(xsdt + 36, 8), "FACP");
    tb->madt = table_at(&tb->mem, get(xsdt + 44, 8), "APIC");
    tb->mcfg = table_at(&tb->mem, get(xsdt + 52, 8), "MCFG");
    tb->dsdt = table_at(&tb->mem, get(tb->fadt + 140, 8), "DSDT");
    assert_int_equal(get(tb->fadt + 40, 4), get(tb->fadt + 140, 8));
    assert_int_equal(get(tb->fadt + 36, 4) % 64, 0);
    tb->facs = at(&tb->mem, get(tb->fadt + 36, 4), 64);
}

static void assert_gas(const uint8_t *gas, unsigned bits, unsigned access, uint64_t port)
{
    assert_int_equal(gas[0], 1);
    assert_int_equal(gas[1], bits);
    assert_int_equal(gas[2], 0);
    assert_int_equal(gas[3], access);
    assert_int_equal(get(gas + 4, 8), port);
}

static void test_fixed_hardware(void **state)
{
    struct tables tb;
    const uint8_t *f;

    tables_init(&tb, 2);
    f = tb.fadt;
    assert_int_equal(get(f + 4, 4), 276);
    assert_int_equal(f[8], 6);
    assert_int_equal(get(f + 46, 2), IRQ_SCI);
    assert_int_equal(get(f + 48, 4), 0); /* no SMI command port */
    assert_int_equal(get(f + 56, 4), PIO_PM1A_EVT);
    assert_int_equal(get(f + 64, 4), PIO_PM1A_CNT);
    assert_int_equal(get(f + 76, 4), PIO_PM_TMR);
    assert_int_equal(get(f + 80, 4), PIO_GPE0);
    assert_int_equal(f[92], 2);
    assert_int_equal(get(f + 84, 4), 0); /* no second block of events */
    assert_int_equal(f[88], 4);
    assert_int_equal(f[89], 2);
    assert_int_equal(f[91], 4);
    assert_int_equal(get(f + 109, 2) & (1u << 1), 0);         /* no 8042 */
    assert_int_equal(get(f + 109, 2) & (1u << 2), 1u << 2);   /* no VGA */
    assert_int_equal(get(f + 109, 2) & (1u << 5), 0);         /* CMOS clock present */
    assert_int_equal(get(f + 112, 4) & (1u << 4), 0);         /* fixed power button */
    assert_int_equal(get(f + 112, 4) & (1u << 8), 1u << 8);   /* 32-bit timer */
    assert_int_equal(get(f + 112, 4) & (1u << 10), 1u << 10); /* reset register */
    assert_int_equal(get(f + 112, 4) & (1u << 20), 0);        /* not hardware-reduced */
    assert_gas(f + 116, 8, 1, PIO_RESET);
    assert_int_equal(f[128], RESET_VALUE);
    assert_int_equal(get(f + 132, 8), 0); /* not both FACS addresses */
    assert_gas(f + 148, 32, 2, PIO_PM1A_EVT);
    assert_gas(f + 172, 16, 2, PIO_PM1A_CNT);
    assert_gas(f + 208, 32, 3, PIO_PM_TMR);
    assert_gas(f + 220, 16, 1, PIO_GPE0);
    assert_memory_equal(tb.facs, "FACS", 4);
    assert_int_equal(get(tb.facs + 4, 4), 64);
    assert_int_equal(tb.facs[32], 2);
    mem_fini(&tb.mem);
}

static void check_madt(const uint8_t *madt, unsigned cpus)
{
    unsigned lapics = 0, ioapics = 0, nmis = 0, overrides = 0;
    size_t len = get(madt + 4, 4), pos;

    assert_int_equal(get(madt + 36, 4), MMIO_LAPIC);
    assert_int_equal(get(madt + 40, 4), 1);
    for (pos = 44; pos < len; pos += madt[pos + 1]) {
        const uint8_t *e = madt + pos;

        assert_true(e[1] >= 2 && pos + e[1] <= len);
        if (e[0] == 0) {
            assert_int_equal(e[1], 8);
            assert_int_equal(e[2], lapics); /* processor UID, as in the DSDT */
            assert_int_equal(e[3], lapics); /* APIC ID */
            assert_int_equal(get(e + 4, 4), 1);
            lapics++;
        } else if (e[0] == 1) {
            assert_int_equal(e[1], 12);
            assert_int_equal(get(e + 4, 4), MMIO_IOAPIC);
            assert_int_equal(get(e + 8, 4), 0);
            ioapics++;
        } else if (e[0] == 2) {
            assert_int_equal(e[1], 10);
            assert_int_equal(e[2], 0);
            assert_true(e[3] == 0 || (e[3] >= IRQ_SCI && e[3] <= IRQ_PCI_ODD));
            assert_int_equal(get(e + 4, 4), e[3] == 0 ? 2 : e[3]);
            assert_int_equal(get(e + 8, 2), e[3] == 0 ? 0 : 0xd);
            overrides++;
        } else {
            assert_int_equal(e[0], 4);
            assert_int_equal(e[1], 6);
            assert_int_equal(e[2], 0xff);
            assert_int_equal(e[5], 1);
            nmis++;
        }
    }
    assert_int_equal(pos, len);
    assert_int_equal(lapics, cpus);
    assert_int_equal(ioapics, 1);
    assert_int_equal(overrides, 4);
    assert_int_equal(nmis, 1);
}

/* What the AML reader saw. */
struct seen {
    unsigned processors, devices;
    bool com1, rtc, pci, board, s5, generation, event;
};

static size_t pkg_length(const uint8_t *p, size_t *len)
{
    unsigned extra = p[0] >> 6;

    *len = extra ? p[0] & 0xf : p[0] & 0x3f;
    for (unsigned i = 1; i <= extra; i++)
        *len |= (size_t)p[i] << (8 * i - 4);
    return 1 + extra;
}

/* Length of a data object: integer, string, buffer or package. */
static size_t data_length(const uint8_t *p)
{
    size_t len;

    switch (p[0]) {
    case 0x00:
    case 0x01:
        return 1;
    case 0x0a:
        return 2;
    case 0x0b:
        return 3;
    case 0x0c:
        return 5;
    case 0x0d:
        return 2 + strlen((const char *)p + 1);
    case 0x11:
    case 0x12:
        pkg_length(p + 1, &len);
        return 1 + len;
    }
    fail_msg("unknown data object %#x", p[0]);
    return 0;
}

static uint64_t integer(const uint8_t *p)
{
    return p[0] <= 1 ? p[0] : get(p + 1, data_length(p) - 1);
}

/* EISA identifier back to text. */
static void eisa_text(uint32_t id, char out[8])
{
    static const char hex[] = "0123456789ABCDEF";
    uint32_t v = __builtin_bswap32(id);

    for (unsigned i = 0; i < 3; i++)
        out[i] = '@' + (v >> (26 - 5 * i) & 0x1f);
    for (unsigned i = 0; i < 4; i++)
        out[3 + i] = hex[v >> (12 - 4 * i) & 0xf];
    out[7] = 0;
}

static void check_crs(const uint8_t *buf, uint16_t port, unsigned ports, unsigned irq)
{
    size_t len, n = pkg_length(buf + 1, &len);
    const uint8_t *r = buf + 1 + n;

    assert_int_equal(buf[0], 0x11);
    assert_int_equal(r[0], 0x0a);
    assert_int_equal(r[1], len - n - 2);
    r += 2;
    assert_int_equal(r[0], 0x47); /* small item 8, length 7: I/O port */
    assert_int_equal(r[1], 1);
    assert_int_equal(get(r + 2, 2), port);
    assert_int_equal(get(r + 4, 2), port);
    assert_int_equal(r[7], ports);
    assert_int_equal(r[8], 0x22); /* small item 4, length 2: IRQ */
    assert_int_equal(get(r + 9, 2), 1u << irq);
    assert_int_equal(r[11], 0x79);
    assert_ptr_equal(r + 13, buf + 1 + len);
}

/* Bus numbers, ports around those of the mechanism, memory below and above 4 GiB, in this order. */
static void check_crs_pci(const uint8_t *buf)
{
    static const struct {
        uint8_t tag, width, type;
        uint64_t first, last;
    } want[] = {
        {0x88, 2, 2, 0, 0},
        {0x47, 0, 0, 0, 0},
        {0x88, 2, 1, 0, 0xcf7},
        {0x88, 2, 1, 0xd00, 0xffff},
        {0x87, 4, 0, MEM_LOW_MAX, MMIO_PCI_CONFIG - 1},
        {0x8a, 8, 0, GIB(4), GIB(36) - 1},
    };
    size_t len, n = pkg_length(buf + 1, &len);
    const uint8_t *r = buf + 1 + n + data_length(buf + 1 + n);

    assert_int_equal(integer(buf + 1 + n), buf + 1 + len - r);
    for (unsigned i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        unsigned w = want[i].width;

        assert_int_equal(r[0], want[i].tag);
        if (!w) {
            assert_int_equal(get(r + 2, 2), PIO_PCI_ADDRESS);
            assert_int_equal(r[7], 8);
            r += 8;
            continue;
        }
        assert_int_equal(get(r + 1, 2), 3 + 5 * w);
        assert_int_equal(r[3], want[i].type);
        assert_int_equal(r[4], 0x0c);
        assert_true(get(r + 6 + w, w) == want[i].first);
        assert_true(get(r + 6 + 2 * w, w) == want[i].last);
        assert_true(get(r + 6 + 4 * w, w) == want[i].last - want[i].first + 1);
        r += 6 + 5 * w;
    }
    assert_int_equal(r[0], 0x79);
    assert_ptr_equal(r + 2, buf + 1 + len);
}

/* One range of memory, which is that of MCFG. */
static void check_crs_board(const uint8_t *buf)
{
    size_t len, n = pkg_length(buf + 1, &len);
    const uint8_t *r = buf + 1 + n + data_length(buf + 1 + n);

    assert_int_equal(r[0], 0x86);
    assert_int_equal(get(r + 1, 2), 9);
    assert_int_equal(get(r + 4, 4), MMIO_PCI_CONFIG);
    assert_int_equal(get(r + 8, 4), MMIO_PCI_CONFIG_SIZE);
    assert_int_equal(r[12], 0x79);
    assert_ptr_equal(r + 14, buf + 1 + len);
}

static void check_prt(const uint8_t *p)
{
    size_t len, n = pkg_length(p + 1, &len);
    const uint8_t *e = p + 1 + n + 1;

    assert_int_equal(p[0], 0x12);
    assert_int_equal(p[1 + n], 32);
    for (unsigned slot = 0; slot < 32; slot++) {
        size_t elen, en = pkg_length(e + 1, &elen);
        const uint8_t *v = e + 1 + en + 1;

        assert_int_equal(e[0], 0x12);
        assert_int_equal(v[-1], 4);
        assert_int_equal(integer(v), slot << 16 | 0xffff);
        v += data_length(v);
        assert_int_equal(integer(v), 0);
        v += data_length(v);
        assert_int_equal(integer(v), 0);
        v += data_length(v);
        assert_int_equal(integer(v), slot % 2 ? 11 : 10);
        e += 1 + elen;
        assert_ptr_equal(v + data_length(v), e);
    }
    assert_ptr_equal(e, p + 1 + len);
}

/* A device by its _CID, with the address of 16 bytes that no table lies in. */
static void check_generation(const uint8_t *p, const uint8_t *end, struct seen *seen)
{
    static const char cid[] = "\x08_CID\x0dVM_Gen_Counter", ddn[] = "\x08_DDN\x0dVM_Gen_Counter";
    static const uint8_t addr[] = {0x08, 'A',  'D', 'D',  'R',  0x12, 0x08,
                                   2,    0x0c, 0,   0xf0, 0x0f, 0,    0};

    assert_memory_equal(p + 4, "\x08_HID\x0dLDGE0001", 15);
    assert_memory_equal(p + 19, cid, sizeof(cid));
    assert_memory_equal(p + 19 + sizeof(cid), ddn, sizeof(ddn));
    assert_memory_equal(p + 19 + sizeof(cid) + sizeof(ddn), addr, sizeof(addr));
    assert_ptr_equal(p + 19 + sizeof(cid) + sizeof(ddn) + sizeof(addr), end);
    seen->generation = true;
}

/* Method(\\_GPE._E00) { Notify(\\_SB.VGEN, 0x80) } */
static void check_event(const uint8_t *p, const uint8_t *end, struct seen *seen)
{
    static const uint8_t body[] = {'\\', '_', 'G', 'P',  'E',  0x14, 0x13, '_', 'E',
                                   '0',  '0', 0,   0x86, '\\', 0x2e, '_',  'S', 'B',
                                   '_',  'V', 'G', 'E',  'N',  0x0a, 0x80};

    assert_int_equal(end - p, sizeof(body));
    assert_memory_equal(p, body, sizeof(body));
    seen->event = true;
}

static void check_device(const uint8_t *p, const uint8_t *end, struct seen *seen)
{
    const uint8_t *name = p, *hid = NULL, *uid = NULL, *crs = NULL, *prt = NULL;

    for (p += 4; p < end; p += 5 + data_length(p + 5)) {
        assert_int_equal(p[0], 0x08);
        if (!memcmp(p + 1, "_HID", 4))
            hid = p + 5;
        else if (!memcmp(p + 1, "_UID", 4))
            uid = p + 5;
        else if (!memcmp(p + 1, "_CRS", 4))
            crs = p + 5;
        else if (!memcmp(p + 1, "_PRT", 4))
            prt = p + 5;
        else if (!memcmp(p + 1, "_ADR", 4) || !memcmp(p + 1, "_BBN", 4))
            assert_int_equal(integer(p + 5), 0);
        else
            fail_msg("unexpected object %.4s", (const char *)p + 1);
    }
    assert_ptr_equal(p, end);
    assert_non_null(hid);
    assert_non_null(uid);
    seen->devices++;
    if (hid[0] == 0x0d) {
        assert_string_equal((const char *)hid + 1, "ACPI0007");
        assert_int_equal(integer(uid), seen->processors);
        assert_int_equal(strtoul((const char[]){name[1], name[2], name[3], 0}, NULL, 16),
                         seen->processors);
        seen->processors++;
    } else {
        char id[8];

        eisa_text(integer(hid), id);
        assert_non_null(crs);
        if (!strcmp(id, "PNP0501")) {
            check_crs(crs, PIO_COM1, 8, IRQ_COM1);
            seen->com1 = true;
        } else if (!strcmp(id, "PNP0A03")) {
            assert_memory_equal(name, "PCI0", 4);
            assert_non_null(prt);
            check_crs_pci(crs);
            check_prt(prt);
            seen->pci = true;
        } else if (!strcmp(id, "PNP0C02")) {
            check_crs_board(crs);
            seen->board = true;
        } else {
            assert_string_equal(id, "PNP0B00");
            check_crs(crs, PIO_RTC, 2, IRQ_RTC);
            seen->rtc = true;
        }
    }
}

static void check_scope(const uint8_t *p, const uint8_t *end, struct seen *seen)
{
    assert_memory_equal(p, "\\_SB_", 5);
    for (p += 5; p < end;) {
        size_t len, n;

        assert_int_equal(p[0], 0x5b);
        assert_int_equal(p[1], 0x82);
        n = pkg_length(p + 2, &len);
        assert_true(len <= (size_t)(end - p - 2));
        if (!memcmp(p + 2 + n, "VGEN", 4))
            check_generation(p + 2 + n, p + 2 + len, seen);
        else
            check_device(p + 2 + n, p + 2 + len, seen);
        p += 2 + len;
    }
    assert_ptr_equal(p, end);
}

static void check_dsdt(const uint8_t *dsdt, unsigned cpus)
{
    const uint8_t *p = dsdt + 36, *end = dsdt + get(dsdt + 4, 4);
    static const uint8_t s5[] = {0x12, 0x08, 0x04, 0x0a, 5, 0x0a, 5, 0, 0};
    struct seen seen = {0};

    while (p < end) {
        if (p[0] == 0x08) {
            assert_memory_equal(p + 1, "\\_S5_", 5);
            assert_memory_equal(p + 6, s5, sizeof(s5));
            seen.s5 = true;
            p += 6 + data_length(p + 6);
        } else {
            size_t len, n = pkg_length(p + 1, &len);

            assert_int_equal(p[0], 0x10);
            assert_true(len <= (size_t)(end - p - 1));
            if (!memcmp(p + 1 + n, "\\_GPE", 5))
                check_event(p + 1 + n, p + 1 + len, &seen);
            else
                check_scope(p + 1 + n, p + 1 + len, &seen);
            p += 1 + len;
        }
    }
    assert_ptr_equal(p, end);
    assert_true(seen.s5 && seen.com1 && seen.rtc && seen.pci && seen.board);
    assert_true(seen.generation && seen.event);
    assert_int_equal(seen.processors, cpus);
    assert_int_equal(seen.devices, cpus + 4);
}

/* Every number of CPUs: the package lengths go through their one-, two- and three-byte forms. */
static void test_cpus(void **state)
{
    for (unsigned cpus = 1; cpus <= 255; cpus++) {
        struct tables tb;

        tables_init(&tb, cpus);
        check_madt(tb.madt, cpus);
        assert_int_equal(get(tb.mcfg + 4, 4), 60);
        assert_int_equal(get(tb.mcfg + 44, 8), MMIO_PCI_CONFIG);
        assert_int_equal(get(tb.mcfg + 52, 8), 0);
        check_dsdt(tb.dsdt, cpus);
        mem_fini(&tb.mem);
    }
}

/* A second build after a guest reset leaves no trace of what the guest wrote. */
static void test_rebuild(void **state)
{
    struct tables tb;
    struct err err = {0};
    gpa_t rsdp;
    uint8_t *copy = malloc(AREA_END - AREA);

    tables_init(&tb, 3);
    assert_non_null(copy);
    assert_int_equal(mem_read(&tb.mem, AREA, copy, AREA_END - AREA), 0);
    memset(mem_hva(&tb.mem, AREA, 0x400), 0xa5, 0x400);
    assert_int_equal(acpi_build(&tb.mem, 3, &rsdp, &err), 0);
    assert_memory_equal(mem_hva(&tb.mem, AREA, 0x300), copy, 0x300);
    free(copy);
    mem_fini(&tb.mem);
}

static void test_errors(void **state)
{
    struct mem none = {.fd = -1};
    struct err err = {0};
    gpa_t rsdp = 0x1234;

    assert_int_equal(acpi_build(&none, 1, &rsdp, &err), -EFAULT);
    assert_int_equal(err.code, -EFAULT);
    assert_int_equal(acpi_build(&none, 0, &rsdp, &err), -EINVAL);
    assert_int_equal(acpi_build(&none, 256, &rsdp, &err), -EINVAL);
    assert_int_equal(acpi_build(&none, 10000, &rsdp, &err), -EINVAL);
    assert_non_null(strstr(err.what, "10000"));
    assert_int_equal(rsdp, 0x1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixed_hardware),
        cmocka_unit_test(test_cpus),
        cmocka_unit_test(test_rebuild),
        cmocka_unit_test(test_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
