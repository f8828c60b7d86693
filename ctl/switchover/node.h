/*
 * node: SQL on a node's server, over one connection that is opened when it is needed and again when it was lost. The
 * connection is that of the section's control_conninfo, else of its conninfo, to database postgres if it names none.
 */
#ifndef CTL_SWITCHOVER_NODE_H
#define CTL_SWITCHOVER_NODE_H

#include <postgresql/libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/settings.h"

struct node {
	const struct settings_node *set;
	int connect_timeout_s;
	PGconn *conn; /* NULL: not connected */
};

/* Zero it and set these two before its first use; close is allowed at any time. */
void node_close(struct node *n);
int node_open(struct node *n, struct err *err);
/* Run a query with text parameters (NULL-terminated list, or NULL); rows or none. PQclear frees. ERR_UNREACHABLE when
 * the server is not there, or does not answer for half a minute. */
PGresult *node_ask(struct node *n, const char *sql, const char *const *parameters, struct err *err);
/* The same, for a query that gives nothing worth looking at. */
int node_do(struct node *n, const char *sql, const char *const *parameters, struct err *err);
/* Without parameters, and without limit of time: a checkpoint. */
int node_do_long(struct node *n, const char *sql, struct err *err);

/* How a server is doing. */
struct node_facts {
	int version; /* 150018 */
	uint64_t system_identifier;
	bool recovery, checksums;
	uint32_t tli;
	uint64_t written;           /* a primary's end of WAL */
	uint64_t flushed, replayed; /* a standby's */
	bool replay_paused;         /* of a standby */
	int apply_delay_ms;
	bool may_promote, may_checkpoint, may_create_slots; /* the role of the connection */
	bool may_monitor;                                   /* sees all of the pg_stat_ views */
	char synchronous[1024];                             /* synchronous_standby_names */
};
int node_facts(struct node *n, struct node_facts *f, struct err *err);
/* Put one more node's fault into the DETAIL of an error to come. */
void node_fault_add(char detail[static 512], const struct err *why);
/* f->tli of a standby that does not stream comes from its pg_control, which may not have heard of a new timeline until
 * the next restart point. Raise it to that of the newest WAL in its directory, where the role may look (pg_monitor). */
void node_timeline(struct node *n, struct node_facts *f);
/* A standby's positions alone; quick. recovery false: it is none any more. */
int node_positions(struct node *n, struct node_facts *f, struct err *err);

/* The value of a column by its name in a row; NULL: NULL, or no such column. */
const char *row_value(const PGresult *r, int row, const char *column);
/* Is it this? */
bool row_is(const PGresult *r, int row, const char *column, const char *want);
/* It as a number, or as an LSN; 0 when there is none. */
uint64_t row_number(const PGresult *r, int row, const char *column);
uint64_t row_lsn(const PGresult *r, int row, const char *column);
/* host and port of a node's conninfo; empty where it has none. For hooks. */
void node_address(const struct settings_node *set, char host[static 256], char port[static 16]);

#endif
