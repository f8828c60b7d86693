/*
 * keybackup: keysets in a file under a passphrase, which opens without the key service that the keystore needs.
 * docs/formats/backup.md.
 */
#ifndef KEYMGR_KEYBACKUP_H
#define KEYMGR_KEYBACKUP_H

#include <limits.h>

#include "keymgr/keydir.h"
#include "keymgr/passphrase.h"

struct keybackup_entry {
	char name[NAME_MAX + 1]; /* of the keyset */
	struct keydir_info info; /* as its key directory said; of the past where it speaks of the cluster key */
	struct keyset *keys;
};

struct keybackup {
	struct keybackup_entry *entry;
	size_t n;
};

/* Room that the keys take in secmem while a backup of these epochs is written or read. */
size_t keybackup_room(size_t nkeysets, size_t nepochs);
/* A new file, mode 0600, durable, read back and compared before it is called done; an existing one is ERR_REFUSED. */
int keybackup_write(const char *path, const struct keybackup *b, const struct passphrase *p, struct err *err);
/* Read it; free with keybackup_free, also after -1. ERR_WRONG_KEY: another passphrase; ERR_DAMAGED. */
int keybackup_read(const char *path, const struct passphrase *p, struct keybackup *b, struct err *err);
/* What it holds once it is open: read calls this. path is only named in errors. */
int keybackup_unpack(const char *path, const uint8_t *data, size_t len, struct keybackup *b, struct err *err);
void keybackup_free(struct keybackup *b);

#endif
