/*
 * durable: changes of files that survive a power cut. A file is written under a temporary name, fsynced, renamed, and
 * its folder fsynced; so a reader finds the old contents or the new, never a mixture.
 *
 * All return 0, or -1 with err set (os_errno kept).
 */
#ifndef COMMON_DURABLE_H
#define COMMON_DURABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* Replace path by a file with these bytes. */
int durable_write(const char *path, const void *data, size_t len, mode_t mode, struct err *err);
/* The same, but an existing path is an error (os_errno EEXIST) and stays as it is. */
int durable_create(const char *path, const void *data, size_t len, mode_t mode, struct err *err);
/* Rename and fsync the folders of both names. */
int durable_rename(const char *from, const char *to, struct err *err);
/* Make a folder and fsync its parent. */
int durable_mkdir(const char *path, mode_t mode, struct err *err);
/* Remove a folder of plain files (no folders below it), or nothing if there is none, and fsync its parent. */
int durable_remove_dir(const char *path, struct err *err);
int durable_fsync_dir(const char *path, struct err *err);

/* All of a file of at most max bytes, NUL-terminated, in malloc'ed memory; larger is ERR_DAMAGED. NULL on error. */
uint8_t *durable_read(const char *path, size_t max, size_t *len, struct err *err);

#endif
