/*
 * keydir_set: one folder of a key directory (live/, new/): its files, loaded by keydir_files, checked, opened and
 * written. keydir.c builds the key directory's life from it; nobody else includes this.
 */
#ifndef KEYMGR_KEYDIR_SET_H
#define KEYMGR_KEYDIR_SET_H

#include "keymgr/keydir.h"

#define KEYDIR_JSON "keyset.json"
#define KEYDIR_WRAPPED "kek.wrapped" /* the cluster key of an envelope provider (keymgr/provider.h) */

/* keyset.json's contents, and that all files it speaks of are there and have the right length; needs no key. */
int keydir_set_info(const char *folder, const struct keydir_files *files, struct keydir_info *info, struct err *err);
/* Verify everything and unwrap the keys. The four different errors of keydir.h. */
struct keyset *keydir_set_open(const char *folder, const struct keydir_files *files, const struct kek *kek,
                               struct err *err);
/* Write the set into the folder, which exists; durable on return. earlier: the set that it replaces: its times of
 * creation and the files that are not ours (key commands keep some) are taken over; or NULL. */
int keydir_set_write(const char *folder, const struct keyset *ks, const struct kek *kek, const char *reference,
                     const struct keydir_info *earlier, const struct keydir_files *earlier_files, struct err *err);

#endif
