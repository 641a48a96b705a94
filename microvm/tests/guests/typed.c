/* Counts the characters of a line that is typed. */
#include "papr.h"

void program(void)
{
    u64 vty = cell("vty", "reg", 0), count = 0;
    for (;;) {
        u64 args[9] = {vty};
        if (hypercall(0x54, args)) {
            check(0, "H_GET_TERM_CHAR");
            return;
        }
        for (u64 i = 0; i < args[0]; i++) {
            u8 character = args[1 + i / 8] >> (56 - 8 * (i % 8));
            if (character == '\n') {
                print_hex(count);
                print("\n");
                check(args[0] == i + 1, "nothing behind the line");
                return;
            }
            count += character == 'x';
        }
    }
}

void secondary_main(u64 cpu) { (void)cpu; }
