/* keydir_text: keyset.json between its text and struct keydir_info. No files, no keys. docs/formats/keydir.md has the
 * format. */
#ifndef KEYMGR_KEYDIR_TEXT_H
#define KEYMGR_KEYDIR_TEXT_H

#include <time.h>

#include "keymgr/keydir.h"

#define KEYDIR_MAC_LEN 32
#define KEYDIR_MAC_HEX_LEN (2 * KEYDIR_MAC_LEN + 1)

/* The canonical text, malloc'ed; mac_hex "" gives the text that the MAC is computed over. NULL with err set. */
char *keydir_text_write(const struct keydir_info *info, const char *mac_hex, struct err *err);
/* Parse; strict: an unknown, missing or ill-typed member, or text that is not the canonical form of what it says, is
 * ERR_DAMAGED. path is only named in errors. */
int keydir_text_read(const char *path, const char *text, size_t len, struct keydir_info *info,
                     char mac_hex[static KEYDIR_MAC_HEX_LEN], struct err *err);

/* When a key was made, from its "created"; -1 when that is no time. */
time_t keydir_time(const char *created);

#endif
