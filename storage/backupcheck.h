/*
 * backupcheck: page checksums of a base backup that is taken straight from an encrypted server.
 *
 * The server verifies the bytes that it has read (backup/basebackup.c), which are ciphertext here: it would hardly ever
 * look at a page, and be wrong when it did. So in a walsender that copies files its question "are there data
 * checksums?" (DataChecksumsEnabled) is answered with no, and the layer verifies a decrypted copy of what is read. It
 * reports as the server does: a warning for each of the first five pages of a file, pg_stat_database's
 * checksum_failures, and at its end the backup fails with SQLSTATE XX001.
 *
 * A page that fails is read again, because it may be torn by a write under way. Then it passes only if its LSN lies
 * between the backup's beginning and the present end of WAL: replay of the backup will write it anew. The server lets
 * any LSN behind the backup's beginning pass; here that would be every page whose first 16 bytes are damaged.
 */
#ifndef STORAGE_BACKUPCHECK_H
#define STORAGE_BACKUPCHECK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "storage/fdtable.h"

/* A relation file was opened by a walsender that copies files. */
void backupcheck_open(int fd, const char *path);
void backupcheck_close(int fd);
/* n bytes of the file were read to buf from off. Torn pages are read again, into buf. May report, which ends the
 * command when its client is gone. */
void backupcheck_read(int fd, const struct file *f, uint8_t *buf, size_t n, off_t off);

#endif
