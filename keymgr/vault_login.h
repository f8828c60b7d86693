/*
 * vault_login: the token that requests carry: read from a file, or given by the server for a login (AppRole, JWT,
 * Kubernetes, TLS certificate), whose secret comes from a file. Between keymgr/vault.c and itself; nobody else includes
 * this.
 *
 * A short-lived process logs in for one provider call and gives the token back after it. With kek_conf.keep the token
 * stays in secure memory for the next call with the same source, and vault_login_keep renews it. Thread-safe.
 */
#ifndef KEYMGR_VAULT_LOGIN_H
#define KEYMGR_VAULT_LOGIN_H

#include "keymgr/vault.h"

#define VAULT_TOKEN_MAX 8192

/* Do the options make a whole login? ERR_USAGE; looks at no file. */
int vault_login_check(const struct vault *v, struct err *err);
/* Fill v->token: from the file, from a login that is kept, or by logging in. */
int vault_login(struct vault *v, struct err *err);
/* The token was denied: read its file again, or log in again. *changed: there is a point in another try. */
int vault_login_again(struct vault *v, bool *changed, struct err *err);
/* Before v is freed: a token that is not kept is given back, within three seconds and whether or not the server takes
 * it. */
void vault_login_end(struct vault *v);

#endif
