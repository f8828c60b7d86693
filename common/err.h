/*
 * err: what went wrong, filled where the fault is seen, carried up by value, printed once at the top.
 *
 * A function that can fail takes a struct err * last and returns 0 or -1 (or NULL). On success it leaves *err alone.
 * Messages follow PostgreSQL's error style: lower-case factual primary without a full stop; detail and hint are
 * sentences.
 */
#ifndef COMMON_ERR_H
#define COMMON_ERR_H

#include <stdarg.h>
#include <stddef.h>

/* The classes are the exit codes of walcrypt-ctl. */
enum err_class {
	ERR_NONE = 0,
	ERR_FAILED = 1,      /* the operation failed: I/O, protocol, out of memory */
	ERR_USAGE = 2,       /* wrong option, wrong configuration */
	ERR_DAMAGED = 3,     /* data on disk or on the wire is not what it must be */
	ERR_UNREACHABLE = 4, /* a provider or server could not be reached */
	ERR_WRONG_KEY = 5,   /* the key does not open what it should */
	ERR_REFUSED = 6,     /* refused on purpose, nothing changed */
	ERR_MIDWAY = 7       /* stopped midway: resume or abort */
};

struct err {
	enum err_class class;
	int os_errno;     /* 0, or the errno that caused it */
	char sqlstate[6]; /* five characters and NUL; empty means XX000 */
	char text[256];
	char detail[512];
	char hint[256];
};

/* Fill e with class and text (cut at the array's size), clearing the rest. Always returns -1, so callers can return it.
 */
int err_set(struct err *e, enum err_class class, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Like err_set with class ERR_FAILED, ": %m" of os_errno appended to the text and os_errno kept. Returns -1. */
int err_os(struct err *e, int os_errno, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Add to an error already set; return -1. */
int err_detail(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int err_hint(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* ERR_REFUSED: what fmt names has a later format than known, the highest one of this program. Returns -1. */
int err_later(struct err *e, long long format, int known, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
int err_sqlstate(struct err *e, const char sqlstate[static 5]);
/* Put "context: " before the text. Returns -1. */
int err_context(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Out of memory: its own function so that it needs no formatting. Returns -1. */
int err_nomem(struct err *e);

#endif
