#include "ctl/doctor/findings.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const levels[FINDING_LEVELS] = {"ok", "note", "warning", "problem"};

void
findings_area(struct findings *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->area, sizeof(f->area), fmt, ap);
	va_end(ap);
	if (f->list == NULL)
		printf("%s\n", f->area);
}

static void
add(struct findings *f, enum finding_level level, const char *text, const char *detail, const char *hint)
{
	f->count[level]++;
	if (level == FINDING_PROBLEM && f->count[level] == 1)
		snprintf(f->first, sizeof(f->first), "%.200s", text);
	if (f->list != NULL) {
		json_array_append_new(f->list, json_pack("{s:s, s:s, s:s, s:s*, s:s*}", "area", f->area, "level", levels[level],
		                                         "text", text, "detail", detail, "hint", hint));
		return;
	}
	printf("  %-8s %s\n", levels[level], text);
	if (detail != NULL)
		printf("           DETAIL:  %s\n", detail);
	if (hint != NULL)
		printf("           HINT:  %s\n", hint);
}

void
finding(struct findings *f, enum finding_level level, const char *hint, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	add(f, level, text, NULL, hint);
}

void
finding_err(struct findings *f, enum finding_level level, const struct err *err)
{
	add(f, level, err->text, err->detail[0] != '\0' ? err->detail : NULL, err->hint[0] != '\0' ? err->hint : NULL);
}
