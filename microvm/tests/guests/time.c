/* The time base, the decrementer, H_CEDE, and the terminal's interrupt through the XICS. */
#include "papr.h"

static volatile u64 decrements, externals, late, last_xirr;

static u64 timebase(void) { return mfspr(268); }
static void set_decrementer(u64 ticks) { mtspr(22, ticks); }

static void handler(struct frame *frame)
{
    if (frame->vector == 0x900) {
        decrements++;
        set_decrementer(0x7fffffff);
    } else if (frame->vector == 0x500) {
        u64 args[9] = {0};
        hypercall(0x74, args);
        last_xirr = args[0];
        externals++;
        args[0] = last_xirr;
        hypercall(0x64, args);
    } else {
        late++;
    }
}

void program(void)
{
    u64 hz = cell("PowerPC,POWER9", "timebase-frequency", 0);
    on_interrupt = handler;
    set_decrementer(0x7fffffff);
    equal(hz, 512000000, "timebase-frequency");
    u64 before = timebase();
    for (int i = 0; i < 1000; i++) {
        u64 now = timebase();
        check(now >= before, "the time base goes forward");
        before = now;
    }
    /* Pending while interrupts are off, taken when they are on. */
    set_decrementer(100);
    while ((long)(int)mfspr(22) >= 0)
        ;
    equal(decrements, 0, "no interrupt while MSR[EE] is off");
    mtmsr(mfmsr() | MSR_EE);
    for (int i = 0; i < 1000000 && !decrements; i++)
        timebase();
    mtmsr(mfmsr() & ~MSR_EE);
    equal(decrements, 1, "one decrementer interrupt");
    /* H_CEDE sleeps at least as long as the decrementer says, and turns interrupts on. */
    for (int i = 1; i <= 5; i++) {
        u64 ticks = hz / 1000;
        set_decrementer(ticks);
        u64 start = timebase();
        equal(hcall(0xe0, 0, 0, 0, 0), H_SUCCESS, "H_CEDE");
        check(timebase() - start >= ticks, "H_CEDE slept");
        mtmsr(mfmsr() & ~MSR_EE);
        equal(decrements, 1 + i, "woken by the decrementer");
    }
    /* Typed characters raise the terminal's source. */
    u32 source = cell("vty", "interrupts", 0);
    u32 xive[3] = {source, 0, 5};
    equal(rtas("ibm,set-xive", 3, 1, xive, 0), 0, "ibm,set-xive");
    equal(rtas("ibm,int-on", 1, 1, xive, 0), 0, "ibm,int-on");
    hcall(0x68, 0xff, 0, 0, 0);
    print("type\n");
    u64 typed = 0;
    while (!typed) {
        hcall(0xe0, 0, 0, 0, 0);
        mtmsr(mfmsr() & ~MSR_EE);
        if (externals) {
            hcall(0x54, cell("vty", "reg", 0), 0, 0, 0);
            typed = out(1) >> 56;
        }
    }
    equal(typed, 'x', "the character");
    equal(externals, 1, "one interrupt");
    equal(last_xirr & 0xffffff, source, "from the terminal's source");
    equal(late, 0, "nothing else came");
}

void secondary_main(u64 cpu) { (void)cpu; }
