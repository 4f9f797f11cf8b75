/* A disk that fails as a test says. Loaded before the C library (LD_PRELOAD), it stands between the program and the system.
 *
 * The environment names a file, REMORA_TEST_DISK, which holds one rule: KIND NUMBER GENERATION SUBSTRING. It is read at each
 * call. The rule is for files whose path contains SUBSTRING:
 *   none      all is well
 *   enospc    nothing can be written, and no file made: the disk is full
 *   space     the disk is full after NUMBER more bytes, counted anew for each GENERATION
 *   eio       nothing can be written, synced or opened for writing
 *   short     each write takes half of what it is given
 *   slow      each call takes NUMBER milliseconds
 *   block     no call returns until there is another rule
 *   fsync     nothing can be synced
 *   trace     what is done is noted in REMORA_TEST_DISK.trace, a line a call
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct rule {
  char kind[16];
  long number, generation;
  char substring[512];
};

enum call { WRITE, SYNC, OPEN, UNLINK };
static const char *const NAMES[] = {"write", "sync", "open", "unlink"};

/* Bytes that were written under a rule of kind `space`, and its generation. */
static atomic_long written, counted;

static long raw_open(const char *path, int flags) { return syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600); }

static int read_rule(struct rule *rule) {
  const char *control = getenv("REMORA_TEST_DISK");
  if (!control) return 0;
  long fd = raw_open(control, O_RDONLY);
  if (fd < 0) return 0;
  char text[640];
  long length = syscall(SYS_read, fd, text, sizeof text - 1);
  syscall(SYS_close, fd);
  if (length <= 0) return 0;
  text[length] = 0;
  return sscanf(text, "%15s %ld %ld %511s", rule->kind, &rule->number, &rule->generation, rule->substring) == 4;
}

static void pause_for(long milliseconds) {
  struct timespec span = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  nanosleep(&span, NULL);
}

static void trace(enum call call, const char *path) {
  char name[640], line[1200];
  snprintf(name, sizeof name, "%s.trace", getenv("REMORA_TEST_DISK"));
  int length = snprintf(line, sizeof line, "%s %s\n", NAMES[call], path);
  long fd = raw_open(name, O_WRONLY | O_CREAT | O_APPEND);
  if (fd < 0) return;
  syscall(SYS_write, fd, line, length);
  syscall(SYS_close, fd);
}

/* What becomes of a call: how many of `size` bytes may be written, or a negative errno. */
static long judge(enum call call, const char *path, long size) {
  struct rule rule;
  for (;;) {
    if (!read_rule(&rule) || !strstr(path, rule.substring)) return size;
    if (strcmp(rule.kind, "block") != 0) break;
    pause_for(2);
  }
  if (!strcmp(rule.kind, "slow")) pause_for(rule.number);
  if (!strcmp(rule.kind, "trace")) trace(call, path);
  if (call == UNLINK) return size;
  if (!strcmp(rule.kind, "eio")) return -EIO;
  if (!strcmp(rule.kind, "enospc") && call != SYNC) return -ENOSPC;
  if (!strcmp(rule.kind, "fsync") && call == SYNC) return -EIO;
  if (!strcmp(rule.kind, "short") && call == WRITE && size > 1) return size / 2;
  if (!strcmp(rule.kind, "space") && call == WRITE) {
    if (atomic_exchange(&counted, rule.generation) != rule.generation) atomic_store(&written, 0);
    long left = rule.number - atomic_fetch_add(&written, size);
    if (left <= 0) return -ENOSPC;
    return left < size ? left : size;
  }
  return size;
}

static long judge_fd(enum call call, int fd, long size) {
  char link[64], path[512];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (length <= 0 || path[0] != '/') return size;
  path[length] = 0;
  return judge(call, path, size);
}

ssize_t write(int fd, const void *bytes, size_t size) {
  long allowed = judge_fd(WRITE, fd, size);
  if (allowed < 0) return errno = -allowed, -1;
  return syscall(SYS_write, fd, bytes, allowed);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
  long allowed = judge_fd(WRITE, fd, size);
  if (allowed < 0) return errno = -allowed, -1;
  return syscall(SYS_pwrite64, fd, bytes, allowed, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return pwrite64(fd, bytes, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  long size = 0;
  for (int i = 0; i < count; i++) size += parts[i].iov_len;
  long allowed = judge_fd(WRITE, fd, size);
  if (allowed < 0) return errno = -allowed, -1;
  if (allowed == size) return syscall(SYS_writev, fd, parts, count);
  long first = (long)parts[0].iov_len < allowed ? (long)parts[0].iov_len : allowed;
  return syscall(SYS_write, fd, parts[0].iov_base, first);
}

int fsync(int fd) {
  long allowed = judge_fd(SYNC, fd, 0);
  if (allowed < 0) return errno = -allowed, -1;
  return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  long allowed = judge_fd(SYNC, fd, 0);
  if (allowed < 0) return errno = -allowed, -1;
  return syscall(SYS_fdatasync, fd);
}

static int open_at(int dir, const char *path, int flags, int mode) {
  if (flags & (O_WRONLY | O_RDWR | O_CREAT)) {
    /* A file that is there can be opened on a full disk. */
    int makes = (flags & O_CREAT) && syscall(SYS_faccessat, dir, path, F_OK) != 0;
    long allowed = judge(OPEN, path, 0);
    if (allowed < 0 && (allowed != -ENOSPC || makes)) return errno = -allowed, -1;
  }
  return syscall(SYS_openat, dir, path, flags, mode);
}

static int mode_of(int flags, va_list rest) { return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; }

#define OPENS(NAME, DIR_PARAMETER, DIR)                     \
  int NAME(DIR_PARAMETER const char *path, int flags, ...) { \
    va_list rest;                                           \
    va_start(rest, flags);                                  \
    int mode = mode_of(flags, rest);                        \
    va_end(rest);                                           \
    return open_at(DIR, path, flags, mode);                 \
  }
#define DIRECTORY int dir,
#define NOTHING
OPENS(open, NOTHING, AT_FDCWD)
OPENS(open64, NOTHING, AT_FDCWD)
OPENS(openat, DIRECTORY, dir)
OPENS(openat64, DIRECTORY, dir)

int unlinkat(int dir, const char *path, int flags) {
  char link[64], whole[1100];
  long length = 0;
  if (dir != AT_FDCWD && path[0] != '/') {
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, whole, 500);
    if (length < 0) length = 0;
    whole[length++] = '/';
  }
  snprintf(whole + length, sizeof whole - length, "%s", path);
  judge(UNLINK, whole, 0);
  return syscall(SYS_unlinkat, dir, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
