/*
 * renewal: a thread that keeps tokens and logins of key servers alive between fetches, so that the next reload finds
 * its cluster keys. It is asked nothing and touches no session: what it cannot keep is said in the log, and nothing
 * stops.
 */
#ifndef PROXY_RENEWAL_H
#define PROXY_RENEWAL_H

#include "common/err.h"

struct proxy;
struct renewal;

struct renewal *renewal_start(struct proxy *proxy, struct err *err);
/* The site is another one. */
void renewal_look(struct renewal *r);
/* Ends a request under way within a few seconds. NULL allowed. */
void renewal_stop(struct renewal *r);

#endif
