/* Calls of the system that fail, or in which the process dies, on request: loaded before the C library (LD_PRELOAD).

   Calls on paths below one folder are counted, by kind; of one kind, from the `first`-th on, `times` of them fail with an errno, or the
   process kills itself before, halfway through or after the call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN, WRITE, FSYNC, RENAME, MKDIR, UNLINK, LOCK, KINDS, NONE = -1 };
enum { BEFORE = -1, HALFWAY = -2, AFTER = -3 };

static int kind = NONE, how;
static long first, times;
static char below[PATH_MAX];
static atomic_long seen[KINDS];

void fault_arm(int kind_, long first_, long times_, int how_, const char *below_) {
    kind = NONE;
    snprintf(below, sizeof below, "%s", below_);
    for (int i = 0; i < KINDS; i++) atomic_store(&seen[i], 0);
    first = first_, times = times_, how = how_;
    kind = kind_;
}

/* How many calls of a kind there were since faults were armed. */
long fault_seen(int kind_) { return atomic_load(&seen[kind_]); }

static void die(void) { kill(getpid(), SIGKILL); }

/* The errno to fail with, 0 to go on, or when to die. */
static int fate(int call, const char *path) {
    if (kind == NONE || !path || strncmp(path, below, strlen(below))) return 0;
    long number = atomic_fetch_add(&seen[call], 1) + 1;
    if (call != kind || number < first || number >= first + times) return 0;
    if (how == BEFORE) die();
    return how;
}

static int fate_of(int call, int handle) {
    if (kind == NONE) return 0;
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fate(call, path);
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define PASS(decided, call)                       \
    do {                                          \
        int decided_ = decided;                   \
        if (decided_ > 0) return errno = decided_, -1; \
        __typeof__(call) answer_ = call;          \
        if (decided_ == HALFWAY || decided_ == AFTER) die(); \
        return answer_;                           \
    } while (0)

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE REAL(open); PASS(fate(OPEN, path), real(path, flags, mode)); }
int open64(const char *path, int flags, ...) { MODE REAL(open64); PASS(fate(OPEN, path), real(path, flags, mode)); }
int openat(int at, const char *path, int flags, ...) { MODE REAL(openat); PASS(fate(OPEN, path), real(at, path, flags, mode)); }
int openat64(int at, const char *path, int flags, ...) { MODE REAL(openat64); PASS(fate(OPEN, path), real(at, path, flags, mode)); }

ssize_t write(int handle, const void *from, size_t size) {
    REAL(write);
    int decided = fate_of(WRITE, handle);
    if (decided > 0) return errno = decided, -1;
    if (decided == HALFWAY) real(handle, from, size / 2), die();
    ssize_t written = real(handle, from, size);
    if (decided == AFTER) die();
    return written;
}

int fsync(int handle) { REAL(fsync); PASS(fate_of(FSYNC, handle), real(handle)); }
int fdatasync(int handle) { REAL(fdatasync); PASS(fate_of(FSYNC, handle), real(handle)); }
int rename(const char *from, const char *to) { REAL(rename); PASS(fate(RENAME, to), real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); PASS(fate(RENAME, to), real(a, from, b, to)); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); PASS(fate(MKDIR, path), real(path, mode)); }
int mkdirat(int at, const char *path, mode_t mode) { REAL(mkdirat); PASS(fate(MKDIR, path), real(at, path, mode)); }
int unlink(const char *path) { REAL(unlink); PASS(fate(UNLINK, path), real(path)); }
int unlinkat(int at, const char *path, int flags) { REAL(unlinkat); PASS(fate(UNLINK, path), real(at, path, flags)); }
int flock(int handle, int operation) { REAL(flock); PASS(fate_of(LOCK, handle), real(handle, operation)); }
