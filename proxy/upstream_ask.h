/*
 * upstream_ask: the questions that every upstream is asked when it is connected, in their order, and what the answers
 * must be. What is not supported is refused by name.
 */
#ifndef PROXY_UPSTREAM_ASK_H
#define PROXY_UPSTREAM_ASK_H

#include "proxy/upstream.h"

struct upstream_answer {
	const char *name; /* of the node */
	PGconn *conn;
	bool allow_plaintext;
	struct upstream_facts *facts; /* filled */
};

struct upstream_question {
	const char *sql;
	int column; /* of the value, in the one row of the answer */
	int (*take)(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err);
};

extern const struct upstream_question upstream_questions[];
extern const size_t upstream_nquestions;

/* Before the questions: the way to it (without allow_plaintext TLS, unless it is this machine), and the version that it
 * has told at the start. */
int upstream_check_way(struct upstream_answer *a, struct err *err);
int upstream_check_version(struct upstream_answer *a, struct err *err);

#endif
