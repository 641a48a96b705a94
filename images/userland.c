// SPDX-License-Identifier: Apache-2.0
// PID 1 of the boot benchmark: says that userland is reached, and powers the machine off.

#include <sys/reboot.h>
#include <unistd.h>

int main(void) {
    static const char reached[] = "userland reached\n";
    if (write(1, reached, sizeof reached - 1) < 0) {
        return 1;
    }
    reboot(RB_POWER_OFF);
    return 1;
}
