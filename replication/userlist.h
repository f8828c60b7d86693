/*
 * userlist: users and their verifiers, as pgbouncer's auth_file has them: a line each of
 *
 *	"name" "SCRAM-SHA-256$4096:...$...:..."
 *
 * A quote within quotes is doubled. Empty lines and lines that begin with ; or # are passed over. Passwords in clear
 *and md5 hashes are refused: who can read them can log in.
 */
#ifndef REPLICATION_USERLIST_H
#define REPLICATION_USERLIST_H

#include <stddef.h>

#include "common/err.h"
#include "walcrypt/verifier.h"

#define USERLIST_FILE_MAX (4u << 20)

struct userlist;

/* Parse len bytes; file is only named in errors, with the line (ERR_USAGE; never with what stands there). NULL on
 * failure. */
struct userlist *userlist_parse(const char *file, const char *text, size_t len, struct err *err);
void userlist_free(struct userlist *u); /* wipes; NULL allowed */
size_t userlist_len(const struct userlist *u);
/* The user's verifier, u's; NULL when there is none. */
const struct verifier *userlist_find(const struct userlist *u, const char *user);
/* Any one, for the look of a mock; NULL when the list is empty. */
const struct verifier *userlist_any(const struct userlist *u);

#endif
