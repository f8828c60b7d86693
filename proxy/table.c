#include "proxy/table.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/pgfile.h"

#define POSTGRES_EPOCH_S 946684800 /* 2000-01-01 as seconds since 1970 */

void
table_init(struct table *t, const char *const *names)
{
	memset(t, 0, sizeof(*t));
	for (; names[t->columns] != NULL && t->columns < TABLE_COLUMNS_MAX; t->columns++)
		t->names[t->columns] = names[t->columns];
}

void
table_free(struct table *t)
{
	for (size_t i = 0; i < t->ncells; i++)
		free(t->cells[i]);
	free(t->cells);
	memset(t, 0, sizeof(*t));
}

void
table_text(struct table *t, const char *text)
{
	char *copy = NULL;

	if (t->ncells == t->room) {
		size_t room = t->room == 0 ? 64 : 2 * t->room;
		char **more = realloc(t->cells, room * sizeof(*more));

		if (more == NULL) {
			t->failed = 1;
			return;
		}
		t->cells = more;
		t->room = room;
	}
	if (text != NULL && (copy = strdup(text)) == NULL)
		t->failed = 1;
	t->cells[t->ncells++] = copy;
}

void
table_print(struct table *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	table_text(t, text);
}

void
table_number(struct table *t, uint64_t n)
{
	table_print(t, "%" PRIu64, n);
}

void
table_number_or_null(struct table *t, bool known, uint64_t n)
{
	if (known)
		table_number(t, n);
	else
		table_text(t, NULL);
}

void
table_lsn(struct table *t, uint64_t lsn)
{
	char text[LSN_TEXT_LEN];

	lsn_format(text, lsn);
	table_text(t, lsn != 0 ? text : NULL);
}

void
table_time(struct table *t, time_t when)
{
	char text[40];
	struct tm tm;

	gmtime_r(&when, &tm);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &tm);
	table_text(t, when != 0 ? text : NULL);
}

void
table_timestamp(struct table *t, int64_t when)
{
	table_time(t, when == 0 ? 0 : (time_t)(when / 1000000 + POSTGRES_EPOCH_S));
}

void
table_seconds(struct table *t, double s)
{
	char text[32];

	snprintf(text, sizeof(text), "%.3f", s);
	table_text(t, s >= 0 ? text : NULL);
}

size_t
table_rows(const struct table *t)
{
	return t->ncells / t->columns;
}

const char *
table_cell(const struct table *t, size_t row, size_t column)
{
	return t->cells[row * t->columns + column];
}

int
table_check(const struct table *t, struct err *err)
{
	return t->failed ? err_nomem(err) : 0;
}
