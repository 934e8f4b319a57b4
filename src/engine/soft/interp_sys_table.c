/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which handler runs which mnemonic: the system half of the interpreter.
 * What CPUID does not offer (MONITOR, MWAIT, RSM, VMX, user interrupts, ...)
 * is missing here, and so #UD.
 */
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp_sys.h"

insn_fn *const interp_sys_table[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    [ZYDIS_MNEMONIC_INT] = op_int,
    [ZYDIS_MNEMONIC_INT1] = op_int1,
    [ZYDIS_MNEMONIC_INT3] = op_int3,
    [ZYDIS_MNEMONIC_INTO] = op_into,
    [ZYDIS_MNEMONIC_IRET] = op_iret,
    [ZYDIS_MNEMONIC_IRETD] = op_iret,
    [ZYDIS_MNEMONIC_IRETQ] = op_iret,

    [ZYDIS_MNEMONIC_SYSCALL] = op_syscall,
    [ZYDIS_MNEMONIC_SYSRET] = op_sysret,
    [ZYDIS_MNEMONIC_SYSENTER] = op_sysenter,
    [ZYDIS_MNEMONIC_SYSEXIT] = op_sysexit,
    [ZYDIS_MNEMONIC_SWAPGS] = op_swapgs,

    [ZYDIS_MNEMONIC_CLI] = op_cli,
    [ZYDIS_MNEMONIC_STI] = op_sti,
    [ZYDIS_MNEMONIC_PUSHF] = op_pushf,
    [ZYDIS_MNEMONIC_PUSHFD] = op_pushf,
    [ZYDIS_MNEMONIC_PUSHFQ] = op_pushf,
    [ZYDIS_MNEMONIC_POPF] = op_popf,
    [ZYDIS_MNEMONIC_POPFD] = op_popf,
    [ZYDIS_MNEMONIC_POPFQ] = op_popf,
    [ZYDIS_MNEMONIC_STAC] = op_stac,
    [ZYDIS_MNEMONIC_CLAC] = op_clac,

    [ZYDIS_MNEMONIC_LDS] = op_lds,
    [ZYDIS_MNEMONIC_LES] = op_lds,
    [ZYDIS_MNEMONIC_LFS] = op_lds,
    [ZYDIS_MNEMONIC_LGS] = op_lds,
    [ZYDIS_MNEMONIC_LSS] = op_lds,
    [ZYDIS_MNEMONIC_LAR] = op_lar,
    [ZYDIS_MNEMONIC_LSL] = op_lsl,
    [ZYDIS_MNEMONIC_VERR] = op_verr,
    [ZYDIS_MNEMONIC_VERW] = op_verw,
    [ZYDIS_MNEMONIC_ARPL] = op_arpl,
    [ZYDIS_MNEMONIC_LLDT] = op_lldt,
    [ZYDIS_MNEMONIC_LTR] = op_ltr,
    [ZYDIS_MNEMONIC_SLDT] = op_sldt,
    [ZYDIS_MNEMONIC_STR] = op_str,
    [ZYDIS_MNEMONIC_LGDT] = op_lgdt,
    [ZYDIS_MNEMONIC_LIDT] = op_lidt,
    [ZYDIS_MNEMONIC_SGDT] = op_sgdt,
    [ZYDIS_MNEMONIC_SIDT] = op_sidt,

    [ZYDIS_MNEMONIC_LMSW] = op_lmsw,
    [ZYDIS_MNEMONIC_SMSW] = op_smsw,
    [ZYDIS_MNEMONIC_CLTS] = op_clts,
    [ZYDIS_MNEMONIC_INVD] = op_invd,
    [ZYDIS_MNEMONIC_WBINVD] = op_invd,
    [ZYDIS_MNEMONIC_INVLPG] = op_invlpg,
    [ZYDIS_MNEMONIC_INVPCID] = op_invpcid,
    [ZYDIS_MNEMONIC_RDPKRU] = op_rdpkru,
    [ZYDIS_MNEMONIC_WRPKRU] = op_wrpkru,
    [ZYDIS_MNEMONIC_HLT] = op_hlt,
    [ZYDIS_MNEMONIC_VMCALL] = op_vmcall,

    [ZYDIS_MNEMONIC_RDMSR] = op_rdmsr,
    [ZYDIS_MNEMONIC_WRMSR] = op_wrmsr,
    [ZYDIS_MNEMONIC_RDTSC] = op_rdtsc,
    [ZYDIS_MNEMONIC_RDTSCP] = op_rdtscp,
    [ZYDIS_MNEMONIC_RDPID] = op_rdpid,
    [ZYDIS_MNEMONIC_RDPMC] = op_rdpmc,
    [ZYDIS_MNEMONIC_RDFSBASE] = op_rdfsbase,
    [ZYDIS_MNEMONIC_RDGSBASE] = op_rdgsbase,
    [ZYDIS_MNEMONIC_WRFSBASE] = op_wrfsbase,
    [ZYDIS_MNEMONIC_WRGSBASE] = op_wrgsbase,
    [ZYDIS_MNEMONIC_CPUID] = op_cpuid,
    [ZYDIS_MNEMONIC_XSETBV] = op_xsetbv,

    [ZYDIS_MNEMONIC_IN] = op_in,
    [ZYDIS_MNEMONIC_OUT] = op_out,
    [ZYDIS_MNEMONIC_INSB] = op_ins,
    [ZYDIS_MNEMONIC_INSW] = op_ins,
    [ZYDIS_MNEMONIC_INSD] = op_ins,
    [ZYDIS_MNEMONIC_OUTSB] = op_outs,
    [ZYDIS_MNEMONIC_OUTSW] = op_outs,
    [ZYDIS_MNEMONIC_OUTSD] = op_outs,
};
