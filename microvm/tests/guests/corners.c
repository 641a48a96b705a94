/* The corners of the other calls: areas, ceding, time, presentation, modes, counts. Two CPUs. */
#include "papr.h"

#define H_RESOURCE (u64)-16
#define P2 (u64)-55
#define P3 (u64)-56
#define P4 (u64)-57
#define UNSUPPORTED (u64)-256
#define FUNCTION(n) ((u64)(n) << 45)
#define FAR 0x7ffffffful

static volatile u64 seen[2], last[2], stage, ceded_status, ticks;
static u8 areas_of[2][4096] __attribute__((aligned(4096)));

static u64 me(void) { return mfspr(1023) & 0xff; }
static u64 msr_of(struct frame *frame) { return frame->srr1; }
static void set_decrementer(u64 ticks) { mtspr(22, ticks); }
static void enabled(int on) { mtmsr(on ? mfmsr() | MSR_EE : mfmsr() & ~MSR_EE); }

static long my_hcall(u64 token, u64 a, u64 b, u64 c, u64 *first)
{
    u64 args[9] = {a, b, c};
    long status = hypercall(token, args);
    if (first)
        *first = args[0];
    return status;
}

/* Counts, notes which, and makes what is level go away. */
static void handler(struct frame *frame)
{
    u64 cpu = me(), xirr;
    /* The second CPU's decrementer runs out while a loaded host keeps everybody waiting. */
    if (cpu && frame->vector == 0x900) {
        ticks++;
        set_decrementer(FAR);
        return;
    }
    last[cpu] = frame->vector;
    check((msr_of(frame) & MSR_EE) || frame->vector == 0x100, "interrupts come when they are enabled");
    if (frame->vector == 0x900) {
        set_decrementer(FAR);
    } else if (frame->vector == 0x500) {
        my_hcall(0x74, 0, 0, 0, &xirr);
        my_hcall(0x6c, cpu, 0xff, 0, 0);
        my_hcall(0x64, xirr, 0, 0, 0);
    }
    /* Whoever waits for this finds everything done. */
    seen[cpu]++;
}

static void size_of(u8 *area, int bytes, u32 size)
{
    for (int i = 0; i < bytes; i++)
        area[4 + i] = size >> 8 * (bytes - 1 - i);
}

static void register_areas(void)
{
    u8 *area = areas_of[0];
    u64 at = (u64)area;
    size_of(area, 2, 640);
    size_of(area + 64, 2, 640);
    size_of(area + 4096 - 512, 2, 640);
    equal(hcall(0xdc, FUNCTION(1), 0, 0, 0), H_PARAMETER, "a VPA at zero");
    equal(hcall(0xdc, FUNCTION(1), 0, at + 64, 0), H_PARAMETER, "a VPA at half a line");
    equal(hcall(0xdc, FUNCTION(1), 0, at + 4096 - 512, 0), H_PARAMETER, "a VPA across a page's end");
    equal(hcall(0xdc, FUNCTION(1), 2, at, 0), H_PARAMETER, "a VPA of no CPU");
    equal(hcall(0xdc, FUNCTION(1), 1ul << 32, at, 0), H_PARAMETER, "a VPA of no CPU at all");
    size_of(area, 2, 639);
    equal(hcall(0xdc, FUNCTION(1), 0, at, 0), H_PARAMETER, "a VPA that is too small");
    size_of(area + 1024, 4, 48);
    size_of(area + 2048, 4, 47);
    equal(hcall(0xdc, FUNCTION(2), 0, at + 1024, 0), H_RESOURCE, "a log without a VPA");
    equal(hcall(0xdc, FUNCTION(3), 0, at + 1024, 0), H_RESOURCE, "an SLB shadow without a VPA");
    size_of(area, 2, 640);
    equal(hcall(0xdc, FUNCTION(1), 0, at, 0), H_SUCCESS, "a VPA");
    equal(hcall(0xdc, FUNCTION(1), 0, at, 0), H_SUCCESS, "the same again");
    equal(hcall(0xdc, FUNCTION(2), 0, at + 2048, 0), H_PARAMETER, "a log that is too small");
    equal(hcall(0xdc, FUNCTION(2), 0, 0, 0), H_PARAMETER, "a log at zero");
    equal(hcall(0xdc, FUNCTION(2), 0, at + 1024, 0), H_SUCCESS, "a log");
    equal(hcall(0xdc, FUNCTION(3), 0, at + 1024, 0), H_SUCCESS, "an SLB shadow");
    equal(hcall(0xdc, FUNCTION(5), 0, 0, 0), H_RESOURCE, "the VPA while the others are there");
    equal(hcall(0xdc, FUNCTION(6), 0, 0, 0), H_SUCCESS, "no log any more");
    equal(hcall(0xdc, FUNCTION(5), 0, 0, 0), H_RESOURCE, "the VPA while the SLB shadow is there");
    equal(hcall(0xdc, FUNCTION(7), 0, 0, 0), H_SUCCESS, "no SLB shadow any more");
    equal(hcall(0xdc, FUNCTION(5), 0, 0, 0), H_SUCCESS, "no VPA any more");
    equal(hcall(0xdc, FUNCTION(0), 0, at, 0), H_PARAMETER, "function 0");
    equal(hcall(0xdc, FUNCTION(4), 0, at, 0), H_PARAMETER, "function 4");
}

static u32 yields(u64 cpu) { return be32(*(volatile u32 *)(areas_of[cpu] + 0x100)); }

static void ceding(void)
{
    enabled(0);
    set_decrementer(FAR);
    hcall(0x68, 0xff, 0, 0, 0);
    equal(hcall(0xe8, 0, 0, 0, 0), H_SUCCESS, "H_PROD to itself");
    equal(hcall(0xe0, 0, 0, 0, 0), H_SUCCESS, "H_CEDE returns for the prod that came early");
    equal(mfmsr() & MSR_EE, MSR_EE, "H_CEDE enables interrupts");
    enabled(0);
    equal(seen[0], 0, "no interrupt came");
    set_decrementer(-1);
    equal(hcall(0xe0, 0, 0, 0, 0), H_SUCCESS, "H_CEDE with a decrementer that is below zero");
    enabled(0);
    equal(seen[0], 1, "its interrupt");
    equal(last[0], 0x900, "its interrupt");
    hcall(0x6c, 0, 5, 0, 0);
    equal(hcall(0xe0, 0, 0, 0, 0), H_SUCCESS, "H_CEDE with an interrupt that is presented");
    enabled(0);
    equal(seen[0], 2, "it is taken");
    equal(last[0], 0x500, "it is taken");
    /* What is pending goes when its cause goes. */
    set_decrementer(-5);
    set_decrementer(FAR);
    enabled(1);
    for (int i = 0; i < 20000; i++)
        mfspr(268);
    enabled(0);
    equal(seen[0], 2, "a decrementer that is above zero again does not interrupt");
    set_decrementer(0);
    enabled(1);
    for (int i = 0; i < 1000000 && seen[0] == 2; i++)
        mfspr(268);
    enabled(0);
    equal(seen[0], 3, "zero becomes less than zero");
    hcall(0x6c, 0, 5, 0, 0);
    hcall(0x6c, 0, 0xff, 0, 0);
    hcall(0x74, 0, 0, 0, 0);
    hcall(0x64, out(0), 0, 0, 0);
}

/* Sleeps until something other than the decrementer comes. */
static u64 cede(void)
{
    u64 before, status;
    do {
        before = ticks;
        status = my_hcall(0xe0, 0, 0, 0, 0);
        enabled(0);
    } while (ticks != before);
    return status;
}

void secondary_main(u64 cpu)
{
    my_hcall(0x68, 0xff, 0, 0, 0);
    set_decrementer(FAR);
    size_of(areas_of[cpu], 2, 640);
    my_hcall(0xdc, FUNCTION(1), cpu, (u64)areas_of[cpu], 0);
    stage = 1;
    ceded_status = cede();
    stage = 2;
    cede();
    stage = 3;
    for (;;)
        cede();
}

static void wait_for(volatile u64 *what, u64 value)
{
    while (*what < value)
        my_hcall(0xe4, -1, 0, 0, 0);
}

static void the_other(void)
{
    u32 start[3] = {1, (u32)(u64)secondary, 1};
    equal(rtas("start-cpu", 3, 1, start, 0), 0, "start-cpu");
    wait_for(&stage, 1);
    while (!(yields(1) & 1))
        my_hcall(0xe4, 1, yields(1), 0, 0);
    equal(hcall(0xe8, 1, 0, 0, 0), H_SUCCESS, "H_PROD");
    wait_for(&stage, 2);
    equal(ceded_status, H_SUCCESS, "the other's H_CEDE");
    equal(seen[1], 0, "it woke without an interrupt");
    while (!(yields(1) & 1))
        my_hcall(0xe4, 1, yields(1), 0, 0);
    equal(hcall(0x380, 1, 0, 0, 0), H_SUCCESS, "H_SIGNAL_SYS_RESET of a CPU that ceded");
    wait_for(&stage, 3);
    equal(seen[1], 1, "it has its system reset");
    equal(last[1], 0x100, "it has its system reset");
    equal(hcall(0xe4, 1, 0, 0, 0), H_SUCCESS, "H_CONFER to another");
    equal(hcall(0xe4, 0, 0, 0, 0), H_SUCCESS, "H_CONFER to itself");
    equal(hcall(0xe4, 2, 0, 0, 0), H_PARAMETER, "H_CONFER to nobody");
    equal(hcall(0xe8, -1, 0, 0, 0), H_PARAMETER, "H_PROD to all");
    u64 before = seen[1];
    equal(hcall(0x6c, 1, 9, 0, 0), H_SUCCESS, "H_IPI to the other");
    wait_for(&seen[1], before + 1);
    equal(last[1], 0x500, "it has its interrupt");
    equal(hcall(0x70, 1, 0, 0, 0), H_SUCCESS, "H_IPOLL of the other");
    equal(out(1), 0xff, "its request is gone");
}

static u64 presented(void)
{
    equal(hcall(0x70, 0, 0, 0, 0), H_SUCCESS, "H_IPOLL");
    return out(0);
}

static void presentation(void)
{
    hcall(0x68, 0, 0, 0, 0);
    hcall(0x6c, 0, 5, 0, 0);
    equal(presented(), 0, "nothing passes a CPPR of zero");
    hcall(0x68, 5, 0, 0, 0);
    equal(presented(), 0x05000000, "a priority passes only what is less favoured");
    hcall(0x68, 6, 0, 0, 0);
    equal(presented(), 0x06000002, "now it passes");
    hcall(0x68, 3, 0, 0, 0);
    equal(presented(), 0x03000000, "what was presented is rejected");
    hcall(0x74, 0, 0, 0, 0);
    equal(out(0), 0x03000000, "and cannot be accepted");
    hcall(0x68, 0xff, 0, 0, 0);
    equal(presented(), 0xff000002, "it is presented again");
    hcall(0x74, 0, 0, 0, 0);
    u64 outer = out(0);
    equal(outer, 0xff000002, "accepted");
    equal(presented(), 0x05000000, "the priority is the accepted one's");
    hcall(0x6c, 0, 2, 0, 0);
    equal(presented(), 0x05000002, "a more favoured one comes in between");
    hcall(0x74, 0, 0, 0, 0);
    u64 inner = out(0);
    equal(inner, 0x05000002, "accepted");
    hcall(0x6c, 0, 0xff, 0, 0);
    equal(hcall(0x64, inner, 0, 0, 0), H_SUCCESS, "H_EOI of the inner one");
    equal(presented(), 0x05000000, "the outer one's priority is back");
    equal(hcall(0x64, outer, 0, 0, 0), H_SUCCESS, "H_EOI of the outer one");
    equal(presented(), 0xff000000, "the first priority is back");
    equal(hcall(0x64, 0x09000003, 0, 0, 0), H_PARAMETER, "H_EOI of no source");
    equal(presented(), 0x09000000, "the priority is restored all the same");
    hcall(0x68, 0xff, 0, 0, 0);
    u32 source[3] = {cell("vty", "interrupts", 0), 1, 7};
    u32 rets[3];
    equal(rtas("ibm,set-xive", 3, 1, source, rets), 0, "ibm,set-xive to the other CPU");
    equal(rtas("ibm,int-off", 1, 1, source, rets), 0, "ibm,int-off");
    equal(rtas("ibm,int-off", 1, 1, source, rets), 0, "ibm,int-off again");
    equal(rtas("ibm,int-on", 1, 1, source, rets), 0, "ibm,int-on");
    equal(rtas("ibm,get-xive", 1, 3, source, rets), 0, "ibm,get-xive");
    check(rets[0] == 1 && rets[1] == 7, "what was set before is back");
    source[1] = 2;
    equal(rtas("ibm,set-xive", 3, 1, source, rets), (u32)-3, "ibm,set-xive to no CPU");
    source[1] = 0, source[2] = 256;
    equal(rtas("ibm,set-xive", 3, 1, source, rets), (u32)-3, "ibm,set-xive with a priority of nine bits");
    rtas("ibm,get-xive", 1, 3, source, rets);
    check(rets[0] == 1 && rets[1] == 7, "the refused ones changed nothing");
}

static void modes(void)
{
    equal(hcall(0x31c, 0, 0, 0, 0), P2, "H_SET_MODE of resource 0");
    equal(hcall(0x31c, 0, -1, 0, 0), P2, "H_SET_MODE of the last resource");
    equal(hcall(0x31c, 1, 1, 0, 0), UNSUPPORTED, "a breakpoint with flags");
    equal(hcall(0x31c, 0, 1, 3, 0), P3, "a breakpoint of the hypervisor's");
    equal(hcall(0x31c, 0, 1, 0, 1), P4, "a breakpoint with a second value");
    equal(hcall(0x31c, 0, 1, 0, 0), H_SUCCESS, "no breakpoint");
    equal(hcall(0x31c, 1, 2, 0, 0), UNSUPPORTED, "a watchpoint with flags");
    equal(hcall(0x31c, 0, 2, 0, 4), P4, "a watchpoint of the hypervisor's");
    equal(hcall(0x31c, 0, 2, 0, 0), H_SUCCESS, "no watchpoint");
    equal(hcall(0x31c, 0, 5, 0, 0), P2, "a second watchpoint");
    equal(hcall(0x31c, 2, 4, 0, 0), UNSUPPORTED, "a third byte order");
    equal(hcall(0x28, 0, 0, 0, 0), H_SUCCESS, "H_SET_DABR");
    equal(hcall(0x134, 0, 0, 0, 0), H_PARAMETER, "H_SET_XDABR for no state");
    equal(hcall(0x134, 0, 7, 0, 0), H_PARAMETER, "H_SET_XDABR for the hypervisor");
    equal(hcall(0x134, 0, 3, 0, 0), H_SUCCESS, "H_SET_XDABR");
    equal(hcall(0x37c, 0x20, 0, 0, 0), H_PARAMETER, "H_REGISTER_PROC_TBL with a flag that is not there");
    equal(hcall(0x2ec, 2, 1, 0, 0), H_SUCCESS, "H_HOME_NODE_ASSOCIATIVITY by processor");
    equal(hcall(0x380, -3, 0, 0, 0), H_PARAMETER, "H_SIGNAL_SYS_RESET of a target that is not there");
}

static void logical(void)
{
    static volatile u64 word __attribute__((aligned(8)));
    const u64 pattern = 0x0102030405060708;
    u64 at = (u64)&word;
    for (u64 size = 1; size <= 8; size *= 2) {
        u64 part = pattern & (size == 8 ? -1ul : (1ul << 8 * size) - 1);
        word = 0;
        equal(hcall(0x48, size, at, pattern, 0), H_SUCCESS, "H_LOGICAL_CACHE_STORE");
        equal(hcall(0x44, size, at, 0, 0), H_SUCCESS, "H_LOGICAL_CACHE_LOAD");
        equal(out(0), part, "what was stored");
        equal(((u8 *)&word)[size - 1], 8, "most significant byte first");
    }
    equal(hcall(0x44, 3, at, 0, 0), H_PARAMETER, "three bytes");
    equal(hcall(0x44, 8, at + 4, 0, 0), H_PARAMETER, "a crooked load");
    equal(hcall(0x48, 4, 1ul << 40, 0, 0), H_PARAMETER, "a store outside memory");
    equal(hcall(0x4c, at, 0, 0, 0), H_SUCCESS, "H_LOGICAL_ICBI");
    equal(hcall(0x50, at, 0, 0, 0), H_SUCCESS, "H_LOGICAL_DCBF");
    equal(hcall(0x50, -1, 0, 0, 0), H_PARAMETER, "H_LOGICAL_DCBF outside memory");
}

static void counts(void)
{
    static u32 buffer[40];
    u32 entry = cell("rtas", "linux,rtas-entry", 0), token = cell("rtas", "event-scan", 0);
    const u32 shapes[][2] = {{3, 1}, {5, 1}, {4, 2}, {17, 1}, {0, 1}};
    for (u64 i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        buffer[0] = be32(token), buffer[1] = be32(shapes[i][0]), buffer[2] = be32(shapes[i][1]);
        buffer[3 + shapes[i][0]] = be32(0x5555);
        enter_rtas(buffer, entry);
        equal(be32(((volatile u32 *)buffer)[3 + shapes[i][0]]), (u32)-3, "RTAS with a wrong count");
    }
    buffer[0] = be32(token), buffer[1] = be32(4), buffer[2] = 0, buffer[7] = be32(0x5555);
    enter_rtas(buffer, entry);
    equal(be32(((volatile u32 *)buffer)[7]), 0x5555, "RTAS without a place for the status writes none");
    u64 crooked[9] = {(u64)buffer + 1}, outside[9] = {(64ul << 20) - 8}, high[9] = {1ul << 32 | (u64)buffer};
    buffer[0] = buffer[1] = buffer[2] = 0;
    hypercall(0xf000, crooked);
    equal(hypercall(0xf000, outside), H_PARAMETER, "RTAS with a buffer across the end of memory");
    equal(hypercall(0xf000, high), H_PARAMETER, "RTAS with a buffer above 4 GiB");
    u32 parameter[3] = {20, (u32)(u64)buffer, 1}, rets[2];
    equal(rtas("ibm,get-system-parameter", 3, 1, parameter, rets), (u32)-9999, "a buffer that is too short for a length");
    parameter[1] = 0xfffffff0, parameter[2] = 64;
    equal(rtas("ibm,get-system-parameter", 3, 1, parameter, rets), (u32)-9999, "a buffer outside memory");
    parameter[0] = 12345;
    equal(rtas("ibm,set-system-parameter", 2, 1, parameter, rets), (u32)-3, "a parameter that is not there");
    u32 date[7] = {2024, 2, 30, 0, 0, 0, 0};
    equal(rtas("set-time-of-day", 7, 1, date, rets), (u32)-3, "the 30th of February");
    date[2] = 29;
    equal(rtas("set-time-of-day", 7, 1, date, rets), 0, "the 29th of February of a leap year");
}

void program(void)
{
    on_interrupt = handler;
    set_decrementer(FAR);
    register_areas();
    ceding();
    presentation();
    the_other();
    modes();
    logical();
    counts();
}
