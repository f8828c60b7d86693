/* path: names put together in arrays of PATH_MAX, with the length looked at: a path cut short would be another file. */
#ifndef COMMON_PATH_H
#define COMMON_PATH_H

#include <limits.h>

#include "common/err.h"

/* printf into out; too long is an error with os_errno ENAMETOOLONG. */
int path_format(char out[static PATH_MAX], struct err *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* An absolute path without a trailing slash, whether or not it exists; symbolic links followed if it does. */
int path_absolute(char out[static PATH_MAX], const char *path, struct err *err);
/* For sorting by folder: below 0, 0 (one folder) or above 0, by bytes, what is in a folder before what is further
 * below. Each path has a slash; folders are compared as they are written. */
int path_by_folder(const char *a, const char *b);

#endif
