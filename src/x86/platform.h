/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PC's fixed addresses and lines, listed once: devices, ACPI tables and the boot code expand from here. */
#ifndef LODGE_X86_PLATFORM_H
#define LODGE_X86_PLATFORM_H

#define PIO_PIC_MASTER  0x20
#define PIO_PIC_SLAVE   0xa0
#define PIO_ELCR        0x4d0
#define PIO_PIT         0x40 /* 4 ports */
#define PIO_PORT61      0x61
#define PIO_PS2_STATUS  0x64 /* only the reset command 0xfe; there is no keyboard controller */
#define PIO_RTC         0x70 /* 2 ports */
#define PIO_COM1        0x3f8
#define PIO_PCI_ADDRESS 0xcf8 /* 4 bytes */
#define PIO_RESET       0xcf9
#define PIO_PCI_DATA    0xcfc /* 4 bytes */
#define PIO_PM1A_EVT    0x600 /* 4 bytes: status, enable */
#define PIO_PM1A_CNT    0x604 /* 2 bytes */
#define PIO_PM_TMR      0x608 /* 4 bytes, 3.579545 MHz, 32 bits */

#define PIO_GPE0 0x60c /* 2 bytes: status, enable */

#define GPE_GENERATION 0 /* bit of GPE0: the VM generation ID is another one */

#define IRQ_PIT  0
#define IRQ_COM1 4
#define IRQ_RTC  8
#define IRQ_SCI  9

/* INTA of PCI slot s: four links on two lines, level-triggered, active high. */
#define IRQ_PCI_EVEN  10
#define IRQ_PCI_ODD   11
#define IRQ_PCI(slot) ((slot) % 2 ? IRQ_PCI_ODD : IRQ_PCI_EVEN)

#define MMIO_PCI_CONFIG      0xfeb00000ull /* bus 0 alone */
#define MMIO_PCI_CONFIG_SIZE 0x100000ull
#define MMIO_IOAPIC          0xfec00000ull
#define MMIO_LAPIC           0xfee00000ull
#define IOAPIC_PINS          24

/* Firmware's place below 1 MiB: the ACPI tables, and in the last page the VM generation ID, 16 bytes. */
#define ACPI_TABLES      0xe0000ull
#define ACPI_TABLES_SIZE 0x1f000ull
#define ACPI_GENERATION  0xff000ull

#define ACPI_S5_SLP_TYP 5
#define RESET_VALUE     0x06 /* to PIO_RESET; also the FADT reset value */

#endif
