/* The hashed page table as a partition uses it: H_ENTER and its kin, SLB entries, three page sizes, and every fault. */
#include "papr.h"

#define EXACT (1ul << 39)
#define AVPN (1ul << 31)
#define DATA 0x400000ul             /* real addresses of what is mapped, far above the program */
#define CODE 0x500000ul
#define LARGE 0x1000000ul
#define VSID 0x1234ul

static volatile u64 faults, vector, dsisr, dar, srr1;
static u64 groups;

static void fault(struct frame *frame)
{
    vector = frame->vector;
    srr1 = frame->srr1;
    if (vector == 0x300 || vector == 0x380) {
        faults++;
        dsisr = mfspr(18), dar = mfspr(19);
        frame->srr0 += 4;
    } else if (vector == 0x400 || vector == 0x480) {
        faults++;
        frame->gpr[3] = 0xdead;
        frame->srr0 = (u64)back, frame->srr1 = mfspr(272);
    } else if (vector == 0x700) {
        frame->srr0 = (u64)back, frame->srr1 = mfspr(272);
    } else {
        print("FAIL interrupt ");
        print_hex(vector);
        print("\n");
    }
}

static void slb(u64 index, u64 ea, u64 vsid, u64 bits)
{
    u64 rb = (ea & ~0xffffffful) | 0x8000000 | index;
    __asm__ volatile("isync; slbmte %0,%1; isync" : : "r"(vsid << 12 | bits), "r"(rb) : "memory");
}

/* First entry of the group that the primary hash names (ISA 3.0B III 5.7.9.2), for a 256 MiB segment. */
static u64 group(u64 vsid, u64 offset, int shift) { return ((vsid ^ offset >> shift) & (groups - 1)) * 8; }
static u64 first_word(u64 vsid, u64 offset) { return vsid << 12 | offset >> 23 << 7 | 1; }

static u64 enter(u64 vsid, u64 offset, int shift, u64 v, u64 r)
{
    equal(hcall(0x08, 0, group(vsid, offset, shift), first_word(vsid, offset) | v, r), H_SUCCESS, "H_ENTER");
    return out(0);
}

static void expect_fault(u64 wanted_vector, u64 wanted_dsisr, u64 wanted_dar, u64 before, const char *what)
{
    equal(faults, before + 1, what);
    equal(vector, wanted_vector, what);
    if (wanted_vector == 0x300)
        equal(dsisr, wanted_dsisr, what);
    if (wanted_vector < 0x400)
        equal(dar, wanted_dar, what);
}

static void small_pages(void)
{
    const u64 ea = 0x100000000, offset = 0x3000;
    volatile u64 *real = (u64 *)DATA;
    real[0] = 0x1122334455667788, real[1] = 0;
    u64 before = faults;
    load_through(ea + offset);
    expect_fault(0x380, 0, ea + offset, before, "no segment");
    slb(1, ea, VSID, 0);
    before = faults;
    load_through(ea + offset);
    expect_fault(0x300, 0x40000000, ea + offset, before, "no page");
    u64 ptex = enter(VSID, offset, 12, 0, DATA | 0x10 | 2);
    equal(load_through(ea + offset), 0x1122334455667788, "a load through the page");
    hcall(0x0c, 0, ptex, 0, 0);
    equal(out(0) & 1, 1, "H_READ: valid");
    equal(out(1) & 0x180, 0x100, "referenced, not changed");
    store_through(ea + offset + 8, 0xabcdef);
    equal(real[1], 0xabcdef, "a store through the page");
    hcall(0x0c, 0, ptex, 0, 0);
    equal(out(1) & 0x180, 0x180, "referenced and changed");
    equal(hcall(0x10, 0, ptex, 0, 0), H_SUCCESS, "H_CLEAR_MOD");
    hcall(0x0c, 0, ptex, 0, 0);
    equal(out(1) & 0x80, 0, "changed no more");
    store_through(ea + offset + 8, 0xabcdf0);
    hcall(0x0c, 0, ptex, 0, 0);
    equal(out(1) & 0x80, 0x80, "changed again");

    /* PP = 3 makes it read-only. */
    const u64 avpn = first_word(VSID, offset) & ~0x7ful;
    equal(hcall(0x18, AVPN | 3, ptex, avpn, 0), H_SUCCESS, "H_PROTECT");
    before = faults;
    store_through(ea + offset, 1);
    expect_fault(0x300, 0x0a000000, ea + offset, before, "a store to a read-only page");
    equal(real[0], 0x1122334455667788, "it changed nothing");
    equal(hcall(0x18, AVPN | 3, ptex, avpn + 0x80, 0), (u64)-7, "H_PROTECT of another page");
    equal(hcall(0x04, AVPN, ptex, avpn + 0x80, 0), (u64)-7, "H_REMOVE of another page");
    equal(hcall(0x04, AVPN, ptex, avpn, 0), H_SUCCESS, "H_REMOVE");
    before = faults;
    load_through(ea + offset);
    expect_fault(0x300, 0x40000000, ea + offset, before, "the page is gone");
    equal(hcall(0x04, 0, ptex, 0, 0), (u64)-7, "H_REMOVE of nothing");
    __asm__ volatile("slbie %0; isync" : : "r"(ea));
    before = faults;
    load_through(ea + offset);
    expect_fault(0x380, 0, ea + offset, before, "slbie took the segment");
}

static void groups_fill_up(void)
{
    const u64 offset = 0x7000, at = group(VSID + 7, offset, 12);
    u64 first = first_word(VSID + 7, offset);
    for (int i = 0; i < 8; i++)
        equal(hcall(0x08, 0, at, first + ((u64)i << 40), DATA | 0x10 | 2), H_SUCCESS, "eight entries fit in a group");
    equal(hcall(0x08, 0, at, first, DATA | 0x10 | 2), (u64)-6, "a ninth does not");
    equal(hcall(0x08, EXACT, at + 3, first, DATA | 0x10 | 2), (u64)-6, "nor exactly there");
    u64 request = 0x4000000000000000;
    for (int i = 0; i < 8; i += 4) {
        u64 args[9] = {request | (at + i), 0, request | (at + i + 1), 0, request | (at + i + 2), 0, request | (at + i + 3), 0};
        equal(hypercall(0x124, args), H_SUCCESS, "H_BULK_REMOVE");
        for (int j = 0; j < 8; j += 2)
            equal(args[j] >> 60, 8, "its answers");
    }
    equal(hcall(0x08, EXACT, at + 3, first, DATA | 0x10 | 2), H_SUCCESS, "H_EXACT");
    equal(out(0), at + 3, "exactly there");
    hcall(0x04, 0, at + 3, 0, 0);
    equal(hcall(0x08, 0, groups * 8, first, DATA | 0x10 | 2), H_PARAMETER, "H_ENTER beyond the table");
    equal(hcall(0x0c, 0, groups * 8, 0, 0), H_PARAMETER, "H_READ beyond the table");
    equal(hcall(0x04, 0, -1, 0, 0), H_PARAMETER, "H_REMOVE beyond the table");
}

static void large_pages(void)
{
    const u64 ea64k = 0x200000000, ea16m = 0x300000000;
    volatile u64 *real = (u64 *)DATA;
    real[0xfff8 / 8] = 0x64;
    slb(2, ea64k, VSID + 1, 0x110);
    enter(VSID + 1, 0x20000, 16, 4, DATA | 1 << 12 | 0x10 | 2);
    equal(load_through(ea64k + 0x2fff8), 0x64, "the end of a 64K page");
    real = (u64 *)LARGE;
    real[0xfffff8 / 8] = 0x16;
    slb(3, ea16m, VSID + 2, 0x100);
    enter(VSID + 2, 0x1000000, 24, 4, LARGE | 0x10 | 2);
    equal(load_through(ea16m + 0x1fffff8), 0x16, "the end of a 16M page");
    u64 before = faults;
    load_through(ea16m + 0x2000000);
    expect_fault(0x300, 0x40000000, ea16m + 0x2000000, before, "behind a 16M page");
}

static void instructions(void)
{
    const u64 ea = 0x400000000;
    volatile u32 *code = (u32 *)CODE;
    code[0] = 0x3860004d; /* li r3,77 */
    code[1] = 0x7fe00008; /* trap */
    for (u64 i = 0; i < 8; i += 4)
        __asm__ volatile("dcbst 0,%0; sync; icbi 0,%0; isync" : : "r"(CODE + i) : "memory");
    u64 before = faults;
    equal(call_through(ea), 0xdead, "no segment for instructions");
    expect_fault(0x480, 0, 0, before, "no segment for instructions");
    slb(4, ea, VSID + 3, 0);
    before = faults;
    equal(call_through(ea), 0xdead, "no page for instructions");
    expect_fault(0x400, 0, 0, before, "no page for instructions");
    equal(srr1 & 0x40000000, 0x40000000, "SRR1 says so");
    u64 ptex = enter(VSID + 3, 0, 12, 0, CODE | 0x10 | 2);
    equal(call_through(ea), 77, "code through the page");
    /* N = 1: no execution. */
    equal(hcall(0x18, 2 | 4, ptex, 0, 0), H_SUCCESS, "H_PROTECT with N");
    before = faults;
    equal(call_through(ea), 0xdead, "no execution");
    equal(faults, before + 1, "no execution");
    equal(srr1 & 0x10000000, 0x10000000, "SRR1 says so");
    equal(hcall(0x18, 2, ptex, 0, 0), H_SUCCESS, "H_PROTECT without N");
    code[0] = 0x3860004e;
    __asm__ volatile("dcbst 0,%0; sync; icbi 0,%0; isync" : : "r"(CODE) : "memory");
    equal(call_through(ea), 78, "changed code");
}

void program(void)
{
    on_interrupt = fault;
    groups = 1ul << (cell("PowerPC,POWER9", "ibm,pft-size", 1) - 7);
    small_pages();
    groups_fill_up();
    large_pages();
    instructions();
}

void secondary_main(u64 cpu) { (void)cpu; }
