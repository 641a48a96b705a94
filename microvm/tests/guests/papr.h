/* What the programs share: the machine's calls, its tree, and a list of checks that is printed. */
#pragma once

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

struct frame {
    u64 gpr[32];
    u64 lr, ctr, cr, xer, srr0, srr1, vector;
};

/* start.S */
long hypercall(u64 token, u64 *args);
void enter_rtas(u32 *buffer, u64 entry);
u64 load_through(u64 ea);
void store_through(u64 ea, u64 value);
u64 call_through(u64 ea);
extern char secondary[], back[], stacks[];

/* papr.c */
extern const u8 *tree;
long hcall(u64 token, u64 a, u64 b, u64 c, u64 d);
u64 out(int index);
void print(const char *text);
void print_hex(u64 value);
void check(int good, const char *what);
void equal(u64 is, u64 wanted, const char *what);
const u8 *property(const char *node, const char *name, u32 *length);
u32 cell(const char *node, const char *name, int index);
u32 rtas(const char *name, int nargs, int nrets, const u32 *args, u32 *rets);
u32 rtas_token(u32 token, int nargs, int nrets, const u32 *args, u32 *rets);
extern void (*on_interrupt)(struct frame *);
u32 be32(u32 value);

/* Each program. */
void program(void);
void secondary_main(u64 cpu);

#define H_SUCCESS 0
#define H_FUNCTION (u64)-2
#define H_PARAMETER (u64)-4

#define mfspr(number) ({ u64 v_; __asm__ volatile("mfspr %0," #number : "=r"(v_)); v_; })
#define mtspr(number, value) __asm__ volatile("mtspr " #number ",%0" : : "r"((u64)(value)) : "memory")
#define mfmsr() ({ u64 v_; __asm__ volatile("mfmsr %0" : "=r"(v_)); v_; })
#define mtmsr(value) __asm__ volatile("mtmsrd %0" : : "r"((u64)(value)) : "memory")
#define MSR_EE 0x8000ul
