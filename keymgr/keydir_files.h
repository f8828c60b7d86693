/*
 * keydir_files: the files of one folder of a key directory (live/, new/) as bytes, sorted by name. struct keydir_files
 * is keydir.h's; this is how its own parts get at it.
 */
#ifndef KEYMGR_KEYDIR_FILES_H
#define KEYMGR_KEYDIR_FILES_H

#include "keymgr/keydir.h"

#define KEYDIR_NAME_LEN sizeof(((struct keydir_file *)0)->name)
#define KEYDIR_MAX_FILES 160
#define KEYDIR_MAX_FILE_LEN 65536

/* All files of the folder (temporary ones left out). A name too long, a file too many or too large: ERR_DAMAGED. */
int keydir_files_load(const char *folder, struct keydir_files *files, struct err *err);
/* The file of that name, or NULL. */
const struct keydir_file *keydir_file_find(const struct keydir_files *files, const char *name);
/* For qsort: by name, as the authentication code wants them. */
int keydir_file_order(const void *a, const void *b);
/* Does the name end in .wkey: is it a wrapped key? */
bool keydir_is_wkey(const char *name);

#endif
