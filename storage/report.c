#include "storage/report.h"

#include <stddef.h>

#include "storage/process.h"

/* elog.h, since PostgreSQL 14 */
static const int levels[] = {[REPORT_WARNING] = 19, [REPORT_ERROR] = 21, [REPORT_FATAL] = 22};

/* elog.h: six bits a character */
static int
sqlstate_pack(const char *s)
{
	int packed = 0;

	for (int i = 0; i < 5; i++)
		packed |= ((s[i] - '0') & 0x3F) << 6 * i;
	return packed;
}

bool
report(enum report_level level, const struct err *err)
{
	bool (*start)(int, const char *) = (bool (*)(int, const char *))process_symbol("errstart");
	int (*code)(int) = (int (*)(int))process_symbol("errcode");
	int (*message)(const char *, ...) = (int (*)(const char *, ...))process_symbol("errmsg_internal");
	int (*detail)(const char *, ...) = (int (*)(const char *, ...))process_symbol("errdetail_internal");
	int (*hint)(const char *, ...) = (int (*)(const char *, ...))process_symbol("errhint");
	void (*finish)(const char *, int, const char *) =
	    (void (*)(const char *, int, const char *))process_symbol("errfinish");

	if (start == NULL || code == NULL || message == NULL || detail == NULL || hint == NULL || finish == NULL)
		return false;
	if (!start(levels[level], NULL))
		return true; /* nobody wants to see it */
	if (err->sqlstate[0] != '\0')
		code(sqlstate_pack(err->sqlstate));
	message("%s", err->text);
	if (err->detail[0] != '\0')
		detail("%s", err->detail);
	if (err->hint[0] != '\0')
		hint("%s", err->hint);
	finish(NULL, 0, NULL);
	return true;
}
