/*
 * tap: what a unit test prints, for prove: "ok N - text", "not ok N - text" with what was seen, the plan at the end.
 *
 *	int main(void) { ok(1 + 1 == 2, "adding"); is_int(f(), 3, "f of %d", x); return tap_done(); }
 *
 * What was seen goes to stderr, as Test::More's does: prove shows that and keeps stdout to itself.
 * Every check returns whether it held. Programs run in the root of the tree: vectors are at tests/vectors/.
 */
#ifndef TESTS_UNIT_TAP_H
#define TESTS_UNIT_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/err.h"

#define TAP_UNUSED __attribute__((unused))

static int tap_run TAP_UNUSED, tap_failed TAP_UNUSED;

#define ok(cond, ...) tap_ok((cond), __FILE__, __LINE__, __VA_ARGS__)
#define is_int(got, want, ...) tap_is_int((long long)(got), (long long)(want), __FILE__, __LINE__, __VA_ARGS__)
#define is_str(got, want, ...) tap_is_str((got), (want), __FILE__, __LINE__, __VA_ARGS__)
#define is_mem(got, want, len, ...) tap_is_mem((got), (want), (len), __FILE__, __LINE__, __VA_ARGS__)
/* Does e carry this class, and part somewhere in its text? */
#define is_err(e, class, part, ...) tap_is_err((e), (class), (part), __FILE__, __LINE__, __VA_ARGS__)

static TAP_UNUSED bool
tap_vok(bool held, const char *file, int line, const char *fmt, va_list ap)
{
	va_list again;

	va_copy(again, ap);
	printf("%sok %d - ", held ? "" : "not ", ++tap_run);
	vprintf(fmt, ap);
	printf("\n");
	fflush(stdout);
	if (!held) {
		tap_failed++;
		fprintf(stderr, "#   Failed test '");
		vfprintf(stderr, fmt, again);
		fprintf(stderr, "'\n#   at %s line %d.\n", file, line);
	}
	va_end(again);
	return held;
}

static TAP_UNUSED __attribute__((format(printf, 4, 5))) bool
tap_ok(bool held, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	tap_vok(held, file, line, fmt, ap);
	va_end(ap);
	return held;
}

static TAP_UNUSED __attribute__((format(printf, 5, 6))) bool
tap_is_int(long long got, long long want, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!tap_vok(got == want, file, line, fmt, ap))
		fprintf(stderr, "#   got %lld (%#llx), want %lld (%#llx)\n", got, (unsigned long long)got, want,
		        (unsigned long long)want);
	va_end(ap);
	return got == want;
}

static TAP_UNUSED __attribute__((format(printf, 5, 6))) bool
tap_is_str(const char *got, const char *want, const char *file, int line, const char *fmt, ...)
{
	bool held = got == want || (got != NULL && want != NULL && strcmp(got, want) == 0);
	va_list ap;

	va_start(ap, fmt);
	if (!tap_vok(held, file, line, fmt, ap))
		fprintf(stderr, "#   got  %s\n#   want %s\n", got != NULL ? got : "NULL", want != NULL ? want : "NULL");
	va_end(ap);
	return held;
}

static TAP_UNUSED __attribute__((format(printf, 6, 7))) bool
tap_is_mem(const void *got, const void *want, size_t len, const char *file, int line, const char *fmt, ...)
{
	const uint8_t *g = got, *w = want;
	size_t at = 0;
	va_list ap;

	while (at < len && g[at] == w[at])
		at++;
	va_start(ap, fmt);
	if (!tap_vok(at == len, file, line, fmt, ap)) {
		fprintf(stderr, "#   differ from byte %zu of %zu on\n#   got ", at, len);
		for (size_t i = at; i < len && i < at + 16; i++)
			fprintf(stderr, " %02x", g[i]);
		fprintf(stderr, "\n#   want");
		for (size_t i = at; i < len && i < at + 16; i++)
			fprintf(stderr, " %02x", w[i]);
		fprintf(stderr, "\n");
	}
	va_end(ap);
	return at == len;
}

static TAP_UNUSED __attribute__((format(printf, 6, 7))) bool
tap_is_err(const struct err *e, enum err_class class, const char *part, const char *file, int line, const char *fmt,
           ...)
{
	bool held = e->class == class && (part == NULL || strstr(e->text, part) != NULL);
	va_list ap;

	va_start(ap, fmt);
	if (!tap_vok(held, file, line, fmt, ap))
		fprintf(stderr, "#   got  class %d: %s\n#   want class %d: %s\n", (int)e->class, e->text, (int)class,
		        part != NULL ? part : "");
	va_end(ap);
	return held;
}

/* Prints the plan; what main returns. */
static TAP_UNUSED int
tap_done(void)
{
	printf("1..%d\n", tap_run);
	if (tap_failed != 0)
		printf("# %d of %d failed\n", tap_failed, tap_run);
	fflush(stdout);
	return tap_failed != 0;
}

#endif
