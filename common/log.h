/*
 * log: lines to stderr, in the shape of PostgreSQL's: "2026-01-02 03:04:05.678 UTC [pid] LEVEL:  text", DETAIL and HINT
 * lines after; or as JSON, one object a line with the keys of PostgreSQL's jsonlog. Thread-safe: a line is one write.
 * Never pass secrets.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_NOTICE, LOG_WARNING, LOG_ERROR, LOG_FATAL };

/* What a line is about: in text what stands before it, in JSON keys of their own. */
struct log_field {
	const char *name, *value; /* value NULL or "": the field is left out */
	bool number;              /* value stands without quotes */
};
struct log_about {
	const char *prefix;
	const struct log_field *fields;
	size_t n;
};

void log_set_level(enum log_level least);
void log_set_json(bool json);
int log_level_parse(const char *name, enum log_level *level); /* -1 when unknown */
bool log_wants(enum log_level level);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* err's text with context before it, then its detail and hint. */
void log_err(enum log_level level, const struct err *err, const char *context);
/* The same with fields; about is only looked at when the level is logged. */
void log_about_text(enum log_level level, const struct log_about *about, const char *text);
void log_about_err(enum log_level level, const struct log_about *about, const struct err *err);

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

#endif
