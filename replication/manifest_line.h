/*
 * manifest_line: one file's line of a backup manifest, in exactly the shape that src/backend/backup/backup_manifest.c
 * gives it.
 *
 *   { "Path": "base/1/1259", "Size": 114688, "Last-Modified": "2026-01-02 03:04:05 GMT", "Checksum-Algorithm":
 * "CRC32C", "Checksum": "01234567" } with "Encoded-Path" (hex) instead where the name is no UTF-8, without the last two
 * where no checksums are wanted, and with a comma behind it unless it is the last.
 */
#ifndef REPLICATION_MANIFEST_LINE_H
#define REPLICATION_MANIFEST_LINE_H

#include <stdbool.h>
#include <stddef.h>

#include "replication/buffer.h"
#include "replication/spool.h"

struct manifest_line {
	char path[SPOOL_PATH_MAX]; /* decoded */
	/* pieces of the line: up to the size, and the time with its name but without the comma before */
	const char *head, *time;
	size_t head_len, time_len;
	bool comma;
};

/* line without its newline. checksums: the algorithm that the line must name. -1 (ERR_DAMAGED) on any other shape. */
int manifest_line_parse(const char *line, size_t len, enum digest_kind checksums, struct manifest_line *m,
                        struct err *err);
/* The line with another size and checksum, without comma and newline. out keeps the fault. */
void manifest_line_put(struct buffer *out, const struct manifest_line *m, enum digest_kind checksums,
                       const struct spool_entry *e);
/* A line for a file that the upstream's manifest does not have. */
void manifest_line_put_new(struct buffer *out, enum digest_kind checksums, const struct spool_entry *e);
void manifest_line_put_hex(struct buffer *out, const uint8_t *data, size_t len);

#endif
