/*
 * keydir: a key directory on disk: pg_cryptokeys/ in a data directory, or a keyset's folder in the proxy's keystore.
 *
 *   live/relation.wkey, wal.wkey, wal-<epoch>.wkey, keyset.json    (docs/formats/keydir.md)
 *   live/kek.wrapped       the cluster key, where an envelope provider wraps it
 *   new/, old/ only while a change is under way
 * keyset.json is authenticated by HMAC-SHA256 under HKDF(cluster key, "walcrypt keyset mac v1") over, for it and every
 * .wkey file of live/ sorted by name: name length (u32 LE), name, data length (u32 LE), bytes; keyset.json itself
 * enters with its "mac" member's value empty. What else lies there (kek.wrapped, a key command's files) is not in it:
 * it either leads to this cluster key or to another. Four different errors: wrong cluster key (ERR_WRONG_KEY), damaged
 * or swapped file (ERR_DAMAGED, names the file), missing file (ERR_FAILED, os_errno ENOENT, names it), provider
 * unreachable (ERR_UNREACHABLE, from kek_fetch).
 */
#ifndef KEYMGR_KEYDIR_H
#define KEYMGR_KEYDIR_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "keymgr/provider.h"
#include "walcrypt/keyset.h"

/* What keyset.json says that needs no key: for `key show`, `status`, logs. NOT authenticated until keydir_open
 * succeeded. */
struct keydir_info {
	enum key_method method;
	uint64_t system_identifier; /* 0: not bound to a cluster yet */
	char relation_id[KEY_ID_HEX_LEN];
	char kek_id[KEY_ID_HEX_LEN];
	char kek_version[64]; /* as the provider counts them; empty where it does not */
	char provider[512];   /* a reference for people to read; never used to fetch a key */
	char state[32];       /* "active" */
	bool cut_off;         /* a change of the directory was cut off: these are the keys in force; repair it */
	uint32_t wal_epoch;   /* the epoch that lies in wal.wkey; the others lie in wal-<epoch>.wkey */
	size_t nepochs;
	struct {
		uint32_t number, after_timeline;
		char id[KEY_ID_HEX_LEN];
		char created[32];
	} epochs[KEYSET_MAX_EPOCHS];
};
int keydir_read_info(const char *path, struct keydir_info *info, struct err *err);

/* Is there a key directory at path? */
bool keydir_exists(const char *path);
/*
 * Fetch this key directory's cluster key: as kek_fetch, with kek.wrapped of the keys in force for an envelope. conf's
 * key_dir becomes live/ of path.
 */
struct kek *keydir_kek(const char *path, const struct kek_conf *conf, struct err *err);
/* Open and verify everything. A change that was cut off does not hinder: the keys are those that repair will put in
 * force, or has left in force. */
struct keyset *keydir_open(const char *path, const struct kek *kek, struct err *err);
/* Both. An envelope's key that was changed in between is fetched once more. */
struct keyset *keydir_unlock(const char *path, const struct kek_conf *conf, struct err *err);
/*
 * Make path and new/ in it, for a key directory that is about to be made: what %d of a key command points to, so that
 * it can leave a file of its own there. What a making that was cut off has left there goes. abandon: take both away
 * again.
 */
int keydir_prepare(const char *path, struct err *err);
void keydir_abandon(const char *path);
/* Write a new key directory; path must not exist or hold nothing but a new/ without keys (where %d pointed a key
 * command that keeps a file beside the keys); durable when it returns. reference: what kek_reference says. */
int keydir_create(const char *path, const struct keyset *ks, const struct kek *kek, const char *reference,
                  struct err *err);
/* The same for keys that were kept elsewhere: `earlier` says when they were made. */
int keydir_create_again(const char *path, const struct keyset *ks, const struct keydir_info *earlier,
                        const struct kek *kek, const char *reference, struct err *err);
/* Replace the whole set durably through new/ and old/, verified by unwrapping before the old one goes. */
int keydir_replace(const char *path, const struct keyset *ks, const struct kek *kek, const char *reference,
                   struct err *err);

/*
 * Wrap the same keys under another cluster key, in three steps with the directory locked from the first to the last:
 * begin (with make_new new/ is made at once, for a key command that keeps a file of its own in its %d), rewrap, end.
 * rewrap opens the set with kek (the four errors), writes, fsyncs, opens and compares the new one, and puts it in
 * force; the same kek twice records another reference. ERR_MIDWAY: repair finishes or undoes it. end always, once begin
 * has succeeded.
 */
struct keydir_rewrap {
	char path[PATH_MAX], new[PATH_MAX];
	int lock;
	bool made_new;
};
int keydir_rewrap_begin(const char *path, bool make_new, struct keydir_rewrap *r, struct err *err);
int keydir_rewrap(struct keydir_rewrap *r, const struct kek *kek, const struct kek *new_kek, const char *reference,
                  struct err *err);
/* The two halves of rewrap, for a change of the keys themselves: what is in force, then what takes its place. */
struct keyset *keydir_rewrap_read(struct keydir_rewrap *r, const struct kek *kek, struct err *err);
int keydir_rewrap_write(struct keydir_rewrap *r, const struct keyset *ks, const struct kek *new_kek,
                        const char *reference, struct err *err);
void keydir_rewrap_end(struct keydir_rewrap *r);

/* Finish or undo a change that was cut off (CFE's four states); *did says what, "nothing to do" included. */
int keydir_repair(const char *path, const char **did, struct err *err);

/* The files of live/ as bytes, sorted by name, for a base backup that carries them: at most 160 files of at most 64
 * KiB. */
struct keydir_file {
	char name[32];
	uint8_t *data;
	size_t len;
};
struct keydir_files {
	struct keydir_file *file;
	size_t n;
};
int keydir_load_files(const char *path, struct keydir_files *files, struct err *err);
void keydir_files_free(struct keydir_files *files);

#endif
