/* log_json: a log line as a JSON object; the keys are those of PostgreSQL's jsonlog. */
#ifndef COMMON_LOG_JSON_H
#define COMMON_LOG_JSON_H

#include "common/log.h"

struct log_record {
	const char *stamp, *severity, *sqlstate, *text, *detail, *hint; /* NULL or "": left out, but for the text */
	int pid;
	const struct log_about *about; /* NULL: nothing */
};

/* Write it without a newline; returns the length. len is at least 256; where values are too long for it they are cut,
 * and the object is whole in any case. Bytes that are no UTF-8 become U+FFFD. */
size_t log_json(char *out, size_t len, const struct log_record *r);

#endif
