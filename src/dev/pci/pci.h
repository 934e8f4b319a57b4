/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One PCI bus (PCI Local Bus Specification 3.0) behind a host bridge with
 * configuration mechanism #1, and what a device on it has: configuration
 * space, memory BARs, MSI-X (PCI 3.0, 6.8.2) and one INTx pin. Devices are
 * added while the machine is built; afterwards the guest moves their BARs as
 * it likes.
 */
#ifndef LODGE_DEV_PCI_PCI_H
#define LODGE_DEV_PCI_PCI_H

#include <pthread.h>

#include "base/err.h"
#include "core/bus.h"
#include "core/ioevent.h"
#include "core/irq.h"

#define PCI_SLOTS         32
#define PCI_BARS          6
#define PCI_CONFIG_SIZE   256
#define PCI_LINKS         4
#define PCI_WINDOWS       2
#define PCI_MSIX_MAX      128
#define PCI_MSIX_BAR_SIZE 4096

#define PCI_COMMAND   0x04
#define PCI_STATUS    0x06
#define PCI_REVISION  0x08
#define PCI_BAR0      0x10
#define PCI_SUBSYSTEM 0x2c
#define PCI_CAP_LIST  0x34
#define PCI_INT_LINE  0x3c
#define PCI_INT_PIN   0x3d
#define PCI_HEADER    0x40 /* capabilities start here */

#define PCI_COMMAND_MEMORY   0x0002u
#define PCI_COMMAND_MASTER   0x0004u
#define PCI_COMMAND_INTX_OFF 0x0400u
#define PCI_STATUS_INTX      0x0008u
#define PCI_STATUS_CAPS      0x0010u

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX   0x11

struct pci_device;

/* The bus as its machine wires it. */
struct pci_bus_config {
    struct bus *mmio;
    struct {
        uint64_t base,
            size; /* size 0: none; BARs answer inside these only, and the first is where they start out */
    } window[PCI_WINDOWS];
    struct irq_line
        link[PCI_LINKS];         /* INTA of slot s is on link s % 4; several may lead to one line */
    uint8_t link_irq[PCI_LINKS]; /* what the interrupt line register says at first */
    void (*msi)(void *opaque, uint64_t addr, uint32_t data); /* any thread */
    /* Writes to `addr` signal eventfd `fd` instead (core/ioevent.h), or no longer do. NULL: there is no such thing. */
    void (*doorbell)(void *opaque, uint64_t addr, int fd, const struct doorbell_now *now, bool on);
    void *opaque;
};

struct pci_bus {
    struct pci_bus_config cfg;
    pthread_rwlock_t lock; /* where the BARs are: pci_device.mapped */
    pthread_mutex_t intx_lock;
    uint32_t intx[PCI_LINKS]; /* slots that assert it */
    pthread_mutex_t address_lock;
    uint32_t address; /* port 0xcf8 */
    struct pci_device *slot[PCI_SLOTS];
};

struct pci_ident {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision;
    uint32_t class; /* 24 bits: class, subclass, interface */
    bool intx;      /* has an interrupt pin */
};

/*
 * What a device wants to do itself; each may be NULL. Of the first two true
 * means that the access is done; they are called first, without a lock;
 * accesses lie in one aligned doubleword.
 */
struct pci_device_ops {
    bool (*config_read)(void *opaque, unsigned off, unsigned size, uint32_t *val);
    bool (*config_write)(void *opaque, unsigned off, unsigned size, uint32_t val);
    /* BAR n lies wholly in a window, at `base`, from now on, or (on false) no longer. dev->lock is held. */
    void (*bar_moved)(void *opaque, unsigned n, bool on, uint64_t base);
    /* The command register was written; without a lock, so another vCPU may have written it again. */
    void (*command_written)(void *opaque);
};

struct pci_bar {
    uint64_t size; /* 0: none */
    const struct region_ops *ops;
    void *opaque;
    bool wide; /* 64 bits: takes the next BAR's register too */
};

struct pci_msix_entry {
    uint64_t addr;
    uint32_t data, control;
};

struct pci_msix {
    unsigned vectors, cap; /* 0: none */
    struct pci_msix_entry entry[PCI_MSIX_MAX];
    uint64_t pending[PCI_MSIX_MAX / 64];
};

struct pci_device {
    struct pci_bus *bus;
    unsigned slot;
    const struct pci_device_ops *ops; /* NULL: nothing special */
    void *opaque;
    pthread_mutex_t lock; /* config, intx, msix; taken before the bus's locks */
    uint8_t config[PCI_CONFIG_SIZE], writable[PCI_CONFIG_SIZE];
    unsigned last_cap, free; /* offsets: the newest capability, the first byte without one */
    struct pci_bar bar[PCI_BARS];
    bool intx; /* what the device asks for */
    struct pci_msix msix;
    struct {
        bool on;
        uint64_t base;
    } mapped[PCI_BARS]; /* written under both locks */
};

/* Maps the windows. On failure nothing is held. `bus` stays where it is until pci_bus_fini. */
int pci_bus_init(struct pci_bus *bus, const struct pci_bus_config *cfg, struct err *err);
void pci_bus_fini(struct pci_bus *bus); /* idempotent; no device is left on it */

/* As firmware leaves it: BARs placed in the first window and enabled, all else at its defaults. No vCPU runs. */
void pci_bus_reset(struct pci_bus *bus);

/* Ports 0xcf8 to 0xcfb and 0xcfc to 0xcff; the opaque pointer is the bus. */
extern const struct region_ops pci_address_ops, pci_data_ops;

/* The bus's part of a memory-mapped configuration space, 1 MiB (PCI Express 3.0, 7.2.2); the opaque pointer is the bus. */
extern const struct region_ops pci_config_ops;

/* A configuration access to device `slot`, function 0 of bus 0; off + size <= 256, size 1, 2 or 4. */
uint32_t pci_config_read(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size);
void pci_config_write(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size,
                      uint32_t val);

/*
 * Put a device on the bus while the machine is built; BARs and capabilities
 * follow, then pci_bus_reset. -EBUSY when the slot is taken, with nothing held.
 */
int pci_device_init(struct pci_device *dev, struct pci_bus *bus, unsigned slot,
                    const struct pci_ident *ident, const struct pci_device_ops *ops, void *opaque,
                    struct err *err);
/* Takes it off; no vCPU runs. Idempotent on a zeroed structure. */
void pci_device_fini(struct pci_device *dev);

/* `size`: a power of two, at least 4096. Handlers run as those of core/bus.h do. */
void pci_add_bar(struct pci_device *dev, unsigned n, uint64_t size, bool wide,
                 const struct region_ops *ops, void *opaque);

/* Append a capability: `body` follows its two header bytes. Returns its offset. There must be room. */
unsigned pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, unsigned len);

/* Access a BAR's contents at `off`, as the guest would where it is mapped; out of it reads all ones. */
uint64_t pci_bar_read(struct pci_device *dev, unsigned n, uint64_t off, unsigned size);
void pci_bar_write(struct pci_device *dev, unsigned n, uint64_t off, unsigned size, uint64_t val);

/* May the device reach memory? Any thread. */
bool pci_is_master(struct pci_device *dev);

/* Assert or release the interrupt pin. Reaches the line unless the guest has it off or uses MSI-X. Any thread. */
void pci_intx_set(struct pci_device *dev, bool level);

/* Add the capability and its BAR. At most PCI_MSIX_MAX vectors. */
void pci_msix_init(struct pci_device *dev, unsigned bar, unsigned vectors);

/* Send vector `n`, or note it while it is masked. False when MSI-X is off: then it is INTx's turn. Any thread. */
bool pci_msix_raise(struct pci_device *dev, unsigned n);

/* What the guest can change of a device's configuration. */
struct pci_state {
    uint8_t config[PCI_CONFIG_SIZE];
    struct pci_msix_entry entry[PCI_MSIX_MAX];
    uint64_t pending[PCI_MSIX_MAX / 64];
};

/*
 * No vCPU runs. The pin is not part of it: its device sets it again. load takes the bits that the guest can write, and
 * sends nothing: a vector that is both pending and free to go cannot have been saved.
 */
void pci_device_save(struct pci_device *dev, struct pci_state *s);
void pci_device_load(struct pci_device *dev, const struct pci_state *s);

/* The same for the bus itself: port 0xcf8. */
uint32_t pci_bus_save(struct pci_bus *bus);
void pci_bus_load(struct pci_bus *bus, uint32_t address);

/* For pci.c, under dev->lock: what a change of the control word sets free; back to the state after reset. */
bool pci_msix_enabled_locked(const struct pci_device *dev);
void pci_msix_changed_locked(struct pci_device *dev);
void pci_msix_reset_locked(struct pci_device *dev);
void pci_msix_save_locked(const struct pci_device *dev, struct pci_state *s);
void pci_msix_load_locked(struct pci_device *dev, const struct pci_state *s);

#endif
