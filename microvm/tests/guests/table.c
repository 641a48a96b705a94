/* The corners of the page table calls: conditions, exact places, what is kept, what is answered. Real mode, one CPU. */
#include "papr.h"

#define EXACT (1ul << 39)
#define READ_4 (1ul << 37)
#define AVPN (1ul << 31)
#define ANDCOND (1ul << 30)
#define ZERO_PAGE (1ul << 15)
#define COPY_PAGE (1ul << 14)
#define NOT_FOUND (u64)-7
#define PTEG_FULL (u64)-6
#define PAGE 0x400000ul
#define R_WORD (PAGE | 0x10 | 2)
#define V_WORD (0x5550000ul << 12 | 0x80)
#define HPTE_R 0x100ul
#define HPTE_C 0x80ul

static u64 entries, at;

static void read(u64 ptex, u64 v, u64 r, const char *what)
{
    equal(hcall(0x0c, 0, ptex, 0, 0), H_SUCCESS, what);
    equal(out(0), v, what);
    equal(out(1), r, what);
}

static void enter(u64 ptex, u64 v, u64 r)
{
    equal(hcall(0x08, EXACT, ptex, v, r), H_SUCCESS, "H_ENTER");
    equal(out(0), ptex, "H_ENTER exactly there");
}

static void entering(void)
{
    enter(at + 5, V_WORD, R_WORD);
    read(at + 5, V_WORD | 1, R_WORD, "V is set whether the caller set it or not");
    equal(hcall(0x08, EXACT, at + 5, V_WORD, R_WORD), PTEG_FULL, "H_EXACT on an entry that is there");
    equal(hcall(0x08, 0, at + 6, V_WORD | 0x60, R_WORD | 1ul << 62), H_SUCCESS, "H_ENTER into a group");
    equal(out(0), at, "the first free place of the group, wherever the index points in it");
    read(at, V_WORD | 1, R_WORD, "the hypervisor's bits are not the caller's");
    equal(hcall(0x0c, READ_4, at + 6, 0, 0), H_SUCCESS, "H_READ of four");
    equal(out(0), 0, "the first of the aligned four");
    equal(out(2), V_WORD | 1, "the second");
    equal(out(3), R_WORD, "the second");
    equal(out(6) | out(7), 0, "the fourth");
    equal(hcall(0x0c, READ_4, entries - 1, 0, 0), H_SUCCESS, "H_READ of the last four");
    equal(hcall(0x0c, READ_4, entries, 0, 0), H_PARAMETER, "H_READ of four behind the table");
    equal(hcall(0x08, EXACT, at + 1, V_WORD | 4, R_WORD | 0x7f000), H_PARAMETER, "a page size that is not there");
    equal(hcall(0x08, EXACT, entries, V_WORD, R_WORD), H_PARAMETER, "H_ENTER behind the table");
    equal(hcall(0x08, EXACT, -1, V_WORD, R_WORD), H_PARAMETER, "H_ENTER far behind the table");
    enter(at + 1, V_WORD | 1ul << 62 | 4, PAGE | 1 << 12 | 0x10 | 2);
    read(at + 1, V_WORD | 1ul << 62 | 5, PAGE | 1 << 12 | 0x10 | 2, "a page of 64K in a segment of 1T");
}

static void removing(void)
{
    equal(hcall(0x04, ANDCOND, at, V_WORD & 0x80, 0), NOT_FOUND, "H_ANDCOND with a bit that is set");
    equal(hcall(0x04, AVPN | ANDCOND, at, V_WORD, 0), NOT_FOUND, "both conditions, one of them met");
    equal(hcall(0x04, AVPN, at, V_WORD | 1, 0), NOT_FOUND, "H_AVPN with one of the last seven bits");
    equal(hcall(0x04, AVPN, at, V_WORD, 0), H_SUCCESS, "H_AVPN");
    equal(out(0), V_WORD | 1, "the old first word");
    equal(out(1), R_WORD, "the old second word");
    read(at, 0, 0, "nothing is left of it");
    equal(hcall(0x04, ANDCOND, at + 5, 0x100, 0), H_SUCCESS, "H_ANDCOND with bits that are not set");
    equal(hcall(0x04, 0, at + 5, 0, 0), NOT_FOUND, "H_REMOVE of nothing");
    equal(hcall(0x04, 0, at + 1, 0, 0), H_SUCCESS, "H_REMOVE without a condition");
    equal(hcall(0x04, 0, entries, 0, 0), H_PARAMETER, "H_REMOVE behind the table");
}

static void protecting(void)
{
    const u64 all = 1ul << 63 | 3ul << 60 | 0xe07;
    enter(at + 2, V_WORD, R_WORD | HPTE_R | HPTE_C);
    equal(hcall(0x18, 0x100 | 0x3000 | 0xe00 | 7, at + 2, 0, 0), H_SUCCESS, "H_PROTECT");
    read(at + 2, V_WORD | 1, R_WORD | HPTE_R | HPTE_C | all, "pp0, key, N and PP; the rest is kept");
    equal(hcall(0x18, 0, at + 2, 0, 0), H_SUCCESS, "H_PROTECT without any");
    read(at + 2, V_WORD | 1, (R_WORD & ~7ul) | HPTE_R | HPTE_C, "none of them");
    equal(hcall(0x18, AVPN | 2, at + 2, V_WORD + 0x80, 0), NOT_FOUND, "H_PROTECT of another page");
    equal(hcall(0x18, 2, at + 3, 0, 0), NOT_FOUND, "H_PROTECT of nothing");
    equal(hcall(0x18, 2, entries, 0, 0), H_PARAMETER, "H_PROTECT behind the table");
    equal(hcall(0x18, AVPN | 2, at + 2, V_WORD, 0), H_SUCCESS, "H_PROTECT of this page");

    equal(hcall(0x14, 0, at + 2, 0, 0), H_SUCCESS, "H_CLEAR_REF");
    equal(out(0), R_WORD | HPTE_R | HPTE_C, "as it was");
    equal(hcall(0x10, 0, at + 2, 0, 0), H_SUCCESS, "H_CLEAR_MOD");
    equal(out(0), R_WORD | HPTE_C, "as it was");
    read(at + 2, V_WORD | 1, R_WORD, "neither is left");
    equal(hcall(0x14, 0, at + 3, 0, 0), NOT_FOUND, "H_CLEAR_REF of nothing");
    equal(hcall(0x10, 0, at + 3, 0, 0), NOT_FOUND, "H_CLEAR_MOD of nothing");
    equal(hcall(0x14, 0, entries, 0, 0), H_PARAMETER, "H_CLEAR_REF behind the table");
    equal(hcall(0x10, 0, -1, 0, 0), H_PARAMETER, "H_CLEAR_MOD behind the table");
    equal(hcall(0x04, 0, at + 2, 0, 0), H_SUCCESS, "H_REMOVE");
}

static void in_bulk(void)
{
    const u64 request = 1ul << 62, and_condition = 1ul << 56, avpn = 2ul << 56;
    for (int i = 0; i < 8; i++)
        enter(at + i, V_WORD, R_WORD | (i & 1 ? HPTE_R : 0) | (i & 2 ? HPTE_C : 0));
    u64 first[9] = {request | (at + 1), 0, request | avpn | (at + 2), V_WORD,
                    request | avpn | (at + 3), V_WORD + 0x80, request | and_condition | (at + 4), 0x80};
    equal(hypercall(0x124, first), H_SUCCESS, "H_BULK_REMOVE");
    equal(first[0], 0x88ul << 56 | (at + 1), "removed; it was referenced");
    equal(first[2], 0x86ul << 56 | (at + 2), "removed on its condition; it was changed");
    equal(first[4], 0x92ul << 56 | (at + 3), "another page's condition");
    equal(first[6], 0x91ul << 56 | (at + 4), "a bit of the condition is set");
    u64 second[9] = {request | and_condition | (at + 3), 0x100, 3ul << 62, 0x77, request | (at + 4), 0x78};
    equal(hypercall(0x124, second), H_SUCCESS, "H_BULK_REMOVE with an end");
    equal(second[0] >> 56 & 0xf3, 0x81, "removed");
    equal(second[2], 3ul << 62, "the end is left as it is");
    equal(second[4], request | (at + 4), "so is what follows");
    read(at + 4, V_WORD | 1, R_WORD, "which is still there");
    u64 third[9] = {request | (at + 4), 0, request | entries, 0, request | (at + 5), 0};
    equal(hypercall(0x124, third), H_PARAMETER, "H_BULK_REMOVE behind the table");
    equal(third[0], 0x80ul << 56 | (at + 4), "what came before is removed");
    equal(third[2], 0xa0ul << 56 | entries, "the bad one is marked");
    equal(third[4], request | (at + 5), "what comes after is not looked at");
    for (u64 head = 0; head < 4; head += 2) {
        u64 bad[9] = {head << 62 | (at + 5), 0};
        equal(hypercall(0x124, bad), H_PARAMETER, "a kind of request that is not there");
        equal(bad[0] >> 60, 0xa, "marked");
    }
    u64 both[9] = {request | and_condition | avpn | (at + 5), 0};
    equal(hypercall(0x124, both), H_PARAMETER, "both conditions at once");
    read(at + 5, V_WORD | 1, R_WORD | HPTE_R, "still there");
    hcall(0x04, 0, at, 0, 0);
    for (int i = 5; i < 8; i++)
        equal(hcall(0x04, 0, at + i, 0, 0), H_SUCCESS, "H_REMOVE");
}

static void pages(void)
{
    volatile u64 *page = (u64 *)PAGE, *other = (u64 *)(PAGE + 0x1000);
    page[0] = page[511] = 0x1234, page[512] = 0x77;
    equal(hcall(0x2c, COPY_PAGE, PAGE + 0x2000, PAGE, 0), H_SUCCESS, "H_PAGE_INIT copies");
    equal(other[512], 0x1234, "the first word");
    equal(other[512 + 511], 0x1234, "the last word");
    equal(hcall(0x2c, ZERO_PAGE, PAGE, 0, 0), H_SUCCESS, "H_PAGE_INIT clears");
    equal(page[0] | page[511], 0, "it is zero");
    equal(page[512], 0x77, "the next page is not");
    equal(hcall(0x2c, 0, PAGE, 0, 0), H_SUCCESS, "H_PAGE_INIT of nothing");
    equal(hcall(0x2c, ZERO_PAGE, PAGE + 8, 0, 0), H_PARAMETER, "a crooked page");
    equal(hcall(0x2c, COPY_PAGE, PAGE, PAGE + 8, 0), H_PARAMETER, "a crooked source");
    equal(hcall(0x2c, ZERO_PAGE, 1ul << 40, 0, 0), H_PARAMETER, "a page outside memory");
    equal(hcall(0x2c, COPY_PAGE, PAGE, 1ul << 40, 0), H_PARAMETER, "a source outside memory");
    equal(hcall(0x2c, 1, PAGE, 0, 0), H_PARAMETER, "a flag that is not there");
}

void program(void)
{
    entries = 1ul << (cell("PowerPC,POWER9", "ibm,pft-size", 1) - 4);
    at = entries / 2;
    entering();
    removing();
    protecting();
    in_bulk();
    pages();
}

void secondary_main(u64 cpu) { (void)cpu; }
