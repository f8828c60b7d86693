/* report: the server's own ereport, so that a message goes where the server's go: to its log and to the client. */
#ifndef STORAGE_REPORT_H
#define STORAGE_REPORT_H

#include <stdbool.h>

#include "common/err.h"

enum report_level { REPORT_WARNING, REPORT_ERROR, REPORT_FATAL };

/*
 * Report err's text, detail, hint and SQLSTATE (XX000 when it has none; warnings 01000). Only in the main thread of a
 * server process and where the server itself could: REPORT_ERROR and REPORT_FATAL do not return then. False when the
 * process exports no ereport (a tool): nothing was reported.
 */
bool report(enum report_level level, const struct err *err);

#endif
