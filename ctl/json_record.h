/*
 * json_record: a small file that says how far something has come: one JSON object with a "format", replaced as a whole.
 */
#ifndef CTL_JSON_RECORD_H
#define CTL_JSON_RECORD_H

#include <jansson.h>

#include "common/err.h"

/* Takes root over; NULL is out of memory. */
int json_record_write(const char *path, json_t *root, struct err *err);
/* 1: *root is the caller's; 0: there is no such file. ERR_REFUSED for a later format, ERR_DAMAGED with the hint when it
 * is no such record. */
int json_record_read(const char *path, int format, const char *hint, json_t **root, struct err *err);
/* What the caller found in it makes no sense. Returns -1. */
int json_record_damaged(const char *path, const char *hint, struct err *err);

#endif
