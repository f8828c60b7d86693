/* json_out: the JSON that a command prints. */
#ifndef CTL_JSON_OUT_H
#define CTL_JSON_OUT_H

#include <jansson.h>

#include "common/err.h"

/* Prints root, indented, and a newline to standard output. root NULL, as json_pack() gives it, is the error that memory
 * ran out. root stays the caller's. */
int json_out(const json_t *root, struct err *err);

#endif
