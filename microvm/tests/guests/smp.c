/* Four CPUs, two threads a core: start, interrupts between them, H_JOIN, atomics, stop and start again. */
#include "papr.h"

#define CPUS 4
#define ROUNDS 20000

static volatile u64 up[CPUS], ipis[CPUS], joined[CPUS], stage;
static volatile u64 counter, plain;
static volatile u32 held;

static long my_hcall(u64 token, u64 a, u64 b, u64 *first)
{
    u64 args[9] = {a, b};
    long status = hypercall(token, args);
    if (first)
        *first = args[0];
    return status;
}

static u64 me(void) { return mfspr(1023) & 0xff; }

/* An external interrupt: accepts it; an IPI is cleared and counted. */
static void external(struct frame *frame)
{
    u64 xirr;
    if (frame->vector == 0x900) {
        __asm__ volatile("mtdec %0" : : "r"(0x7fffffff));
        return;
    }
    if (frame->vector != 0x500) {
        print("FAIL interrupt ");
        print_hex(frame->vector);
        print("\n");
        return;
    }
    my_hcall(0x74, 0, 0, &xirr);
    if ((xirr & 0xffffff) == 2) {
        my_hcall(0x6c, me(), 0xff, 0);
        __sync_fetch_and_add(&ipis[me()], 1);
    }
    if (xirr & 0xffffff)
        my_hcall(0x64, xirr, 0, 0);
}

static void increments(void)
{
    for (int i = 0; i < ROUNDS; i++)
        __sync_fetch_and_add(&counter, 1);
    /* A lock of lwarx and stwcx. around a plain counter. */
    for (int i = 0; i < ROUNDS / 20; i++) {
        while (__sync_lock_test_and_set(&held, 1))
            my_hcall(0xe4, -1, 0, 0);
        plain++;
        __sync_lock_release(&held);
    }
}

void secondary_main(u64 cpu)
{
    on_interrupt = external;
    my_hcall(0x68, 0xff, 0, 0);
    up[cpu] = me() == cpu ? up[cpu] + 1 : 99;
    if (up[cpu] == 1) {
        increments();
        /* Sleeps until the interrupt that the boot CPU sends. */
        while (!ipis[cpu])
            my_hcall(0xe0, 0, 0, 0);
        mtmsr(mfmsr() & ~MSR_EE);
        __sync_fetch_and_add(&stage, 1);
        joined[cpu] = my_hcall(0x298, 0, 0, 0) == 0 ? 1 : 99;
        __sync_fetch_and_add(&stage, 1);
    }
    static u32 buffers[CPUS][4];
    u32 *buffer = buffers[cpu];
    buffer[0] = be32(cell("rtas", "stop-self", 0)), buffer[1] = 0, buffer[2] = be32(1);
    u64 args[9] = {(u64)buffer};
    hypercall(0xf000, args);
    print("FAIL a stopped CPU goes on\n");
}

static void start(u32 cpu, u32 wanted, const char *what)
{
    u32 args[3] = {cpu, (u32)(u64)secondary, cpu};
    equal(rtas("start-cpu", 3, 1, args, 0), wanted, what);
}

static u32 state(u32 cpu)
{
    u32 rets[1] = {7};
    rtas("query-cpu-stopped-state", 1, 2, &cpu, rets);
    return rets[0];
}

void program(void)
{
    on_interrupt = external;
    equal(cell("PowerPC,POWER9", "ibm,ppc-interrupt-server#s", 1), 1, "two threads in a core");
    equal(cell("interrupt-controller", "ibm,interrupt-server-ranges", 1), CPUS, "servers");
    for (u32 cpu = 1; cpu < CPUS; cpu++)
        equal(state(cpu), 0, "stopped at first");
    for (u32 cpu = 1; cpu < CPUS; cpu++) {
        start(cpu, 0, "start-cpu");
        start(cpu, (u32)-1, "start-cpu of a running CPU");
    }
    increments();
    while (!up[1] || !up[2] || !up[3] || counter < CPUS * ROUNDS || plain < CPUS * (ROUNDS / 20))
        my_hcall(0xe4, -1, 0, 0);
    equal(counter, CPUS * ROUNDS, "atomic increments");
    equal(plain, CPUS * (ROUNDS / 20), "increments under a lock");
    for (u32 cpu = 1; cpu < CPUS; cpu++) {
        equal(up[cpu], 1, "r3 and PIR are the CPU's number");
        equal(state(cpu), 2, "running");
        equal(hcall(0x6c, cpu, 4, 0, 0), 0, "H_IPI");
    }
    while (stage < CPUS - 1)
        my_hcall(0xe4, -1, 0, 0);
    for (u32 cpu = 1; cpu < CPUS; cpu++)
        equal(ipis[cpu], 1, "one IPI each");
    /* The others join one after the other; the last one awake, this CPU, goes on. */
    long status;
    while ((status = hcall(0x298, 0, 0, 0, 0)) == 0)
        ;
    equal(status, 18, "H_JOIN of the last CPU");
    for (u32 cpu = 1; cpu < CPUS; cpu++) {
        equal(joined[cpu], 0, "asleep in H_JOIN");
        equal(hcall(0xe8, cpu, 0, 0, 0), 0, "H_PROD");
    }
    while (stage < 2 * (CPUS - 1))
        my_hcall(0xe4, -1, 0, 0);
    for (u32 cpu = 1; cpu < CPUS; cpu++) {
        equal(joined[cpu], 1, "H_JOIN returned success");
        while (state(cpu) != 0)
            my_hcall(0xe4, -1, 0, 0);
        start(cpu, 0, "start-cpu again");
        while (up[cpu] != 2 || state(cpu) != 0)
            my_hcall(0xe4, -1, 0, 0);
    }
}
