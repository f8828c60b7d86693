/*
 * authquery: verifiers of users who are in no file, asked of a server (auth_conninfo, auth_query) by a thread of its
 * own over one connection, and remembered for auth_cache; that a user has none is remembered too. Thread-safe.
 */
#ifndef PROXY_AUTHQUERY_H
#define PROXY_AUTHQUERY_H

#include "proxy/site.h"

struct authquery;
struct lookup;
struct worker;

enum authquery_answer { AUTHQUERY_NONE, AUTHQUERY_FOUND, AUTHQUERY_UNKNOWN /* not remembered, or no answer came */ };

struct authquery *authquery_new(struct err *err);
/* No more answers come after this. Before the workers end. */
void authquery_stop(struct authquery *q);
void authquery_free(struct authquery *q); /* NULL allowed */

/* From memory. */
enum authquery_answer authquery_find(struct authquery *q, const struct site *site, const char *user,
                                     struct verifier *v);
/*
 * Ask. answered is called in the worker's thread, unless lookup_drop came before; the lookup is dropped by the caller
 * in any case. NULL with err set on failure.
 */
struct lookup *authquery_ask(struct authquery *q, struct worker *worker, struct site *site, const char *user,
                             void (*answered)(void *owner, enum authquery_answer answer, const struct verifier *v),
                             void *owner, struct err *err);
void lookup_drop(struct lookup *l); /* in the worker's thread; NULL allowed */
/* A proof did not fit: what is remembered of the user may be old. */
void authquery_doubt(struct authquery *q, const char *user);
/* After a reload: nothing is remembered, and from now on only what this site's sessions ask. */
void authquery_forget(struct authquery *q, struct site *site);
/* The look of the verifiers there, for mocks; false when none has been seen. */
bool authquery_like(struct authquery *q, struct verifier *v);

#endif
