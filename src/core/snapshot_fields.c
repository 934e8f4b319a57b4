/* SPDX-License-Identifier: GPL-2.0-or-later */
/* docs/snapshot.md follows these tables. A change of one is a new version of the format. */
#include "core/snapshot_fields.h"

#include "core/machine.h"
#include "dev/serial.h"
#include "dev/testdev.h"
#include "dev/virtio/pci.h"
#include "x86/chips.h"
#include "x86/msr.h"
#include "x86/state.h"

#define END                                                                                        \
    {                                                                                              \
        .name = NULL                                                                               \
    }

#define S struct snap_shape
const struct field snap_shape_fields[] = {
    FIELD_MAX(S, cpus, VM_MAX_CPUS),
    FIELD_MAX(S, model, CPU_MAX),
    FIELD(S, memory),
    FIELD(S, processor),
    FIELD_ARRAY(S, engine),
    FIELD_MAX(S, disks, VM_MAX_DISKS),
    FIELD_MAX(S, nets, VM_MAX_NETS),
    FIELD_MAX(S, ports, VM_MAX_PORTS),
    FIELD_BOOL(S, rng),
    FIELD_BOOL(S, balloon),
    FIELD_BOOL(S, vsock),
    FIELD_BOOL(S, test),
    FIELD_ARRAY(S, disk_size),
    {.name = "port_name",
     .at = offsetof(S, port_name),
     .stride = 1,
     .count = FIELD_SIZE(S, port_name),
     .size = 1,
     .max = UINT8_MAX},
    END,
};
#undef S

#define S struct snap_clock
const struct field snap_clock_fields[] = {
    FIELD_MAX(S, now_ns, INT64_MAX),
    FIELD(S, tsc),
    FIELD(S, tsc_khz),
    END,
};
#undef S

#define S struct snap_events
const struct field snap_events_fields[] = {
    FIELD_MAX(S, events, VCPU_EV_NMI | VCPU_EV_INIT | VCPU_EV_SIPI),
    FIELD_MAX(S, nmis, 2),
    FIELD_MAX(S, sipi_vector, UINT8_MAX),
    END,
};
#undef S

#define S struct x86_state
#define SEGMENT(member)                                                                            \
    FIELD(S, member.base), FIELD(S, member.limit), FIELD(S, member.attr), FIELD(S, member.sel)
const struct field snap_cpu_fields[] = {
    FIELD_ARRAY(S, gpr),
    FIELD(S, rip),
    FIELD(S, rflags),
    FIELD(S, cr0),
    FIELD(S, cr2),
    FIELD(S, cr3),
    FIELD(S, cr4),
    FIELD(S, xcr0),
    FIELD(S, efer),
    FIELD_EACH(S, seg, base),
    FIELD_EACH(S, seg, limit),
    FIELD_EACH(S, seg, attr),
    FIELD_EACH(S, seg, sel),
    SEGMENT(ldtr),
    SEGMENT(tr),
    FIELD(S, gdtr.base),
    FIELD(S, gdtr.limit),
    FIELD(S, idtr.base),
    FIELD(S, idtr.limit),
    FIELD_ARRAY(S, dr),
    FIELD(S, star),
    FIELD(S, lstar),
    FIELD(S, cstar),
    FIELD(S, sfmask),
    FIELD(S, kernel_gs_base),
    FIELD(S, tsc_aux),
    FIELD(S, sysenter_cs),
    FIELD(S, sysenter_esp),
    FIELD(S, sysenter_eip),
    FIELD(S, pat),
    FIELD(S, tsc_adjust),
    FIELD(S, pkru),
    FIELD(S, pkrs),
    FIELD_MAX(S, run, X86_SHUTDOWN),
    FIELD_BOOL(S, intr_shadow),
    FIELD_BOOL(S, nmi_blocked),
    FIELD_MAX(S, cpl, 3),
    FIELD_ARRAY(S, xsave),
    END,
};
#undef S

#define S struct msr_saved
const struct field snap_msrs_fields[] = {
    FIELD_ARRAY(S, reg),
    FIELD(S, clock_version),
    FIELD(S, wall_version),
    END,
};
#undef S

#define S struct lapic_state
const struct field snap_lapic_fields[] = {
    FIELD(S, base),
    FIELD(S, tsc_deadline),
    FIELD_ARRAY(S, reg),
    END,
};
#undef S

#define S   struct machine_chips
#define PIC chips.pic.chip
#define PIT chips.pit.ch
const struct field snap_chips_fields[] = {
    FIELD(S, chips.ioapic.id),
    FIELD(S, chips.ioapic.select),
    FIELD(S, chips.ioapic.lines),
    FIELD_ARRAY(S, chips.ioapic.redir),
    FIELD_EACH(S, PIC, lines),
    FIELD_EACH(S, PIC, latched),
    FIELD_EACH(S, PIC, isr),
    FIELD_EACH(S, PIC, imr),
    FIELD_EACH(S, PIC, elcr),
    FIELD_EACH(S, PIC, base),
    FIELD_EACH_MAX(S, PIC, lowest, 7),
    FIELD_EACH_MAX(S, PIC, step, 3),
    FIELD_EACH_BOOL(S, PIC, auto_eoi),
    FIELD_EACH_BOOL(S, PIC, rotate_auto),
    FIELD_EACH_BOOL(S, PIC, special_mask),
    FIELD_EACH_BOOL(S, PIC, nested),
    FIELD_EACH_BOOL(S, PIC, read_isr),
    FIELD_EACH_BOOL(S, PIC, poll),
    FIELD_EACH_BOOL(S, PIC, need_icw4),
    FIELD_EACH_BOOL(S, PIC, single),
    FIELD_EACH_MAX(S, PIT, control, 0x3f),
    FIELD_EACH_BOOL(S, PIT, gate),
    FIELD_EACH_BOOL(S, PIT, running),
    FIELD_EACH_BOOL(S, PIT, null_count),
    FIELD_EACH_BOOL(S, PIT, half_written),
    FIELD_EACH_BOOL(S, PIT, half_read),
    FIELD_EACH_BOOL(S, PIT, status_latched),
    FIELD_EACH_BOOL(S, PIT, count_latched),
    FIELD_EACH(S, PIT, status),
    FIELD_EACH(S, PIT, written),
    FIELD_EACH(S, PIT, latch),
    FIELD_EACH_MAX(S, PIT, count, 65536),
    FIELD_EACH_MAX(S, PIT, next_count, 65536),
    FIELD_EACH_MAX(S, PIT, elapsed_ns, INT64_MAX / 4),
    FIELD_BOOL(S, chips.pit.speaker),
    FIELD_MAX(S, isa_levels, 0xffff),
    END,
};
#undef PIC
#undef PIT
#undef S

#define S struct rtc_state
const struct field snap_rtc_fields[] = {
    FIELD_ARRAY(S, cmos),
    FIELD_MAX(S, index, 0x7f),
    FIELD(S, offset_ns),
    END,
};
#undef S

#define S struct acpipm_state
const struct field snap_acpipm_fields[] = {
    FIELD(S, status),
    FIELD(S, enable),
    FIELD(S, control),
    FIELD(S, reset),
    FIELD(S, gpe_status),
    FIELD(S, gpe_enable),
    END,
};
#undef S

#define S struct serial_state
const struct field snap_serial_fields[] = {
    FIELD(S, ier),
    FIELD(S, fcr),
    FIELD(S, lcr),
    FIELD(S, mcr),
    FIELD(S, msr),
    FIELD(S, scr),
    FIELD(S, dll),
    FIELD(S, dlm),
    FIELD(S, errors),
    FIELD_BOOL(S, tx_pending),
    FIELD_MAX(S, rx_count, 16),
    FIELD_ARRAY(S, rx),
    END,
};
#undef S

#define S struct testdev_state
const struct field snap_testdev_fields[] = {
    FIELD_ARRAY(S, port), FIELD(S, irqs),         FIELD(S, msi_data),
    FIELD(S, missed),     FIELD_ARRAY(S, memory), END,
};
#undef S

#define S struct snap_pci
const struct field snap_pci_fields[] = {
    FIELD(S, address),
    END,
};
#undef S

#define S struct virtio_pci_state
const struct field snap_virtio_fields[] = {
    FIELD(S, type),
    FIELD_MAX(S, queues, VIRTIO_MAX_QUEUES),
    FIELD(S, feature_select),
    FIELD(S, driver_feature_select),
    FIELD(S, queue_select),
    FIELD(S, config_vector),
    FIELD_ARRAY(S, vector),
    FIELD_MAX(S, isr, 3),
    FIELD_ARRAY(S, pci.config),
    FIELD_EACH(S, pci.entry, addr),
    FIELD_EACH(S, pci.entry, data),
    FIELD_EACH_MAX(S, pci.entry, control, 1),
    FIELD_ARRAY(S, pci.pending),
    FIELD(S, dev.driver_features),
    FIELD(S, dev.status),
    FIELD(S, dev.generation),
    FIELD_EACH(S, dev.queue, desc),
    FIELD_EACH(S, dev.queue, driver),
    FIELD_EACH(S, dev.queue, device),
    FIELD_EACH_MAX(S, dev.queue, size, VIRTQ_SIZE_MAX),
    FIELD_EACH(S, dev.queue, next_avail),
    FIELD_EACH(S, dev.queue, next_used),
    FIELD_EACH_BOOL(S, dev.queue, enabled),
    FIELD_EACH_BOOL(S, dev.queue, ready),
    FIELD_BOOL(S, dev.own.link_up),
    FIELD(S, dev.own.pairs),
    FIELD_EACH_BOOL(S, dev.own.port, guest_open),
    FIELD_EACH_BOOL(S, dev.own.port, connected),
    FIELD_EACH(S, dev.own.port, pending),
    FIELD(S, dev.own.actual),
    FIELD(S, dev.own.target),
    FIELD_BOOL(S, dev.own.stats_held),
    FIELD(S, dev.own.stats_head),
    FIELD(S, dev.own.next_port),
    END,
};
#undef S
