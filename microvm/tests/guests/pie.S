/* Position-independent, no C, big- or little-endian: says where it runs and powers off with the token from its own code. */
#define H_PUT_TERM_CHAR 0x58
    .text
    .globl  start
start:
    mr      31, 3
    bcl     20, 31, 1f
1:  mflr    30
    addi    30, 30, -8          /* this program's first instruction */
    /* The top half of the address, 0 to 9, as a digit: 0x40000 gives 4. */
    srdi    7, 30, 16
    addi    7, 7, 0x30
    sldi    6, 7, 56
    li      7, 0
    li      3, H_PUT_TERM_CHAR
    li      4, 0
    li      5, 1
    sc      1
    /* The tree is where r3 said. */
    lwz     9, 0(31)
#ifdef __LITTLE_ENDIAN__
    lis     10, 0xedfe0dd0@h
    ori     10, 10, 0xedfe0dd0@l
#else
    lis     10, 0xd00dfeed@h
    ori     10, 10, 0xd00dfeed@l
#endif
    cmplw   9, 10
    bne     2f
    li      3, H_PUT_TERM_CHAR
    li      4, 0
    li      5, 2
    lis     6, 0x6f6b           /* ok */
    sldi    6, 6, 32
    li      7, 0
    sc      1
    /* H_RTAS with a buffer behind the code; power-off's token comes from the test. */
    addi    4, 30, buffer - start
    li      3, 0
    ori     3, 3, 0xf000
    sc      1
2:  b       .

    .balign 8
buffer:
#ifdef __LITTLE_ENDIAN__
    .long   POWER_OFF_SWAPPED, 0x02000000, 0x01000000, 0, 0, 0
#else
    .long   POWER_OFF, 2, 1, 0, 0, 0
#endif
