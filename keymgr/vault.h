/*
 * vault: the API of HashiCorp Vault and OpenBao, as far as the providers vault-kv: and vault-transit: need it.
 *
 * A source is written as vault-...://HOST[:PORT]/PATH[?OPTION=VALUE&...], or vault-...+http:// for a server on this
 * machine; the options are the [kek] section's, and version. A token, or the secret of a login, comes from a file,
 * never from the environment, which children inherit and /proc shows.
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
	struct vault_login_options {
		const char *method, *mount, *role, *file; /* NULL: not given */
	} login;
	const char *namespace, *version;
	bool keep;      /* logins are kept for the next call */
	bool own_token; /* token was got by logging in for this very call */
	bool kept;      /* token is that of a kept login */
	char *token;    /* secure memory */
	char *body;     /* of the last answer, secure memory */
};

/* Is this a source that vault_open would take, so far as can be told without looking at files? */
int vault_check(const char *rest, const struct kek_conf *conf, struct err *err);
/* From the URI's part behind the scheme's colon and what conf adds. Reads the token, or logs in. Free with vault_close
 * in any case. */
int vault_open(struct vault *v, const char *rest, const struct kek_conf *conf, struct err *err);
void vault_close(struct vault *v);

/*
 * Ask: path behind /v1/, escaped. *status: 200, 400 or 404; *reply: the answer's JSON, NULL when it has none, to be
 * released with json_decref. Everything else is an error that says what to do; 403 only after the token's file was read
 * again and the request tried with what it holds now.
 */
int vault_call(struct vault *v, const char *method, const char *path, const json_t *body, long *status, json_t **reply,
               struct err *err);
/* An answer that the caller does not want: ERR_FAILED, '"HOST:PORT" <what>', with the server's own words. Returns -1.
 */
int vault_refusal(const struct vault *v, const json_t *reply, const char *what, struct err *err);
/* The server's own words in an answer; NULL: none. */
const char *vault_said(const json_t *reply);
/* What is in a folder, path escaped: names into an array, to be released with json_decref; *names NULL when there is
 * nothing. */
int vault_names(struct vault *v, const char *path, json_t **names, struct err *err);
/* One exchange: any status is success (204 becomes 200). */
int vault_request(struct vault *v, bool with_token, const char *method, const char *path, const json_t *body,
                  long *status, json_t **reply, struct err *err);
/* What a status that is no answer means. Returns -1. */
int vault_status_error(const struct vault *v, long status, const json_t *reply, struct err *err);

/* len random bytes from path ("sys/tools/random", "MOUNT/random", escaped). */
int vault_random(struct vault *v, const char *path, uint8_t *out, size_t len, struct err *err);

#define VAULT_KEEP_MAX_S 3600
/* struct provider_scheme's keep, of both. */
int vault_scheme_keep(const char *rest, const struct kek_conf *conf, int *again_s, struct err *err);
/* version= is a number, if it is given; else ERR_USAGE. */
int vault_check_version(const struct vault *v, struct err *err);

#endif
