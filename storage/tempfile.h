/*
 * tempfile: files that are no relations and no WAL, but hold rows or statements.
 *
 * Most live no longer than the postmaster (sort and hash spills, shared filesets, decoded changes waiting for their
 * commit, notifications), under a key that lives no longer either. Those that must survive it (the texts of
 * pg_stat_statements) are under keys derived from the relation key; several processes write them at a time, so their
 * reads and writes wait for each other.
 *
 * AES-256-XTS, one data unit per 8192 bytes of the file, ciphertext stealing in a short last unit; writes at any offset
 * read, change and write whole units. Tweak: first 12 bytes of HMAC-SHA256(key, path) | unit number (4, little-endian).
 * A last unit of fewer than 16 bytes, too short for XTS, goes through a Feistel network of ten rounds over its nibbles,
 * with AES as round function. A file has the size that the server gave it.
 */
#ifndef STORAGE_TEMPFILE_H
#define STORAGE_TEMPFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "storage/fdtable.h"
#include "walcrypt/key.h"

#define TEMPFILE_TWEAK_LEN 12

enum tempfile_key { TEMPFILE_TEMPORARY, TEMPFILE_LASTING };

/* Draw the temporary key, derive the lasting one. Once, in the postmaster. */
int tempfile_init(const struct data_key *relation_key, struct err *err);
/* The file's part of the tweak, from its path as the server names it. */
int tempfile_tweak(enum tempfile_key key, const char *path, uint8_t tweak[static TEMPFILE_TWEAK_LEN]);

/* As pread, pwrite and ftruncate. */
ssize_t tempfile_read(int fd, const struct file *f, uint8_t *buf, size_t len, off_t off);
ssize_t tempfile_write(int fd, const struct file *f, const uint8_t *data, size_t len, off_t off);
int tempfile_truncate(int fd, const struct file *f, off_t len);

/* One unit of len bytes (1 to 8192) in place; for tests too. */
int tempfile_unit(bool encrypt, enum tempfile_key key, const uint8_t tweak[static TEMPFILE_TWEAK_LEN], uint32_t unit,
                  uint8_t *data, size_t len, struct err *err);

#endif
