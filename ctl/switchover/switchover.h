/*
 * switchover: from one primary to another with a proof in between; what its parts share.
 *
 * The driver (ctl/switchover/driver.c) takes the logbook's states in their order. Each has a function that brings it
 * about and may be called again when it was cut off; the state is written down when the function has returned.
 */
#ifndef CTL_SWITCHOVER_SWITCHOVER_H
#define CTL_SWITCHOVER_SWITCHOVER_H

#include <postgresql/libpq-fe.h>

#include "ctl/switchover/control.h"
#include "ctl/switchover/holder.h"
#include "ctl/switchover/logbook.h"
#include "ctl/switchover/node.h"
#include "ctl/switchover/proof.h"
#include "ctl/switchover/sampler.h"

struct switchover_options {
	const char *to;
	const char *report; /* prefix of the report's files; NULL: none */
	enum switch_kind kind;
	enum switch_old old_fate;
	int timeout_s;  /* of a stop, a start, a promotion, a standby that shall follow */
	int max_lag_mb; /* of the standby when it begins */
	bool drop_logical_slots, allow_no_checksums, yes;
};

struct switchover {
	const struct switchover_options *options;
	const struct settings *settings;
	PGconn *console; /* the proxy's */
	struct logbook log;
	const struct settings_node *from_set, *to_set;
	struct node from, to;
	struct control from_control, to_control;
	struct proof proof;
	struct holder *holder;   /* NULL: nobody is held, or an earlier run said it */
	struct sampler *sampler; /* NULL: nobody wants to see */
	struct samples samples;
	char waits[128]; /* what is missing, for who waits; "": not said */
	bool gave_up;    /* the last wait was in vain */
	bool comes;      /* a dry run: the target is not there yet, so nothing can be asked of it */
	bool stages;     /* a dry run: the next WAL epoch is yet to be staged */
	uint64_t near;   /* LSN from which on the target is near enough for the primary's stop */
};

/* A query to the proxy's console; the connection is made again when it was lost, and a proxy that was there and is away
 * is waited for, for some seconds. */
PGresult *switchover_console(struct switchover *s, const char *query, struct err *err);
/* Wait for `ready` to say 1 (0: not yet, -1: err), every few milliseconds, for the timeout of the options. Waiting for
 * `what` in vain is ERR_FAILED. Tells now and then how it stands, by s->waits, which `ready` may fill. */
int switchover_wait(struct switchover *s, const char *what, int (*ready)(struct switchover *s, struct err *err),
                    struct err *err);
/* The last stream of a node of the proxy, as it tells; 1: there is one, 0: none. */
struct stream_facts {
	char upstream[SETTINGS_NAME_MAX + 1];
	char end[32], why[256]; /* "streams", "complete" ... */
	uint64_t system_identifier;
	uint32_t tli;
	bool runs, shutdown_checkpoint;
	uint64_t record, record_end, received, sent, replayed;
};
int switchover_stream(struct switchover *s, const char *node, struct stream_facts *f, struct err *err);

/* preflight.c: finds both nodes and looks at everything that must hold; prints a line for each check. Fills from, to
 * and the logbook's plan. -1: something is against it (ERR_REFUSED), or could not be found out. */
int preflight_run(struct switchover *s, struct err *err);
/* Print what would be done. */
void preflight_plan(const struct switchover *s);

/* The ids of both nodes' keys, into the logbook. */
int keys_before_and_after(struct switchover *s, uint32_t tli, struct err *err);

/* rotate.c: the target, built and running with the next WAL epoch. */
int rotate_prepare(struct switchover *s, struct err *err);
/* Print what that would do, and note what can not be looked at before. */
int rotate_plan(struct switchover *s, struct err *err);
/* Is there a server in its datadir? */
bool node_is_built(const struct settings_node *n);
/* A base backup into it, through the proxy. */
int node_build(const struct switchover *s, const struct settings_node *n, struct err *err);

/* failover.c: preflight when there is no primary; what takes the places of the stop and of the proof. */
int failover_plan(struct switchover *s, struct err *err);
/* Does a failover give up this switchover, which was stopped midway before the promotion? Then what it holds (the
 * proxy's sessions, the traffic) goes over to the failover, and its times and positions are forgotten. */
bool failover_takes_over(struct logbook *l);
int failover_fence(struct switchover *s, struct err *err);
int failover_stop(struct switchover *s, struct err *err);
int failover_position(struct switchover *s, struct err *err);

/* prove.c: gather the facts and judge; proof printed. ERR_FAILED when it does not hold. */
int step_prove(struct switchover *s, struct err *err);
/* Before one that was stopped after its proof goes on to the promotion: the old primary may have been started again
 * since. ERR_FAILED when it was; when it cannot be asked, too, unless the operator's --yes says that it is down. */
int proof_still_holds(struct switchover *s, struct err *err);

/* steps.c: one for each state from SWITCH_SLOTS to SWITCH_DONE. */
int step_run(struct switchover *s, enum switch_state state, struct err *err);
/* What it is called when it is done; NULL: it is not worth telling, as the hook's where there is none. */
const char *step_title(const struct switchover *s, enum switch_kind kind, enum switch_state state);
/* Everything back as it was: the old primary runs and takes writes again. */
int step_undo(struct switchover *s, struct err *err);
/* Tell the hook: "pause", "switch" (traffic goes to node), "resume" (traffic goes on to node, as before). */
int hook_run(const struct switchover *s, const char *action, const struct settings_node *node, struct err *err);

/* old.c: what becomes of the old primary. */
int old_settle(struct switchover *s, struct err *err);

/* driver.c */
int switchover_run(struct switchover *s, bool dry_run, struct err *err);
int switchover_resume(struct switchover *s, struct err *err);
int switchover_abort(struct switchover *s, struct err *err);

#endif
