/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/acpi.c src/core/mem.c src/base/err.c */
/*
 * Any number of CPUs on any layout of slots that do not overlap: two bytes of CPUs, then four
 * bytes a slot (first page, number of pages). What is built must lie in RAM
 * below 1 MiB with every length and checksum right; nothing else is written.
 */
#include <stdlib.h>
#include <string.h>

#include "x86/acpi.h"

#define MAP_SIZE KIB(512)
#define AREA     0xe0000ull

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    while (n--)
        v = v << 8 | p[n];
    return v;
}

static const uint8_t *table(const struct mem *mem, gpa_t gpa, const char *sig)
{
    const uint8_t *t = mem_hva(mem, gpa, 36);
    uint8_t sum = 0;
    uint32_t len;

    REQUIRE(t && gpa >= AREA && !memcmp(t, sig, 4));
    len = get(t + 4, 4);
    REQUIRE(len >= 36 && gpa + len <= MIB(1) && mem_hva(mem, gpa, len));
    for (uint32_t i = 0; i < len; i++)
        sum += t[i];
    REQUIRE(!sum);
    return t;
}

static void check(const struct mem *mem, gpa_t rsdp, unsigned cpus)
{
    const uint8_t *r = mem_hva(mem, rsdp, 36), *xsdt, *fadt, *madt;
    unsigned lapics = 0;

    REQUIRE(r && rsdp >= AREA && rsdp % 16 == 0);
    xsdt = table(mem, get(r + 24, 8), "XSDT");
    fadt = table(mem, get(xsdt + 36, 8), "FACP");
    madt = table(mem, get(xsdt + 44, 8), "APIC");
    table(mem, get(fadt + 140, 8), "DSDT");
    for (uint32_t pos = 44; pos < get(madt + 4, 4); pos += madt[pos + 1]) {
        REQUIRE(madt[pos + 1] >= 2);
        lapics += madt[pos] == 0;
    }
    REQUIRE(lapics == cpus);
}

/* Bytes of the mapping that belong to no slot, or lie outside the tables' area, keep their pattern. */
static void check_untouched(const struct mem *mem)
{
    for (uint64_t off = 0; off < MAP_SIZE; off++) {
        bool ours = false;

        if (mem->map[off] == 0xa5)
            continue;
        for (unsigned i = 0; i < mem->nslots; i++) {
            const struct mem_slot *s = &mem->slots[i];
            gpa_t gpa = s->base + (off - s->offset);

            ours |= off >= s->offset && off - s->offset < s->size && gpa >= AREA && gpa < MIB(1);
        }
        REQUIRE(ours);
    }
}

/* Memory never has two slots for one address. */
static bool overlaps(const struct mem *mem, const struct mem_slot *s)
{
    for (unsigned i = 0; i < mem->nslots; i++)
        if (s->base < mem->slots[i].base + mem->slots[i].size &&
            mem->slots[i].base < s->base + s->size)
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mem mem = {.fd = -1, .size = MAP_SIZE};
    uint64_t used = 0;
    unsigned cpus;
    gpa_t rsdp = 0;

    if (size < 2)
        return 0;
    cpus = get(data, 2);
    for (data += 2, size -= 2; size >= 4 && mem.nslots < MEM_MAX_SLOTS; data += 4, size -= 4) {
        struct mem_slot s = {.base = get(data, 2) << PAGE_SHIFT,
                             .size = get(data + 2, 2) << PAGE_SHIFT,
                             .offset = used};

        if (s.size > MAP_SIZE - used)
            s.size = MAP_SIZE - used;
        if (overlaps(&mem, &s))
            continue;
        used += s.size;
        mem.slots[mem.nslots++] = s;
    }
    mem.map = malloc(MAP_SIZE);
    REQUIRE(mem.map);
    memset(mem.map, 0xa5, MAP_SIZE);
    if (acpi_build(&mem, cpus, &rsdp, NULL) == 0)
        check(&mem, rsdp, cpus);
    check_untouched(&mem);
    free(mem.map);
    return 0;
}
