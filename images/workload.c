// SPDX-License-Identifier: Apache-2.0
// PID 1 of the CPU benchmark: runs the part named on the kernel's command line (after `--`), prints a digest of what it computed,
// and powers the machine off. The digest does not depend on the machine, so two engines that disagree are found out.

#include <altivec.h>
#undef vector
#undef bool
#undef pixel
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef __vector unsigned char bytes16;
typedef __vector unsigned int words4;
typedef __vector unsigned long long doublewords2;
typedef __vector float floats4;
typedef __vector double doubles2;

static uint64_t digest = 0xcbf29ce484222325;

static void mix(uint64_t value) {
    digest = (digest ^ value) * 0x100000001b3;
    digest ^= digest >> 29;
}

static void mix_double(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    mix(bits);
}

static uint64_t seed = 1;

// xorshift64*
static uint64_t next(void) {
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545f4914f6cdd1d;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *room(size_t bytes) {
    void *memory = aligned_alloc(65536, (bytes + 65535) & ~(size_t)65535);
    if (memory == NULL) {
        die("memory");
    }
    return memory;
}

// ---- integer ---------------------------------------------------------------------------------------------------------------------

static const uint32_t sha_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t value, int by) {
    return value >> by | value << (32 - by);
}

static void sha256_block(uint32_t state[8], const uint8_t block[64]) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++) {
        uint32_t word;
        memcpy(&word, block + 4 * i, 4);
        w[i] = __builtin_bswap32(word);
    }
    for (int i = 16; i < 64; i++) {
        uint32_t low = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t high = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t sum1 = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
        uint32_t one = s[7] + sum1 + ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_constants[i] + w[i];
        uint32_t sum0 = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
        uint32_t two = sum0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + one;
        s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) {
        state[i] += s[i];
    }
}

static void crc_and_sha(const uint8_t *data, size_t length) {
    uint32_t table[256], crc = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) {
            value = value & 1 ? value >> 1 ^ 0xedb88320 : value >> 1;
        }
        table[i] = value;
    }
    for (size_t i = 0; i < length; i++) {
        crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
    }
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (size_t i = 0; i + 64 <= length; i += 64) {
        sha256_block(state, data + i);
    }
    mix(crc);
    mix((uint64_t)state[0] << 32 | state[7]);
}

static void sort(uint64_t *values, long first, long last) {
    while (first < last) {
        uint64_t pivot = values[(first + last) / 2];
        long low = first, high = last;
        while (low <= high) {
            while (values[low] < pivot) {
                low++;
            }
            while (values[high] > pivot) {
                high--;
            }
            if (low <= high) {
                uint64_t kept = values[low];
                values[low++] = values[high];
                values[high--] = kept;
            }
        }
        sort(values, first, high);
        first = low;
    }
}

// Open addressing, 2^14 slots, half full.
static void hash_table(int rounds) {
    enum { SLOTS = 1 << 14 };
    static uint64_t keys[SLOTS], counts[SLOTS];
    for (int round = 0; round < rounds; round++) {
        memset(keys, 0, sizeof keys);
        memset(counts, 0, sizeof counts);
        for (int i = 0; i < SLOTS * 2; i++) {
            uint64_t key = next() % (SLOTS / 2) + 1;
            uint64_t slot = key * 0x9e3779b97f4a7c15 >> 50;
            while (keys[slot] != 0 && keys[slot] != key) {
                slot = (slot + 1) % SLOTS;
            }
            keys[slot] = key;
            counts[slot] += i;
        }
        uint64_t sum = 0;
        for (int i = 0; i < SLOTS; i++) {
            sum += keys[i] ^ counts[i];
        }
        mix(sum);
    }
}

// A stack machine that sums the divisors of `limit`: an indirect branch per operation.
static void interpreter(long limit) {
    enum { PUSH, LOAD, STORE, ADD, MODULO, LESS, JUMP_IF, JUMP, HALT };
    enum { I, SUM, LIMIT };
    static const int8_t code[] = {
        PUSH, 1,     STORE, I,                               // 0: i = 1
        LOAD, LIMIT, LOAD,  I, LESS,   JUMP_IF, 34,          // 4: while (!(limit < i)) {
        LOAD, LIMIT, LOAD,  I, MODULO, JUMP_IF, 25,          // 11: if (limit % i == 0)
        LOAD, SUM,   LOAD,  I, ADD,    STORE,   SUM,         // 18: sum += i
        LOAD, I,     PUSH,  1, ADD,    STORE,   I, JUMP, 4,  // 25: i++ }
        HALT,                                                // 34
    };
    long stack[8], variables[] = {[LIMIT] = limit};
    int top = 0, pc = 0;
    for (;;) {
        switch (code[pc++]) {
        case PUSH:
            stack[top++] = code[pc++];
            break;
        case LOAD:
            stack[top++] = variables[code[pc++]];
            break;
        case STORE:
            variables[code[pc++]] = stack[--top];
            break;
        case ADD:
            top--, stack[top - 1] += stack[top];
            break;
        case MODULO:
            top--, stack[top - 1] %= stack[top];
            break;
        case LESS:
            top--, stack[top - 1] = stack[top - 1] < stack[top];
            break;
        case JUMP_IF:
            pc = stack[--top] != 0 ? code[pc] : pc + 1;
            break;
        case JUMP:
            pc = code[pc];
            break;
        default:
            mix(variables[SUM]);
            return;
        }
    }
}

struct node {
    uint64_t key;
    struct node *children[2];
};

static struct node *insert(struct node *tree, uint64_t key) {
    if (tree == NULL) {
        tree = malloc(sizeof *tree);
        if (tree == NULL) {
            die("memory");
        }
        *tree = (struct node){.key = key};
    } else if (key != tree->key) {
        int side = key > tree->key;
        tree->children[side] = insert(tree->children[side], key);
    }
    return tree;
}

static uint64_t fold(const struct node *tree, int depth) {
    return tree == NULL ? 0 : fold(tree->children[0], depth + 1) + tree->key * depth + fold(tree->children[1], depth + 1);
}

static void drop(struct node *tree) {
    if (tree != NULL) {
        drop(tree->children[0]);
        drop(tree->children[1]);
        free(tree);
    }
}

static int order(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

// Numbers to text and back through the C library.
static void numbers(int count) {
    char line[96];
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) {
        int length = snprintf(line, sizeof line, "%d,%08x,%s,%lld", i, (unsigned)next(), i % 3 ? "odd" : "even", (long long)next());
        char *rest = line;
        sum += strtol(rest, &rest, 10) + strtoul(rest + 1, &rest, 16);
        char *comma = strchr(rest + 1, ',');
        sum += comma == NULL ? 0 : strtoll(comma + 1, NULL, 10) + length;
    }
    mix(sum);
}

// What programs do with integers: digests, sorting, tables, trees, calls, an interpreter's dispatch, pointers, text.
static void integer(void) {
    enum { BYTES = 1 << 17, VALUES = 1 << 15, NODES = 1 << 12 };
    uint8_t *data = room(BYTES);
    uint64_t *values = room(VALUES * sizeof *values);
    uint32_t *links = room(NODES * sizeof *links);
    for (int round = 0; round < 24; round++) {
        for (int i = 0; i < BYTES; i++) {
            data[i] = next() >> 56;
        }
        crc_and_sha(data, BYTES);
        for (int i = 0; i < VALUES; i++) {
            values[i] = next();
        }
        sort(values, 0, VALUES / 2 - 1);
        qsort(values + VALUES / 2, VALUES / 2, sizeof *values, order);
        for (int i = 0; i < VALUES; i += 1021) {
            mix(values[i]);
        }
        hash_table(2);
        struct node *tree = NULL;
        for (int i = 0; i < 6000; i++) {
            tree = insert(tree, next() >> 40);
        }
        mix(fold(tree, 1));
        drop(tree);
        numbers(3000);
        interpreter(60000 + round);
        // A random cycle through all nodes.
        for (int i = 0; i < NODES; i++) {
            links[i] = i;
        }
        for (int i = NODES - 1; i > 0; i--) {
            int j = next() % i;
            uint32_t kept = links[i];
            links[i] = links[j];
            links[j] = kept;
        }
        uint32_t at = 0;
        for (int i = 0; i < 400000; i++) {
            at = links[at];
        }
        mix(at);
    }
}

// ---- memory ----------------------------------------------------------------------------------------------------------------------

static void memory(void) {
    enum { BYTES = 16 << 20, WORDS = BYTES / 8 };
    uint64_t *from = room(BYTES), *to = room(BYTES);
    for (int i = 0; i < WORDS; i++) {
        from[i] = next();
    }
    for (int round = 0; round < 4; round++) {
        memset(to, round, BYTES);
        memcpy(to, from, BYTES);
        memmove((char *)to + 24, to, BYTES - 24);
        uint64_t sum = 0;
        for (int i = 0; i < WORDS; i++) {
            sum += to[i];
        }
        // A line per step, each in another page than the one before.
        for (int line = 0; line < 512; line++) {
            for (int page = 0; page < BYTES / 65536; page++) {
                sum ^= to[page * 8192 + line * 16]++;
            }
        }
        // Single words anywhere.
        uint64_t at = round;
        for (int i = 0; i < 1000000; i++) {
            at = (at * 6364136223846793005 + 1442695040888963407) ^ from[at >> 43];
            to[at >> 43] += i;
        }
        mix(sum ^ at);
        // Byte by byte with what a compiler makes of it.
        const uint8_t *bytes = (const uint8_t *)to;
        uint32_t low = 1, high = 0;
        for (int i = 0; i < BYTES / 8; i++) {
            low += bytes[i];
            high ^= low;
        }
        mix(high);
        mix(memcmp(to, from, BYTES) < 0);
        ((char *)to)[BYTES - 1] = 0;
        memset(to, 'x', BYTES - 1);
        mix(strlen((char *)to));
    }
}

// ---- floating point --------------------------------------------------------------------------------------------------------------

struct body {
    double at[3], speed[3], mass;
};

static void bodies(int steps) {
    enum { COUNT = 5 };
    struct body system[COUNT];
    for (int i = 0; i < COUNT; i++) {
        for (int axis = 0; axis < 3; axis++) {
            system[i].at[axis] = (double)(next() >> 44) / 65536 - 8;
            system[i].speed[axis] = (double)(next() >> 48) / 65536 - 0.5;
        }
        system[i].mass = 1.0 + i * 0.25;
    }
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < COUNT; i++) {
            for (int j = i + 1; j < COUNT; j++) {
                double d[3], square = 0.01;
                for (int axis = 0; axis < 3; axis++) {
                    d[axis] = system[i].at[axis] - system[j].at[axis];
                    square += d[axis] * d[axis];
                }
                double pull = 0.001 / (square * sqrt(square));
                for (int axis = 0; axis < 3; axis++) {
                    system[i].speed[axis] -= d[axis] * system[j].mass * pull;
                    system[j].speed[axis] += d[axis] * system[i].mass * pull;
                }
            }
        }
        for (int i = 0; i < COUNT; i++) {
            for (int axis = 0; axis < 3; axis++) {
                system[i].at[axis] += 0.001 * system[i].speed[axis];
            }
        }
    }
    mix_double(system[0].at[0] + system[4].at[2]);
}

static void mandelbrot(int width, int limit) {
    long inside = 0;
    for (int row = 0; row < width; row++) {
        for (int column = 0; column < width; column++) {
            double a = 3.0 * column / width - 2.0, b = 2.0 * row / width - 1.0, x = 0, y = 0;
            int i = 0;
            while (i < limit && x * x + y * y < 4.0) {
                double kept = x * x - y * y + a;
                y = 2 * x * y + b;
                x = kept;
                i++;
            }
            inside += i;
        }
    }
    mix(inside);
}

static void product(int size) {
    double *a = room(size * size * sizeof *a), *b = room(size * size * sizeof *b), *c = room(size * size * sizeof *c);
    for (int i = 0; i < size * size; i++) {
        a[i] = (double)(next() >> 40) / 4096;
        b[i] = (double)(next() >> 40) / 4096;
    }
    for (int i = 0; i < size; i++) {
        for (int j = 0; j < size; j++) {
            double sum = 0;
            for (int k = 0; k < size; k++) {
                sum += a[i * size + k] * b[k * size + j];
            }
            c[i * size + j] = sum;
        }
    }
    double trace = 0;
    for (int i = 0; i < size; i++) {
        trace += c[i * size + i];
    }
    mix_double(trace);
    free(a), free(b), free(c);
}

static void series(int count) {
    float single = 0;
    double sine = 0;
    long whole = 0;
    for (int i = 1; i <= count; i++) {
        single += 1.0f / (float)i;
        sine += sin((double)i * 0.37) * exp(-(double)(i % 17));
        whole += (long)(sine * 1000.0) + (long)floorf(single);
    }
    mix_double(single);
    mix_double(sine);
    mix(whole);
}

static void floating(void) {
    for (int round = 0; round < 4; round++) {
        bodies(12000);
        mandelbrot(160, 200);
        product(96);
        series(60000);
    }
}

// ---- vectors ---------------------------------------------------------------------------------------------------------------------

static words4 turn(words4 value, unsigned by) {
    return vec_rl(value, vec_splats(by));
}

#define QUARTER(a, b, c, d)                                                                                                          \
    (a = vec_add(a, b), d = turn(vec_xor(d, a), 16), c = vec_add(c, d), b = turn(vec_xor(b, c), 12), a = vec_add(a, b),              \
     d = turn(vec_xor(d, a), 8), c = vec_add(c, d), b = turn(vec_xor(b, c), 7))

static void chacha(int blocks) {
    words4 sum = vec_splats(0u), a0 = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    words4 b0 = {1, 2, 3, 4}, c0 = {5, 6, 7, 8};
    for (int block = 0; block < blocks; block++) {
        words4 a = a0, b = b0, c = c0, d = {(unsigned)block, 0, 9, 10};
        for (int round = 0; round < 10; round++) {
            QUARTER(a, b, c, d);
            b = vec_sld(b, b, 4), c = vec_sld(c, c, 8), d = vec_sld(d, d, 12);
            QUARTER(a, b, c, d);
            b = vec_sld(b, b, 12), c = vec_sld(c, c, 8), d = vec_sld(d, d, 4);
        }
        sum = vec_xor(sum, vec_add(vec_add(a, b), vec_add(c, d)));
    }
    for (int i = 0; i < 4; i++) {
        mix(sum[i]);
    }
}

static void aes(int blocks) {
    doublewords2 state = {0x0011223344556677, 0x8899aabbccddeeff}, key = {0x0001020304050607, 0x08090a0b0c0d0e0f};
    for (int block = 0; block < blocks; block++) {
        for (int round = 0; round < 9; round++) {
            state = __builtin_crypto_vcipher(state, key);
        }
        state = __builtin_crypto_vcipherlast(state, key);
    }
    mix(state[0] ^ state[1]);
}

static void text(int rounds) {
    enum { BYTES = 1 << 16 };
    bytes16 *data = room(BYTES);
    for (int i = 0; i < BYTES; i++) {
        ((uint8_t *)data)[i] = next() >> 57;
    }
    const bytes16 low = vec_splats((unsigned char)'a'), high = vec_splats((unsigned char)'z');
    const bytes16 reverse = {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    for (int round = 0; round < rounds; round++) {
        words4 letters = vec_splats(0u);
        for (int i = 0; i < BYTES / 16; i++) {
            bytes16 here = data[i];
            bytes16 is_letter = (bytes16)vec_and(vec_cmpgt(here, low), vec_cmpgt(high, here));
            bytes16 upper = vec_sub(here, vec_and(is_letter, vec_splats((unsigned char)32)));
            letters = vec_sum4s(vec_and(is_letter, vec_splats((unsigned char)1)), letters);
            data[i] = vec_perm(vec_sel(here, upper, is_letter), here, reverse);
        }
        mix(letters[0] + letters[1] + letters[2] + letters[3]);
    }
    free(data);
}

static void lines(int rounds) {
    enum { COUNT = 1 << 12 };
    floats4 *x = room(COUNT * sizeof *x), *y = room(COUNT * sizeof *y);
    doubles2 total = {0, 0};
    for (int i = 0; i < COUNT; i++) {
        float value = (float)(next() >> 50);
        x[i] = vec_splats(value / 16384);
        y[i] = vec_splats(1 - value / 16384);
    }
    for (int round = 0; round < rounds; round++) {
        floats4 factor = vec_splats(0.5f + round * 0.001f), sum = vec_splats(0.0f);
        for (int i = 0; i < COUNT; i++) {
            y[i] = vec_madd(x[i], factor, vec_mul(y[i], vec_splats(0.75f)));
            sum = vec_max(sum, vec_add(sum, y[i]));
        }
        doubles2 pair = {sum[0], sum[3]};
        total = vec_add(total, vec_mul(pair, vec_splats(0.125)));
    }
    mix_double(total[0]);
    mix_double(total[1]);
    free(x), free(y);
}

static void vectors(void) {
    for (int round = 0; round < 8; round++) {
        chacha(30000);
        aes(100000);
        text(60);
        lines(80);
    }
}

// ---- system calls ----------------------------------------------------------------------------------------------------------------

static volatile sig_atomic_t signals;

static void handle(int number) {
    (void)number;
    signals++;
}

static void calls(void) {
    int ends[2], null = open("/dev/null", O_RDWR);
    char line[64] = "a line of text";
    struct sigaction action = {.sa_handler = handle};
    if (pipe(ends) < 0 || null < 0 || sigaction(SIGUSR1, &action, NULL) < 0) {
        die("set-up");
    }
    long bytes = 0, last = 0;
    for (int round = 0; round < 40000; round++) {
        for (int i = 0; i < 5; i++) {
            last = syscall(SYS_getppid);
        }
        bytes += write(ends[1], line, sizeof line);
        bytes += read(ends[0], line, sizeof line);
        bytes += write(null, line, sizeof line);
        if (round % 8 == 0) {
            struct stat status;
            int file = open("/init", O_RDONLY);
            if (file < 0 || fstat(file, &status) < 0) {
                die("/init");
            }
            bytes += pread(file, line, sizeof line, round % 4096);
            close(file);
            kill(getpid(), SIGUSR1);
        }
    }
    mix(bytes);
    mix(last);
    mix(signals);
}

// ---- processes -------------------------------------------------------------------------------------------------------------------

static void processes(void) {
    enum { PAGES = 24, PAGE = 65536 };
    uint8_t *data = room(PAGES * PAGE);
    memset(data, 1, PAGES * PAGE);
    for (int round = 0; round < 500; round++) {
        pid_t child = fork();
        if (child < 0) {
            die("fork");
        }
        if (child == 0) {
            // Pages that are shared until now.
            for (int page = 0; page < PAGES / 4; page++) {
                data[page * PAGE] += round;
            }
            if (round % 4 == 0) {
                execl("/init", "/init", "child", (char *)NULL);
            }
            _exit(data[0] & 0x7f);
        }
        int status;
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) {
            die("wait");
        }
        mix(WEXITSTATUS(status));
    }
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"int", integer}, {"mem", memory}, {"fp", floating}, {"vec", vectors}, {"sys", calls}, {"fork", processes}};
    const char *part = count > 1 ? arguments[1] : "none";
    if (strcmp(part, "child") == 0) {
        return 42;
    }
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(part, parts[i].name) == 0) {
            parts[i].run();
        }
    }
    printf("part %s digest %016llx\n", part, (unsigned long long)digest);
    fflush(stdout);
    if (getpid() == 1) {
        reboot(RB_POWER_OFF);
    }
    return 0;
}
