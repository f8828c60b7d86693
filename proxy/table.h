/*
 * table: what the console, the page and its JSON show: rows of text cells, filled one cell after the other. A fault
 * (out of memory) sticks until table_check. Not thread-safe.
 */
#ifndef PROXY_TABLE_H
#define PROXY_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "common/err.h"

#define TABLE_COLUMNS_MAX 40

struct table {
	const char *names[TABLE_COLUMNS_MAX]; /* the caller's */
	size_t columns;
	char **cells; /* ncells of them, row by row; NULL is NULL */
	size_t ncells, room;
	int failed;
};

/* names: NULL-terminated, literals. */
void table_init(struct table *t, const char *const *names);
void table_free(struct table *t);
/* The next cell. NULL and what these call unknown become NULL. */
void table_text(struct table *t, const char *text);
void table_print(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_number(struct table *t, uint64_t n);
void table_number_or_null(struct table *t, bool known, uint64_t n);
void table_lsn(struct table *t, uint64_t lsn); /* 0: unknown */
void table_time(struct table *t, time_t when); /* 0: unknown; "2026-01-02 03:04:05 UTC" */
/* Microseconds since 2000-01-01, as PostgreSQL has them; 0: unknown. */
void table_timestamp(struct table *t, int64_t when);
void table_seconds(struct table *t, double s); /* below 0: unknown; "0.125" */
size_t table_rows(const struct table *t);
const char *table_cell(const struct table *t, size_t row, size_t column);
int table_check(const struct table *t, struct err *err);

#endif
