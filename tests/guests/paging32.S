/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 32-bit paging with 4 KiB and 4 MiB pages, then PAE with its pointers that load with CR3. */
#include "guest32.inc"
#define DIR 0x100000
#define TABLE 0x101000
#define PAE_PDPT 0x102000
#define PAE_PD 0x103000
#define PAE_PT 0x104000
GUEST(PROTECTED, 1, NEED_LEGACY_PAGING)
    BEGIN32
    /* identity for the first 4 MiB */
    mov $TABLE, %edi
    mov $3, %eax
    mov $1024, %ecx
1:  mov %eax, (%edi)
    add $4, %edi
    add $0x1000, %eax
    loop 1b
    movl $TABLE + 3, DIR
    movl $0, DIR + 4
    mov $DIR, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80010000, %eax
    mov %eax, %cr0
    FAULTS(14, 0, mov 0x400000, %eax)
    CHECK(got_cr2, 0x400000)
    FAULTS(14, 2, mov %eax, 0x400004)
    CHECK(TABLE + 0x200 * 4, 0x200003)
    mov 0x200000, %eax
    CHECK(TABLE + 0x200 * 4, 0x200023)
    movl $1, 0x200000
    CHECK(TABLE + 0x200 * 4, 0x200063)
    movl $0x200001, TABLE + 0x200 * 4
    invlpg 0x200000
    FAULTS(14, 3, movl $2, 0x200000)
    CHECK(0x200000, 1)
    /* both levels allow or nobody may */
    movl $TABLE + 1, DIR + 4
    HOLDS(mov 0x700000, %eax)
    FAULTS(14, 3, movl $2, 0x700000)
    movl $0, DIR + 4
    mov $DIR, %eax
    mov %eax, %cr3
    /* PS without CR4.PSE is ignored, with it is a page of 4 MiB */
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    movl $0x83, DIR + 4
    movl $0x5678, 0x300000
    CHECK(0x700000, 0x5678)
    CHECK(DIR + 4, 0xa3)
    movl $0x9abc, 0x700004
    CHECK(0x300004, 0x9abc)
    CHECK(DIR + 4, 0xe3)
    /* bit 21 of such an entry is reserved */
    movl $0x200083, DIR + 4
    mov $DIR, %eax
    mov %eax, %cr3
    FAULTS(14, 8 + 1, mov 0x400000, %eax)
    /* PAE */
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $PAE_PDPT, %edi
    mov $0xc00, %ecx
    xor %eax, %eax
    rep stosl
    movl $PAE_PD + 1, PAE_PDPT
    movl $PAE_PT + 3, PAE_PD
    movl $0x200083, PAE_PD + 8
    mov $PAE_PT, %edi
    mov $3, %eax
    mov $512, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $8, %edi
    add $0x1000, %eax
    loop 1b
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $PAE_PDPT, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    CHECK(0x300000, 0x5678)
    FAULTS(14, 0, mov 0x400000, %eax)
    FAULTS(14, 0, mov 0x40000000, %eax)
    /* the pointers are cached: a change counts when CR3 is written */
    movl $PAE_PD + 1, PAE_PDPT + 8
    FAULTS(14, 0, mov 0x40000000, %eax)
    mov $PAE_PDPT, %eax
    mov %eax, %cr3
    movl $0x777, 0x180000
    CHECK(0x40180000, 0x777)
    /* reserved bits in a pointer: CR3 refuses */
    movl $PAE_PD + 1 + 2, PAE_PDPT + 16
    FAULTS(13, 0, mov %eax, %cr3)
    movl $0, PAE_PDPT + 16
    /* NX in PAE */
    mov $0xc0000080, %ecx
    rdmsr
    or $0x800, %eax
    wrmsr
    movb $0xc3, 0x180000
    movl $0x80000000, PAE_PT + 0x180 * 8 + 4
    invlpg 0x180000
    invlpg 0x40180000
    mov $0x180000, %ebx
    FAULTS(14, 0x11, jmp *%ebx)
    CHECK(got_cr2, 0x180000)
    movl $0, PAE_PT + 0x180 * 8 + 4
    invlpg 0x180000
    call *%ebx
    PASS
#include "guest32_code.inc"
