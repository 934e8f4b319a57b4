/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtual machine: memory, buses, clock, vCPUs, one engine, and the machine
 * model built around them. All state hangs off struct vm; two can live in one
 * process.
 */
#ifndef LODGE_CORE_VM_H
#define LODGE_CORE_VM_H

#include <time.h>

#include "block/config.h"
#include "core/bus.h"
#include "core/clock.h"
#include "core/mem.h"
#include "core/vcpu.h"
#include "net/limit.h"
#include "net/switch.h"
#include "net/user.h"

#define VM_MAX_CPUS 64

struct engine_ops;
struct ioevents;
struct machine;
struct memcopy;
struct pace;

/*
 * What CPUID shows: what host and engine have and do well; a level that every
 * engine gives alike; or all there is, whatever it costs (x86/cpuid.c).
 */
enum cpu_model { CPU_HOST, CPU_V1, CPU_V2, CPU_V3, CPU_MAX };

#define VM_MAX_DISKS 16

struct vm_disk {
    struct block_config image;
    const char *serial; /* NULL: none */
};

#define VM_MAX_PORTS 16

/* /dev/virtio-ports/NAME of the guest is a UNIX socket here. */
struct vm_port {
    const char *name, *path;
};

#define VM_MAX_NETS 4

enum vm_net_kind { VM_NET_USER, VM_NET_SWITCH, VM_NET_TAP, VM_NET_BRIDGE };

struct vm_net {
    enum vm_net_kind kind;
    uint8_t mac[NET_MAC_LEN];
    unsigned queues; /* pairs, 0: one a vCPU, as far as a card has them */
    struct net_rates rates;
    struct net_user_config user;
    char name[NET_SWITCH_NAME + 1]; /* of the network, the interface, the bridge */
    char base[NET_SWITCH_DIR + 1];  /* folder of the user's networks */
};

/* What a guest goes on from in place of booting a kernel. */
struct vm_origin {
    int state_fd; /* a saved state (core/snapshot.h), whose memory is vm_config.base; the caller's */
    bool
        fork; /* this guest is to be another one: disks that it only reads may have other sizes, of which it is told */
};

struct vm_config {
    const char *name;
    enum cpu_model cpu;
    unsigned cpus;
    uint64_t memory;             /* bytes */
    const struct mem_base *base; /* what memory begins as, not used after vm_new; NULL: zeros */
    const char *kernel, *initrd, *cmdline; /* initrd and cmdline may be NULL */
    const struct engine_ops *engine;
    int serial_in, serial_out; /* file descriptors of the first serial port, -1: none */
    bool hvc;                  /* they are the ends of a virtio console, and the port only sends */
    uint16_t console_cols, console_rows; /* of the terminal there, 0: not known */
    /* Told what that port has sent, on its thread; NULL: nobody. */
    void (*serial_tap)(void *opaque, const uint8_t *data, size_t len);
    void *serial_tap_opaque;
    struct vm_disk disk[VM_MAX_DISKS];
    unsigned disks;
    struct vm_port port[VM_MAX_PORTS];
    unsigned ports;
    struct vm_net net[VM_MAX_NETS];
    unsigned nets;
    bool rng, balloon; /* virtio devices */
    const char *vsock; /* path of its socket (dev/virtio/vsock.h), NULL: none */
    bool no_reboot;
    bool test_devices; /* dev/testdev.h */
    bool stats;
    bool perf_map; /* engine_ops.perf_map will be called */
    /* Not NULL: go on from there; the kernel is for resets. The caller's, until vm_run has begun. */
    const struct vm_origin *origin;
};

enum vm_end {
    VM_END_POWEROFF, /* the guest switched itself off */
    VM_END_RESET,    /* the guest reset and no_reboot is set */
    VM_END_STOPPED,  /* vm_request(VM_REQ_STOP) from outside */
    VM_END_FAILED,   /* triple fault or engine error; see err */
};

enum vm_request {
    VM_REQ_POWEROFF = 1,
    VM_REQ_RESET = 2,
    VM_REQ_STOP = 4,
    VM_REQ_MOVE = 8,
    VM_REQ_CALL = 16
};

struct vm {
    struct vm_config cfg;
    struct mem mem;
    struct bus pio, mmio;
    struct clock clock;
    struct vcpu *vcpus;   /* cfg.cpus of them */
    struct timespec made; /* CLOCK_MONOTONIC: guest time may begin and go on otherwise */
    const struct engine_ops *engine;
    _Atomic(const struct engine_ops *) move_to; /* for VM_REQ_MOVE */
    void *engine_data;
    struct machine *machine;
    uint8_t generation[16]; /* core/generation.h */
    struct ioevents *ioevents;
    _Atomic uint64_t *dirty; /* core/dirty.h */
    _Atomic bool dirty_on;
    struct memcopy *memcopy;                   /* core/memcopy.h; under lock */
    void (*call)(struct vm *vm, void *opaque); /* for VM_REQ_CALL, NULL: none; under lock */
    void *call_opaque;
    bool over;                    /* vm_run has ended; under lock */
    _Atomic unsigned exit_status; /* a test program's, when it ended with VM_END_POWEROFF; else 0 */
    _Atomic unsigned resets;      /* that were served */
    _Atomic uint32_t requests;    /* enum vm_request bits, for the thread in vm_run */
    _Atomic bool pause, paused;   /* wanted; so it is */
    _Atomic bool stopping;        /* no vCPU may run: changes under lock */
    struct pace *pace;            /* core/pace.h */
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

struct x86_state;

/* engine->set with words: the engine does not take that state of a CPU. No vCPU runs. */
int vm_set_cpu(struct vm *vm, unsigned n, const struct x86_state *st, struct err *err);

/* Build the VM: memory, engine, devices, vCPUs; the guest is loaded by vm_run. On failure nothing is held. */
int vm_new(struct vm **vm, const struct vm_config *cfg, struct err *err);
void vm_free(struct vm *vm);

/*
 * Load the guest and run it until it ends; resets are served inside (unless
 * no_reboot). Returns 0 with *end set, or a negative errno with *err filled
 * when it could not be loaded or failed (end is then VM_END_FAILED).
 */
int vm_run(struct vm *vm, enum vm_end *end, struct err *err);

/* Ask for power-off, reset or stop. Any thread, a vCPU's own included; returns at once. */
void vm_request(struct vm *vm, enum vm_request req);

/* Ask for the guest to go on under another engine (core/move.h). Any thread; returns at once. */
void vm_request_move(struct vm *vm, const struct engine_ops *to);

/*
 * Have fn called on vm_run's thread while no vCPU runs and the machine is paused. Any thread; returns at once. Until it
 * was called nobody asks for another; it is not when the run ends before.
 */
void vm_request_call(struct vm *vm, void (*fn)(struct vm *vm, void *opaque), void *opaque);

/*
 * The same, and wait until it is done; any number of threads, not that of vm_run. -ESHUTDOWN: the run ended before, and fn
 * is not called.
 */
int vm_call_wait(struct vm *vm, void (*fn)(struct vm *vm, void *opaque), void *opaque);

/*
 * Have the vCPUs and devices stand still, or go on. Guest time stands still, too. Any thread; returns at once, and
 * vm_is_paused tells when it is so. The guest can be told to end, to move and to call while it is paused.
 */
void vm_pause(struct vm *vm, bool pause);
bool vm_is_paused(const struct vm *vm);

/*
 * Go on with the n-th disk in the qcow2 overlay at `path`, which has no data yet and whose backing file is the disk's
 * present image: that is frozen, open for reading beneath it, and others may read it, too (block_overlay). No vCPU runs
 * and the machine is paused, as in a call of vm_request_call. Without effect for a read-only disk. It takes the time of a
 * flush: vm_disk_sync before the stop makes that short. After a failure the disk is as before.
 */
int vm_disk_overlay(struct vm *vm, unsigned n, const char *path, struct err *err);

/* Have on stable storage what the n-th disk was given. Any thread, not while vm_disk_overlay runs. A negative errno. */
int vm_disk_sync(struct vm *vm, unsigned n);

/* A device or loader has written guest memory [gpa, gpa+len) with mem_write or through mem_hva. Any thread. */
void vm_mem_written(struct vm *vm, gpa_t gpa, uint64_t len);

#endif
