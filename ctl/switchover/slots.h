/* slots: the primary's replication slots, which are the target's from the promotion on. */
#ifndef CTL_SWITCHOVER_SLOTS_H
#define CTL_SWITCHOVER_SLOTS_H

#include "ctl/switchover/switchover.h"

struct slot {
	char name[64];
	bool logical;
	bool there; /* on the target, too; a logical one: synchronised and of use */
	bool own;   /* the target itself streams by it: nobody needs it there */
};

/* The lasting slots of the primary, *n of them, to be freed; NULL with err set. */
struct slot *slots_read(struct switchover *s, size_t *n, struct err *err);
/* Physical ones that are not there are made on the target, and noted in the logbook; logical ones that are not there
 * are dropped from the primary when the options say so. */
int slots_settle(struct switchover *s, struct err *err);

#endif
