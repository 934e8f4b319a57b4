/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the sections of a saved state hold, as tables; between snapshot.c and its tests. */
#ifndef LODGE_CORE_SNAPSHOT_FIELDS_H
#define LODGE_CORE_SNAPSHOT_FIELDS_H

#include "base/fields.h"
#include "core/vm.h"

/* What must be the same where a state goes on. */
struct snap_shape {
    uint32_t cpus, model;
    uint64_t memory;
    uint64_t processor; /* of the host, as CPUs of CPU_HOST and CPU_MAX depend on it */
    char engine[16];
    uint32_t disks, nets, ports;
    bool rng, balloon, vsock, test;
    uint64_t disk_size[VM_MAX_DISKS]; /* bytes */
    char port_name[VM_MAX_PORTS][64];
};

struct snap_clock {
    uint64_t now_ns, tsc, tsc_khz;
};

/* What is on its way to a vCPU. */
struct snap_events {
    uint32_t events, nmis, sipi_vector;
};

struct snap_pci {
    uint32_t address;
};

extern const struct field snap_shape_fields[];
extern const struct field snap_clock_fields[];
extern const struct field snap_events_fields[];
extern const struct field snap_cpu_fields[];   /* struct x86_state */
extern const struct field snap_msrs_fields[];  /* struct msr_saved */
extern const struct field snap_lapic_fields[]; /* struct lapic_state */
extern const struct field snap_chips_fields[]; /* struct machine_chips, without the local APICs */
extern const struct field snap_rtc_fields[];
extern const struct field snap_acpipm_fields[];
extern const struct field snap_serial_fields[];
extern const struct field snap_testdev_fields[];
extern const struct field snap_pci_fields[];
extern const struct field snap_virtio_fields[]; /* struct virtio_pci_state */

#endif
