/*
 * logbook: how far a switchover has come, durably, so that it can go on, or back, after a crash of the tool. One file
 * in the keystore ("switchover.json"), replaced as a whole before and after each step; a lock beside it, so that there
 * is one switchover at a time. When it is over the file is renamed to "switchover.last.json".
 */
#ifndef CTL_SWITCHOVER_LOGBOOK_H
#define CTL_SWITCHOVER_LOGBOOK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/settings.h"
#include "keymgr/keydir.h"

/* Each says what has been done. Up to PROVEN there is a way back; PROMOTING is written before the promotion is asked
 * for. */
enum switch_state {
	SWITCH_PLANNED,
	SWITCH_SLOTS,        /* the other standbys' slots are on the target */
	SWITCH_CHECKPOINTED, /* the primary */
	SWITCH_HELD,         /* the proxy holds new sessions, but the target's */
	SWITCH_QUIET,        /* the hook has been told to hold the application's traffic */
	SWITCH_FENCED,       /* the old primary cannot come back as one by itself */
	SWITCH_STOPPED,
	SWITCH_PROVEN,
	SWITCH_PROMOTING,
	SWITCH_PROMOTED,
	SWITCH_RELEASED, /* the proxy knows the new timeline and has let the sessions go on */
	SWITCH_MOVED,    /* the hook has been told where the traffic goes now */
	SWITCH_FOLLOWED, /* the other standbys stream from the new primary */
	SWITCH_SETTLED,  /* the old primary is what --old says */
	SWITCH_DONE,
	SWITCH_ABORTING,
	SWITCH_ABORTED,
	SWITCH_STATES
};
/* "planned", "slots" ... */
const char *switch_state_name(enum switch_state state);
/* Is it a move that may be made? */
bool switch_may_move(enum switch_state from, enum switch_state to);

enum switch_kind { SWITCH_SWITCHOVER, SWITCH_ROTATE, SWITCH_FAILOVER };
enum switch_old { SWITCH_OLD_STOP, SWITCH_OLD_CLEAR, SWITCH_OLD_REENCRYPT };
const char *switch_kind_name(enum switch_kind kind);
const char *switch_old_name(enum switch_old old);
int switch_old_parse(const char *text, enum switch_old *old); /* -1: none of them */

struct switch_keys { /* of a node, by the ids that are safe to show; "" when it is clear */
	char relation[KEY_ID_HEX_LEN], wal[KEY_ID_HEX_LEN];
	uint32_t epoch; /* 0: none */
};

struct logbook {
	char keystore[PATH_MAX];
	int lock;
	/* the file's contents */
	enum switch_kind kind;
	enum switch_state state;
	enum switch_old old_fate;
	char from[SETTINGS_NAME_MAX + 1], to[SETTINGS_NAME_MAX + 1];
	uint64_t system_identifier;
	uint32_t tli, new_tli;
	uint64_t checkpoint, checkpoint_end; /* LSNs of the proven shutdown checkpoint; 0: not yet */
	uint64_t switch_lsn;                 /* where the new timeline begins */
	struct switch_keys before, after;
	bool hold, traffic, fence; /* what abort must undo: the proxy's hold, the hook, the signal file */
	char (*slots)[64];         /* made on the target */
	size_t nslots;
	char report[PATH_MAX];         /* prefix of the report's files, an absolute path; "": none */
	double at[SWITCH_STATES];      /* when each state was reached: seconds since 1970; 0: not */
	double pause_begin, pause_end; /* the last transaction seen on the old primary, the first on the new; 0: not seen */
};

/* Take the lock. ERR_REFUSED when another has it. */
int logbook_open(struct logbook *l, const char *keystore, struct err *err);
/* 1: there is an unfinished switchover, and l holds it; 0: there is none. */
int logbook_read(struct logbook *l, struct err *err);
/* Begin one: written as SWITCH_PLANNED. */
int logbook_begin(struct logbook *l, struct err *err);
/* What has changed, without another state. */
int logbook_write(struct logbook *l, struct err *err);
/* The one mover: checks the move, notes the time, writes. */
int logbook_move(struct logbook *l, enum switch_state to, struct err *err);
/* What the file says; a new reference, NULL: out of memory. */
json_t *logbook_json(const struct logbook *l);
/* It is over, done or aborted: the file is put aside. */
int logbook_finish(struct logbook *l, struct err *err);
int logbook_add_slot(struct logbook *l, const char *name, struct err *err);
void logbook_close(struct logbook *l);

/* Seconds since 1970, with microseconds. */
double switch_now(void);

#endif
