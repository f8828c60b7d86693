/* secretfile: a file that holds a secret, and that nobody else may therefore read. */
#ifndef KEYMGR_SECRETFILE_H
#define KEYMGR_SECRETFILE_H

#include <stddef.h>

#include "common/err.h"

/*
 * All of it into text (secure memory, room bytes), NUL-terminated. what names it in messages: "PIN file". As libpq does
 * with private keys: mode 0600 or stricter, 0640 where root owns it, and the owner root or the present user
 * (ERR_REFUSED). Not there: ERR_UNREACHABLE with os_errno. Longer: ERR_FAILED.
 */
int secretfile_read(const char *path, const char *what, char *text, size_t room, size_t *len, struct err *err);
/* The same without its last line end, which must be its only one; empty is ERR_FAILED. */
int secretfile_line(const char *path, const char *what, char *text, size_t room, struct err *err);
/* The check alone, of an open file; of a pipe only its owner. */
int secretfile_check(const char *path, const char *what, int fd, struct err *err);

#endif
