/*
 * subprocess: run a program to its end, with a deadline.
 *
 * Neither argv nor envp may hold a secret: both can be read by others in /proc. What the program prints may be one, so
 * the caller brings the memory for its output (locked memory for a key).
 */
#ifndef COMMON_SUBPROCESS_H
#define COMMON_SUBPROCESS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

#define SUBPROCESS_STDERR_MAX 2048

struct subprocess {
	/* in */
	const char *const *argv; /* argv[0] is looked up in PATH when it holds no slash */
	char *const *envp;       /* NULL: ours */
	const char *folder;      /* where it runs; NULL: here */
	int timeout_ms;          /* 0: none. At the deadline it is killed, with its whole process group if it has its own */
	bool own_group;          /* a process group of its own: not for what may use the terminal */
	bool share_stdin;        /* it shares our stdin; otherwise its is /dev/null */
	char *out;               /* NULL: it shares our stdout; else NUL-terminated output goes here ... */
	size_t out_size;         /* ... more than out_size - 1 bytes of it is an error */
	bool share_stderr;       /* it shares our stderr; otherwise the last bytes of it are kept in err_text */
	/* out */
	size_t out_len;
	int status; /* exit status, or 128 + the signal that ended it */
	char err_text[SUBPROCESS_STDERR_MAX];
};

/* Run it. 0 when it came to an end of its own, whatever its status; -1: could not be started (os_errno ENOENT and the
 * like), deadline passed (ERR_UNREACHABLE, os_errno ETIMEDOUT) or too much output; out is wiped then. */
int subprocess_run(struct subprocess *p, struct err *err);
/* A copy of the environment without the named variables (NULL-terminated list); free with free(): the strings are not
 * copied. */
char **subprocess_environment(const char *const *without);
/* Add what a program says on stderr to what is kept of it, *used bytes so far: the end, since the last lines usually
 * tell why. NUL-terminated. */
void subprocess_keep(char kept[static SUBPROCESS_STDERR_MAX], size_t *used, const char *data, size_t len);

#endif
