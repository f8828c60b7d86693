/* slots: the primary's replication slots, which are the target's from the promotion on. */
#ifndef CTL_SWITCHOVER_SLOTS_H
#define CTL_SWITCHOVER_SLOTS_H

#include "ctl/switchover/switchover.h"

struct slot {
	char name[64];
	bool logical;
	bool there; /* on the target, too; a logical one: synchronised and of use */
	bool own;   /* the target itself streams by it: nobody needs it there */
	/* LSN from which on it keeps WAL for who is away; 0: for nobody. Who streams gets the rest before the primary stops
	 */
	uint64_t from;
};

/* The lasting slots of the primary, *n of them, to be freed; NULL with err set. */
struct slot *slots_read(struct switchover *s, size_t *n, struct err *err);
/* The LSN from which on the target has WAL for a slot that is made there. */
int slots_kept_from(struct switchover *s, uint64_t *from, struct err *err);
/* Physical ones that are not there are made on the target, and noted in the logbook; logical ones that are not there
 * are dropped from the primary when the options say so. */
int slots_settle(struct switchover *s, struct err *err);
/* When the old primary follows: those that it has left, and that are the new primary's now, are dropped from it, where
 * they would keep WAL that nobody takes. What fails is said, and does no harm. */
void slots_leave(struct switchover *s);

#endif
