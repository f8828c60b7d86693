/*
 * coprocess: a program that stays and is talked to in lines, on its stdin and stdout.
 *
 * Its argv and environment can be read by others in /proc, so neither holds a secret; what is said may be one, so the
 * caller brings the memory that lines are read into. It leads a process group of its own. What it says on stderr is
 * kept for messages. Not thread-safe: one caller at a time.
 */
#ifndef COMMON_COPROCESS_H
#define COMMON_COPROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/subprocess.h"

struct coprocess {
	pid_t pid;  /* 0: not running */
	int talk;   /* a socket: its stdin */
	int listen; /* its stdout */
	int err;    /* its stderr */
	char *buf;  /* the caller's: bytes that have been read and not taken yet */
	size_t size, len, taken;
	char err_text[SUBPROCESS_STDERR_MAX];
	size_t err_len;
};

/* Start argv; envp as in struct subprocess. buf of size bytes bounds a line and is the caller's until coprocess_stop. A
 * program that cannot be executed is seen at its first line, as one that ends. */
int coprocess_start(struct coprocess *p, const char *const *argv, char *const *envp, char *buf, size_t size,
                    struct err *err);
/* Say these bytes. ERR_UNREACHABLE: it has ended (os_errno EPIPE) or takes nothing until the deadline (by
 * clock_now_ms; os_errno ETIMEDOUT). */
int coprocess_send(struct coprocess *p, const char *data, size_t len, int64_t deadline_ms, struct err *err);
/* Its next line, without the newline and NUL-terminated, valid until the next call. ERR_UNREACHABLE as above; a line
 * that does not fit into the buffer is ERR_FAILED. */
int coprocess_line(struct coprocess *p, char **line, int64_t deadline_ms, struct err *err);
/* Are there bytes that were read and belong to no line taken so far? */
bool coprocess_has_more(struct coprocess *p);
/* Close its stdin, give it grace_ms to end, then kill its group. Nothing when it does not run. */
void coprocess_stop(struct coprocess *p, int grace_ms);

#endif
