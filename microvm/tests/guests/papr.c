#include "papr.h"

const u8 *tree;
void (*on_interrupt)(struct frame *);
static u64 outputs[9];
static int checks, failures;

#ifdef __LITTLE_ENDIAN__
u32 be32(u32 value) { return __builtin_bswap32(value); }
static u64 be64(u64 value) { return __builtin_bswap64(value); }
#else
u32 be32(u32 value) { return value; }
static u64 be64(u64 value) { return value; }
#endif

/* The boot CPU's calls; others use hypercall() with arguments of their own. */
long hcall(u64 token, u64 a, u64 b, u64 c, u64 d)
{
    outputs[0] = a, outputs[1] = b, outputs[2] = c, outputs[3] = d;
    for (int i = 4; i < 9; i++)
        outputs[i] = 0;
    return hypercall(token, outputs);
}

u64 out(int index) { return outputs[index]; }

void *memcpy(void *to, const void *from, u64 length)
{
    for (u64 i = 0; i < length; i++)
        ((u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

void *memset(void *to, int value, u64 length)
{
    for (u64 i = 0; i < length; i++)
        ((u8 *)to)[i] = value;
    return to;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

void print(const char *text)
{
    while (*text) {
        u64 args[9] = {0};
        u8 bytes[16] = {0};
        int length = 0;
        while (length < 16 && text[length]) {
            bytes[length] = text[length];
            length++;
        }
        args[1] = length;
        memcpy(&args[2], bytes, 16);
        args[2] = be64(args[2]), args[3] = be64(args[3]);
        u64 again[4] = {args[0], args[1], args[2], args[3]};
        while (hypercall(0x58, args) == 1)
            memcpy(args, again, sizeof again);
        text += length;
    }
}

void print_hex(u64 value)
{
    char text[17] = {0};
    for (int i = 0; i < 16; i++)
        text[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
    print(text);
}

void check(int good, const char *what)
{
    checks++;
    if (good)
        return;
    failures++;
    print("FAIL ");
    print(what);
    print("\n");
}

void equal(u64 is, u64 wanted, const char *what)
{
    check(is == wanted, what);
    if (is == wanted)
        return;
    print("  is ");
    print_hex(is);
    print(" wanted ");
    print_hex(wanted);
    print("\n");
}

static u32 word(const u8 *at) { return (u32)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

/* The property of the first node whose name, up to an @, is `node`; "" is the root. */
const u8 *property(const char *node, const char *name, u32 *length)
{
    const u8 *at = tree + word(tree + 8);
    const char *strings = (const char *)tree + word(tree + 12);
    int inside = 0;
    for (;;) {
        u32 token = word(at);
        at += 4;
        if (token == 1) {
            const char *is = (const char *)at;
            u32 size = 0;
            int matches = 1;
            for (; is[size]; size++)
                if (is[size] == '@')
                    break;
                else if (matches && is[size] != node[size])
                    matches = 0;
            inside = matches && !node[size];
            while (is[size])
                size++;
            at += (size + 4) & ~3u;
        } else if (token == 2) {
            inside = 0;
        } else if (token == 3) {
            u32 size = word(at);
            if (inside && same(strings + word(at + 4), name)) {
                if (length)
                    *length = size;
                return at + 8;
            }
            at += 8 + ((size + 3) & ~3u);
        } else if (token != 4) {
            return 0;
        }
    }
}

u32 cell(const char *node, const char *name, int index)
{
    const u8 *value = property(node, name, 0);
    if (!value) {
        print("FAIL the tree has no ");
        print(name);
        print("\n");
        failures++;
        return 0;
    }
    return word(value + 4 * index);
}

u32 rtas_token(u32 token, int nargs, int nrets, const u32 *args, u32 *rets)
{
    static u32 buffer[40];
    u32 *at = buffer;
    *at++ = be32(token);
    *at++ = be32(nargs);
    *at++ = be32(nrets);
    for (int i = 0; i < nargs; i++)
        *at++ = be32(args[i]);
    for (int i = 0; i < nrets; i++)
        at[i] = be32(0x5555);
    enter_rtas(buffer, cell("rtas", "linux,rtas-entry", 0));
    for (int i = 1; i < nrets; i++)
        rets[i - 1] = be32(((volatile u32 *)at)[i]);
    return be32(((volatile u32 *)at)[0]);
}

u32 rtas(const char *name, int nargs, int nrets, const u32 *args, u32 *rets)
{
    return rtas_token(cell("rtas", name, 0), nargs, nrets, args, rets);
}

void interrupt(struct frame *frame)
{
    if (on_interrupt) {
        on_interrupt(frame);
        return;
    }
    print("FAIL unexpected interrupt ");
    print_hex(frame->vector);
    print(" at ");
    print_hex(frame->srr0);
    print("\n");
    static const char text[] = "unexpected interrupt";
    u32 args[1] = {(u32)(u64)text};
    rtas("ibm,os-term", 1, 1, args, 0);
}

void boot(const u8 *fdt)
{
    tree = fdt;
    check(word(tree) == 0xd00dfeed, "r3 holds the tree");
    program();
    print(failures || checks < 2 ? "failed\n" : "passed\n");
    u32 args[2] = {0, 0};
    rtas("power-off", 2, 1, args, 0);
    for (;;)
        ;
}
