/*
 * vault: the API of HashiCorp Vault and OpenBao, as far as the providers vault-kv: and vault-transit: need it.
 *
 * A source is written as vault-...://HOST[:PORT]/PATH[?OPTION=VALUE&...], or vault-...+http:// for a server on this
 * machine; the options are the [kek] section's, and version. The token comes from a file, never from the
 * environment, which children inherit and /proc shows.
 */
#ifndef KEYMGR_VAULT_H
#define KEYMGR_VAULT_H

#include <jansson.h>
#include <stdbool.h>

#include "common/http.h"
#include "keymgr/provider.h"

#define VAULT_PATH_MAX 1024

struct vault {
	char text[4096]; /* the source, cut into the strings below */
	struct http_peer peer;
	char path[VAULT_PATH_MAX]; /* behind the host, as it is meant: not escaped */
	const char *token_file;    /* NULL: .vault-token in the home directory, as the vault program has it */
	const char *namespace, *version;
	char *token; /* secure memory */
	char *body;  /* of the last answer, secure memory */
};

/* Is this a source that vault_open would take, so far as can be told without looking at files? */
int vault_check(const char *rest, struct err *err);
/* From the URI's part behind the scheme's colon and what conf adds. Reads the token. Free with vault_close in any case.
 */
int vault_open(struct vault *v, const char *rest, const struct kek_conf *conf, struct err *err);
void vault_close(struct vault *v);

/*
 * Ask: path behind /v1/, escaped. *status: 200 or 404; *reply: the answer's JSON, NULL when it has none, to be released
 * with json_decref. Everything else is an error that says what to do; 403 only after the token's file was read again
 * and the request tried with what it holds now. sent (may be NULL): as in struct http_reply.
 */
int vault_call(struct vault *v, const char *method, const char *path, const json_t *body, long *status, json_t **reply,
               unsigned *sent, struct err *err);

#endif
