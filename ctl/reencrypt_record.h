/*
 * reencrypt_record: pg_reencrypt/record in a data directory whose re-encryption is under way. docs/formats/reencrypt.md
 */
#ifndef CTL_REENCRYPT_RECORD_H
#define CTL_REENCRYPT_RECORD_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/key.h"

#define REENCRYPT_DIR "pg_reencrypt"
#define REENCRYPT_CLEAR "none" /* instead of a key id */

enum reencrypt_state { REENCRYPT_CONVERTING, REENCRYPT_COMMITTING };

struct reencrypt_record {
	enum reencrypt_state state;
	uint64_t system_identifier;
	char from[KEY_ID_HEX_LEN], to[KEY_ID_HEX_LEN]; /* relation key ids, or "none" */
	bool wal;                                      /* WAL files are re-encrypted, too */
	char keyset[PATH_MAX];                         /* what --to said */
	char preload[PATH_MAX];                        /* what shared_preload_libraries held */
};

/* Write it, durably; the folder must be there. */
int reencrypt_record_write(const char *datadir, const struct reencrypt_record *r, struct err *err);
/* 1: read; 0: there is none; -1: damaged or unreadable. */
int reencrypt_record_read(const char *datadir, struct reencrypt_record *r, struct err *err);

#endif
