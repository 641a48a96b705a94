// SPDX-License-Identifier: Apache-2.0
// The program of the `pause` image: waits for the end of its pod and collects orphaned processes.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal_number) { _exit(signal_number == SIGINT || signal_number == SIGTERM ? 0 : 1); }

static void collect(int signal_number) {
    (void)signal_number;
    while (waitpid(-1, 0, WNOHANG) > 0) {
    }
}

int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, collect);
    for (;;) {
        pause();
    }
}
