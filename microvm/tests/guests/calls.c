/* Every hypercall and RTAS call of the machine's tables, right and wrong: return codes and effects. One CPU. */
#include "papr.h"

static volatile u64 resets, reset_srr1;

static void count_reset(struct frame *frame)
{
    if (frame->vector == 0x100)
        resets++, reset_srr1 = frame->srr1;
}

static void terminal(void)
{
    u64 vty = cell("vty", "reg", 0);
    equal(hcall(0x58, vty, 17, 0, 0), H_PARAMETER, "H_PUT_TERM_CHAR of 17 characters");
    equal(hcall(0x58, 5, 1, 0, 0), H_PARAMETER, "H_PUT_TERM_CHAR of another terminal");
    equal(hcall(0x58, vty, 0, 0, 0), H_SUCCESS, "H_PUT_TERM_CHAR of nothing");
    equal(hcall(0x54, vty, 0, 0, 0), H_SUCCESS, "H_GET_TERM_CHAR");
    equal(out(0), 0, "nothing was typed");
    equal(hcall(0x54, 7, 0, 0, 0), H_PARAMETER, "H_GET_TERM_CHAR of another terminal");
}

static void presentation(void)
{
    equal(hcall(0x68, 0xff, 0, 0, 0), H_SUCCESS, "H_CPPR");
    equal(hcall(0x74, 0, 0, 0, 0), H_SUCCESS, "H_XIRR");
    equal(out(0), 0xff000000, "nothing is presented");
    equal(hcall(0x6c, 0, 4, 0, 0), H_SUCCESS, "H_IPI");
    equal(hcall(0x70, 0, 0, 0, 0), H_SUCCESS, "H_IPOLL");
    equal(out(0), 0xff000002, "the IPI is presented");
    equal(out(1), 4, "MFRR");
    equal(hcall(0xfc, 0xff, 0, 0, 0), H_SUCCESS, "H_XIRR_X");
    u64 xirr = out(0);
    equal(xirr, 0xff000002, "the IPI is accepted");
    hcall(0x74, 0, 0, 0, 0);
    equal(out(0), 0x04000000, "CPPR is the accepted priority");
    hcall(0x6c, 0, 0xff, 0, 0);
    equal(hcall(0x64, xirr, 0, 0, 0), H_SUCCESS, "H_EOI");
    hcall(0x74, 0, 0, 0, 0);
    equal(out(0), 0xff000000, "CPPR is back and nothing pends");
    equal(hcall(0x6c, 64, 4, 0, 0), H_PARAMETER, "H_IPI to no server");
    equal(hcall(0x70, 64, 0, 0, 0), H_PARAMETER, "H_IPOLL of no server");
}

static void processor(void)
{
    equal(hcall(0x1c8, 0, 0, 0, 0), H_SUCCESS, "H_GET_CPU_CHARACTERISTICS");
    equal(hcall(0x37c, 0, 0, 0, 0), H_SUCCESS, "H_REGISTER_PROC_TBL without a table");
    equal(hcall(0x37c, 0x1c, 0, 0, 0), H_PARAMETER, "H_REGISTER_PROC_TBL for radix");
    equal(hcall(0x31c, 3, 3, 0, 0), H_SUCCESS, "H_SET_MODE AIL");
    equal(hcall(0x31c, 0, 3, 0, 0), H_SUCCESS, "H_SET_MODE AIL off");
    equal(hcall(0x31c, 1, 3, 0, 0), (u64)-256, "H_SET_MODE AIL 1");
    equal(hcall(0x31c, 0, 9, 0, 0), (u64)-55, "H_SET_MODE of no resource");
    equal(hcall(0x31c, 0, 3, 1, 0), (u64)-56, "H_SET_MODE with a value");
    equal(hcall(0x31c, 0, 3, 0, 1), (u64)-57, "H_SET_MODE with a second value");
    equal(hcall(0x24, 0x123456789abcdef0, 0, 0, 0), H_SUCCESS, "H_SET_SPRG0");
    equal(mfspr(272), 0x123456789abcdef0, "SPRG0");
    equal(hcall(0x2ec, 1, 0, 0, 0), H_SUCCESS, "H_HOME_NODE_ASSOCIATIVITY");
    equal(hcall(0x2ec, 1, 64, 0, 0), (u64)-55, "H_HOME_NODE_ASSOCIATIVITY of no CPU");
    equal(hcall(0x2ec, 7, 0, 0, 0), H_PARAMETER, "H_HOME_NODE_ASSOCIATIVITY with flags");
    equal(hcall(0x36c, 0, 20, 0, 0), (u64)-10, "H_RESIZE_HPT_PREPARE");
    equal(hcall(0x370, 0, 20, 0, 0), (u64)-10, "H_RESIZE_HPT_COMMIT");
    equal(hcall(0x36c, 0, 99, 0, 0), (u64)-10, "H_RESIZE_HPT_PREPARE of no size either");
    hcall(0x300, 0, 0, 0, 0);
    u64 first = out(0);
    equal(hcall(0x300, 0, 0, 0, 0), H_SUCCESS, "H_RANDOM");
    check(out(0) != first, "two random numbers differ");
    equal(hcall(0xe8, 0, 0, 0, 0), H_SUCCESS, "H_PROD to itself");
    equal(hcall(0xe8, 9, 0, 0, 0), H_PARAMETER, "H_PROD to nobody");
    equal(hcall(0x298, 0, 0, 0, 0), H_SUCCESS, "H_JOIN with a prod that came early");
    equal(hcall(0x298, 0, 0, 0, 0), 18, "H_JOIN of the last CPU");
    mtmsr(mfmsr() | MSR_EE);
    equal(hcall(0x298, 0, 0, 0, 0), (u64)-5, "H_JOIN with interrupts enabled");
    mtmsr(mfmsr() & ~MSR_EE);
    on_interrupt = count_reset;
    equal(hcall(0x380, 0, 0, 0, 0), H_SUCCESS, "H_SIGNAL_SYS_RESET to itself");
    for (int i = 0; i < 100000 && !resets; i++)
        hcall(0x74, 0, 0, 0, 0);
    equal(resets, 1, "one system reset");
    equal(reset_srr1 >> 63, 1, "its SRR1 is the MSR");
    on_interrupt = 0;
    equal(hcall(0x380, 64, 0, 0, 0), H_PARAMETER, "H_SIGNAL_SYS_RESET to nobody");
    equal(hcall(0x380, -2, 0, 0, 0), H_SUCCESS, "H_SIGNAL_SYS_RESET to all others");
    for (u64 unknown = 0xf100; unknown < 0xf110; unknown += 4)
        equal(hcall(unknown, 0, 0, 0, 0), H_FUNCTION, "an unknown hypercall");
    equal(hcall(2, 0, 0, 0, 0), H_FUNCTION, "a hypercall with a low bit set");
    equal(hcall(-4, 0, 0, 0, 0), H_FUNCTION, "a negative hypercall");
}

static u8 vpa[1024] __attribute__((aligned(1024)));

static void areas(void)
{
    const u64 vpa_function = 1ul << 45, log_function = 2ul << 45;
    equal(hcall(0xdc, vpa_function, 0, (u64)vpa + 1, 0), H_PARAMETER, "a crooked VPA");
    equal(hcall(0xdc, vpa_function, 0, (u64)vpa, 0), H_PARAMETER, "a VPA without a size");
    vpa[4] = 640 >> 8, vpa[5] = 640 & 255;
    equal(hcall(0xdc, log_function, 0, (u64)vpa, 0), (u64)-16, "a log without a VPA");
    equal(hcall(0xdc, vpa_function, 0, 1ul << 60, 0), H_PARAMETER, "a VPA outside memory");
    equal(hcall(0xdc, vpa_function, 9, (u64)vpa, 0), H_PARAMETER, "a VPA of no CPU");
    equal(hcall(0xdc, vpa_function, 0, (u64)vpa, 0), H_SUCCESS, "H_REGISTER_VPA");
    equal(vpa[9] & 2, 2, "the processor is shared");
    equal(vpa[0x103] & 1, 0, "the yield count of a running CPU is even");
    equal(hcall(0xdc, 5ul << 45, 0, 0, 0), H_SUCCESS, "H_REGISTER_VPA undone");
}

static void windows(void)
{
    u64 liobn = 0x80000000;
    u64 good = property("pci", "ibm,dma-window", 0) != 0;
    equal(hcall(0x20, liobn, 0x1000, 0x5003, 0), good ? H_SUCCESS : H_PARAMETER, "H_PUT_TCE");
    if (good) {
        equal(hcall(0x1c, liobn, 0x1000, 0, 0), H_SUCCESS, "H_GET_TCE");
        equal(out(0), 0x5003, "the entry");
        equal(hcall(0x138, liobn, 0, 0x7001, 16), H_SUCCESS, "H_STUFF_TCE");
        equal(hcall(0x13c, liobn, 0, 0x2000, 2), H_SUCCESS, "H_PUT_TCE_INDIRECT");
    }
    equal(hcall(0x20, liobn + 1, 0, 0, 0), H_PARAMETER, "H_PUT_TCE of no bus");
    equal(hcall(0x138, liobn, 0, 0, 513), H_PARAMETER, "H_STUFF_TCE of 513 entries");
    equal(hcall(0x13c, liobn, 0, 0x2001, 1), H_PARAMETER, "H_PUT_TCE_INDIRECT with a crooked list");
    equal(hcall(0x20, liobn, 1ul << 40, 0, 0), H_PARAMETER, "H_PUT_TCE outside the window");
    equal(hcall(0x3c, 4, 0, 0, 0), H_PARAMETER, "H_LOGICAL_CI_LOAD of memory");
    equal(hcall(0x40, 4, 0, 0, 0), H_PARAMETER, "H_LOGICAL_CI_STORE to memory");
}

static void runtime(void)
{
    u32 args[16] = {0}, rets[16];
    equal(rtas("get-time-of-day", 0, 8, args, rets), 0, "get-time-of-day");
    check(rets[0] >= 2024, "the year");
    u32 date[7] = {2031, 2, 28, 23, 59, 58, 5};
    equal(rtas("set-time-of-day", 7, 1, date, rets), 0, "set-time-of-day");
    equal(rtas("get-time-of-day", 0, 8, args, rets), 0, "get-time-of-day again");
    check(rets[0] == 2031 && (rets[1] == 2 || rets[1] == 3), "the time that was set");
    date[1] = 13;
    equal(rtas("set-time-of-day", 7, 1, date, rets), (u32)-3, "set-time-of-day with a 13th month");
    equal(rtas_token(0x7777, 0, 1, args, rets), (u32)-3, "an unknown token");
    equal(rtas("get-time-of-day", 0, 4, args, rets), (u32)-3, "too few returns");
    equal(rtas("power-off", 1, 1, args, rets), (u32)-3, "too few arguments");
    equal(rtas("event-scan", 4, 1, args, rets), 1, "event-scan");
    equal(rtas("check-exception", 6, 1, args, rets), 1, "check-exception");
    equal(rtas("ibm,suspend-me", 0, 1, args, rets), 9000, "ibm,suspend-me");
    args[0] = 0;
    equal(rtas("query-cpu-stopped-state", 1, 2, args, rets), 0, "query-cpu-stopped-state");
    equal(rets[0], 2, "this CPU runs");
    equal(rtas("start-cpu", 3, 1, args, rets), (u32)-1, "start-cpu of this CPU");
    args[0] = 64;
    equal(rtas("start-cpu", 3, 1, args, rets), (u32)-3, "start-cpu of no CPU");
    equal(rtas("query-cpu-stopped-state", 1, 2, args, rets), (u32)-3, "query-cpu-stopped-state of no CPU");

    static char text[] = "kept across calls", back_text[32];
    u32 size = cell("nvram", "#bytes", 0);
    u32 store[3] = {size - 32, (u32)(u64)text, sizeof text}, fetch[3] = {size - 32, (u32)(u64)back_text, sizeof text};
    equal(rtas("nvram-store", 3, 2, store, rets), 0, "nvram-store");
    equal(rets[0], sizeof text, "its count");
    equal(rtas("nvram-fetch", 3, 2, fetch, rets), 0, "nvram-fetch");
    check(back_text[0] == 'k' && back_text[16] == 's', "what was stored");
    fetch[0] = size - 4;
    equal(rtas("nvram-fetch", 3, 2, fetch, rets), (u32)-3, "nvram-fetch beyond the end");
    fetch[0] = 0, fetch[1] = 0xfffffff0;
    equal(rtas("nvram-fetch", 3, 2, fetch, rets), (u32)-3, "nvram-fetch to nowhere");
    u32 parameter[3] = {20, (u32)(u64)back_text, 8};
    equal(rtas("ibm,get-system-parameter", 3, 1, parameter, rets), 0, "ibm,get-system-parameter");
    check(back_text[2] == 'M', "SPLPAR characteristics");
    parameter[0] = 9999;
    equal(rtas("ibm,get-system-parameter", 3, 1, parameter, rets), (u32)-3, "ibm,get-system-parameter of no parameter");
    equal(rtas("ibm,set-system-parameter", 2, 1, parameter, rets), (u32)-3, "ibm,set-system-parameter of no parameter");
    parameter[0] = 20;
    equal(rtas("ibm,set-system-parameter", 2, 1, parameter, rets), (u32)-9002, "ibm,set-system-parameter");
    u32 source[3] = {cell("vty", "interrupts", 0), 0, 5};
    equal(rtas("ibm,set-xive", 3, 1, source, rets), 0, "ibm,set-xive");
    equal(rtas("ibm,get-xive", 1, 3, source, rets), 0, "ibm,get-xive");
    check(rets[0] == 0 && rets[1] == 5, "server and priority");
    equal(rtas("ibm,int-off", 1, 1, source, rets), 0, "ibm,int-off");
    rtas("ibm,get-xive", 1, 3, source, rets);
    equal(rets[1], 0xff, "masked");
    equal(rtas("ibm,int-on", 1, 1, source, rets), 0, "ibm,int-on");
    rtas("ibm,get-xive", 1, 3, source, rets);
    equal(rets[1], 5, "its priority is back");
    source[0] = 0x00ffffff;
    equal(rtas("ibm,set-xive", 3, 1, source, rets), (u32)-3, "ibm,set-xive of no source");
    u32 config[4] = {31 << 11, 0, 0, 4};
    equal(rtas("read-pci-config", 2, 2, (u32[]){31 << 11, 4}, rets), 0, "read-pci-config of an empty slot");
    equal(rets[0], 0xffffffff, "all ones");
    equal(rtas("ibm,read-pci-config", 4, 2, config, rets), (u32)-3, "ibm,read-pci-config of no bridge");
    for (const char *c = "one by one\n"; *c; c++) {
        u32 character = *c;
        equal(rtas("display-character", 1, 1, &character, rets), 0, "display-character");
    }
    u64 nowhere[9] = {1ul << 40};
    equal(hypercall(0xf000, nowhere), H_PARAMETER, "RTAS with a buffer outside memory");
}

void program(void)
{
    terminal();
    presentation();
    processor();
    areas();
    windows();
    runtime();
}

void secondary_main(u64 cpu) { (void)cpu; }
