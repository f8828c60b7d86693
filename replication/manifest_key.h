/*
 * manifest_key: under which relation key the backup was made that a manifest lists: an empty file in it,
 * pg_cryptokeys/relation_id.<id>, says so. Bytes of the manifest pass by, cut anywhere; nothing of it is kept.
 */
#ifndef REPLICATION_MANIFEST_KEY_H
#define REPLICATION_MANIFEST_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "walcrypt/key.h"

#define MANIFEST_KEY_PATH "pg_cryptokeys/relation_id." /* and the id */

struct manifest_key { /* zero it */
	char head[256];   /* the present line's beginning */
	size_t n;
	char id[KEY_ID_HEX_LEN]; /* empty: none yet */
	bool several;            /* different ones: the backup is no one's */
};

void manifest_key_push(struct manifest_key *k, const uint8_t *data, size_t len);

#endif
