/* Entry, interrupt vectors, and the calls that C cannot make. Real mode throughout, either byte order. */

#define SPRG0 272
#define SPRG1 273
#define SPRG2 274
#define SPRG3 275
#define FRAME 320           /* bytes of struct frame, rounded up */
#define STACK 0x4000        /* bytes of each CPU's stack, interrupt stack below its frame included */
#define CPUS 8

#ifdef __LITTLE_ENDIAN__
/* An instruction for big-endian mode, whatever this file is assembled for. */
#define BIG(x) .long (((x) & 0xff) << 24) | (((x) & 0xff00) << 8) | (((x) >> 8) & 0xff00) | (((x) >> 24) & 0xff)
#else
#define BIG(x) .long (x)
#endif

.macro load64 reg, value
    lis     \reg, \value@highest
    ori     \reg, \reg, \value@higher
    sldi    \reg, \reg, 32
    oris    \reg, \reg, \value@h
    ori     \reg, \reg, \value@l
.endm

    .section .vectors, "ax"
.macro vector at
    .org    \at
    mtspr   SPRG1, 3
    li      3, \at
    b       exception
.endm
    vector  0x100
    vector  0x200
    vector  0x300
    vector  0x380
    vector  0x400
    vector  0x480
    vector  0x500
    vector  0x600
    vector  0x700
    vector  0x800
    vector  0x900
    vector  0xa00
    vector  0xc00
    vector  0xd00
    vector  0xf20
    vector  0xf40
    vector  0xf60

/* Saves everything in this CPU's frame (SPRG3) and calls interrupt(frame) on the stack below it. */
    .org    0x1000
exception:
    mtspr   SPRG2, 1
    mfspr   1, SPRG3
    std     0, 0(1)
    std     2, 16(1)
    .irp    r, 4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    std     \r, 8*\r(1)
    .endr
    mfspr   4, SPRG2
    std     4, 8(1)
    mfspr   4, SPRG1
    std     4, 24(1)
    mflr    4
    std     4, 256(1)
    mfctr   4
    std     4, 264(1)
    mfcr    4
    std     4, 272(1)
    mfxer   4
    std     4, 280(1)
    mfsrr0  4
    std     4, 288(1)
    mfsrr1  4
    std     4, 296(1)
    std     3, 304(1)
    mr      3, 1
    addi    1, 1, -128
    load64  2, .TOC.
    bl      interrupt
    mfspr   1, SPRG3
    ld      4, 256(1)
    mtlr    4
    ld      4, 264(1)
    mtctr   4
    ld      4, 272(1)
    mtcr    4
    ld      4, 280(1)
    mtxer   4
    ld      4, 288(1)
    mtsrr0  4
    ld      4, 296(1)
    mtsrr1  4
    ld      0, 0(1)
    ld      2, 16(1)
    .irp    r, 3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ld      \r, 8*\r(1)
    .endr
    ld      1, 8(1)
    rfid

/* start-cpu enters in big-endian mode with its argument, the CPU's number, in r3. */
    .org    0x2000
    .globl  secondary
secondary:
#ifdef __LITTLE_ENDIAN__
    BIG(0x7d6000a6)         /* mfmsr r11 */
    BIG(0x616b0001)         /* ori   r11,r11,1 */
    BIG(0x39402040)         /* li    r10,0x2040 */
    BIG(0x7d5a03a6)         /* mtsrr0 r10 */
    BIG(0x7d7b03a6)         /* mtsrr1 r11 */
    BIG(0x4c000024)         /* rfid */
#else
    b       secondary + 0x40
#endif
    .org    0x2040
    load64  5, stacks
    addi    6, 3, 1
    mulli   6, 6, STACK
    add     1, 5, 6
    addi    1, 1, -FRAME
    mtspr   SPRG3, 1
    addi    1, 1, -(STACK / 2)
    load64  2, .TOC.
    bl      secondary_main
    b       .

/* Where RTAS returns to, in 32-bit big-endian mode. SPRG0 holds the caller's MSR. */
    .org    0x3000
    BIG(0x38803040)         /* li    r4,0x3040 */
    BIG(0x7c9a03a6)         /* mtsrr0 r4 */
    BIG(0x7c9042a6)         /* mfspr r4,SPRG0 */
    BIG(0x7c9b03a6)         /* mtsrr1 r4 */
    BIG(0x4c000024)         /* rfid */
    .org    0x3040
    ld      0, 16(1)
    mtlr    0
    blr

    .text
    .globl  start
start:
    /* r3: the tree. Interrupts come in this program's byte order: H_SET_MODE, resource 4. */
    mr      31, 3
#ifdef __LITTLE_ENDIAN__
    li      3, 0x31c
    li      4, 1
    li      5, 4
    li      6, 0
    li      7, 0
    sc      1
#endif
    load64  1, stacks
    addi    1, 1, STACK - FRAME
    mtspr   SPRG3, 1
    addi    1, 1, -(STACK / 2)
    load64  2, .TOC.
    mr      3, 31
    bl      boot
    b       .

/* long hypercall(u64 token, u64 args[9]): arguments are GPR 4 to 12 before and after. */
    .globl  hypercall
hypercall:
    std     31, -8(1)
    mr      31, 4
    ld      4, 0(31)
    ld      5, 8(31)
    ld      6, 16(31)
    ld      7, 24(31)
    ld      8, 32(31)
    ld      9, 40(31)
    ld      10, 48(31)
    ld      11, 56(31)
    ld      12, 64(31)
    sc      1
    std     4, 0(31)
    std     5, 8(31)
    std     6, 16(31)
    std     7, 24(31)
    std     8, 32(31)
    std     9, 40(31)
    std     10, 48(31)
    std     11, 56(31)
    std     12, 64(31)
    ld      31, -8(1)
    blr

/* void enter_rtas(u32 *buffer, u64 entry) */
    .globl  enter_rtas
enter_rtas:
    mflr    0
    std     0, 16(1)
    mfmsr   5
    mtspr   SPRG0, 5
    li      6, 0x3000
    mtlr    6
    li      6, 0x1000       /* ME */
    mtsrr0  4
    mtsrr1  6
    rfid

/* u64 load_through(u64 ea): a load with data translation on. store_through(ea, value) likewise. The
   handler for a fault continues behind the access. */
    .globl  load_through
load_through:
    mfmsr   5
    ori     6, 5, 0x10
    mtmsrd  6
    isync
    ld      3, 0(3)
    mtmsrd  5
    isync
    blr

    .globl  store_through
store_through:
    mfmsr   5
    ori     6, 5, 0x10
    mtmsrd  6
    isync
    std     4, 0(3)
    mtmsrd  5
    isync
    blr

/* u64 call_through(u64 ea): enters ea with instruction translation on; code there returns with a trap that the handler
   turns into a return to `back`. */
    .globl  call_through, back
call_through:
    mflr    0
    std     0, 16(1)
    mfmsr   5
    mtspr   SPRG0, 5
    ori     5, 5, 0x20
    mtsrr0  3
    mtsrr1  5
    li      3, -1
    rfid
back:
    ld      0, 16(1)
    mtlr    0
    blr

    .bss
    .balign 0x1000
    .globl  stacks
stacks:
    .space  STACK * CPUS
