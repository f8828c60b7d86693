/*
 * log: lines to stderr in the shape of PostgreSQL's: "2026-01-02 03:04:05.678 UTC [pid] LEVEL:  text", DETAIL and HINT
 * lines after. Thread-safe: a line is one write. Never pass secrets.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include "common/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_NOTICE, LOG_WARNING, LOG_ERROR, LOG_FATAL };

void log_set_level(enum log_level least);
int log_level_parse(const char *name, enum log_level *level); /* -1 when unknown */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* err's text with context before it, then its detail and hint. */
void log_err(enum log_level level, const struct err *err, const char *context);

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

#endif
