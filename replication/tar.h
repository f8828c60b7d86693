/*
 * tar: archives as PostgreSQL's base backup makes them (ustar headers, sizes beyond octal in base 256), taken apart and
 * put together as they stream by. source: src/port/tar.c; POSIX pax "ustar Interchange Format".
 */
#ifndef REPLICATION_TAR_H
#define REPLICATION_TAR_H

#include <stdint.h>

#include "replication/stage.h"

#define TAR_BLOCK 512

enum tar_type { TAR_FILE = '0', TAR_SYMLINK = '2', TAR_DIRECTORY = '5' };

struct tar_member {
	enum tar_type type;
	char name[257]; /* as in the header (prefix joined): a directory's, and a link's of PostgreSQL, ends in a slash */
	char link[101]; /* target of a symbolic link */
	uint64_t size;  /* of a file; 0 for the others */
	uint64_t mtime;
	uint32_t mode; /* permission bits */
	uint32_t uid, gid;
	char user[33], group[33];
};

/* An archive of a base backup, as its 'n' message names it. */
struct backup_archive {
	char name[256];  /* "base.tar", "16384.tar" */
	char path[1025]; /* the tablespace's location; empty: the main archive */
};

/* One header block <-> member. Parse refuses (ERR_DAMAGED) a wrong checksum or malformed field and (ERR_REFUSED) types
 * other than the three above, by name. Format refuses names that do not fit. A header made by PostgreSQL comes out as
 * it went in. */
int tar_header_parse(const uint8_t block[static TAR_BLOCK], struct tar_member *m, struct err *err);
int tar_header_format(const struct tar_member *m, uint8_t block[static TAR_BLOCK], struct err *err);

/*
 * tar_reader: CHUNK_ARCHIVE, CHUNK_TAR..., CHUNK_ARCHIVE_END in; for each member CHUNK_MEMBER, CHUNK_DATA...,
 * CHUNK_MEMBER_END out, between CHUNK_ARCHIVE and CHUNK_ARCHIVE_END. Data is lent on without copying. Other kinds pass.
 * Refuses an archive that ends inside a member or without its two zero blocks, or has other bytes after them.
 */
struct stage *tar_reader_new(struct stage *next, struct err *err);
/*
 * tar_writer: the reverse; headers are made from the member (a stage between may have changed its size, dropped or
 * added members), padding and end blocks written. Refuses contents that are not exactly the member's size.
 */
struct stage *tar_writer_new(struct stage *next, struct err *err);

#endif
