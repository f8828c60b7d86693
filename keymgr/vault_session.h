/*
 * vault_session: logins to Vault that a long-lived process keeps for the next call with the same source. Tokens lie in
 * secure memory. Only keymgr/vault_login.c includes this. Thread-safe.
 */
#ifndef KEYMGR_VAULT_SESSION_H
#define KEYMGR_VAULT_SESSION_H

#include "keymgr/vault.h"

/* Keep v->token, lent for lease_s seconds (0: for ever), in place of an earlier one; v->kept becomes true. Without
 * memory it is not kept. */
void vault_session_put(struct vault *v, long lease_s, bool renewable);
/* Fill v->token from a kept login that has not run out: how long it is lent for, since when, whether it can be renewed.
 * false: there is none. */
bool vault_session_get(struct vault *v, long *lease_s, long *age_s, bool *renewable);
/* Forget the kept login whose token v->token is. */
void vault_session_drop(const struct vault *v);

#endif
