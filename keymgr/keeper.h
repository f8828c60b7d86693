/*
 * keeper: the processes of the provider external:, which keep keys and are asked in lines (docs/formats/external.md).
 *
 * One process for each command, started when it is first asked and kept until kek_finish or the end of the program.
 * One that has died is started again, and so is one that answered late or said more than it was asked: after that
 * nobody knows which answer is whose. Thread-safe: one question at a time.
 */
#ifndef KEYMGR_KEEPER_H
#define KEYMGR_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define KEEPER_LINE_MAX 2048
#define KEEPER_KEYS_MAX 100000 /* in a list */

/* In secure memory: keys pass through both texts. */
struct keeper_talk {
	char question[KEEPER_LINE_MAX]; /* without the newline */
	char answer[KEEPER_LINE_MAX];   /* what stands behind "ok ", or nothing */
	bool sent_twice;                /* the process died in between: it may have done it already */
};

/*
 * Ask the process of this command, by the deadline (clock_now_ms). ERR_UNREACHABLE: it cannot be started, dies twice,
 * is late, or says "error unavailable" or "error denied"; ERR_FAILED: another error, with os_errno ENOENT for "absent"
 * and EEXIST for "exists", or an answer that is none. each, for "list": called for the lines that follow.
 */
int keeper_ask(const char *command, struct keeper_talk *talk, void (*each)(void *arg, char *line), void *arg,
               int64_t deadline_ms, struct err *err);
/* Stop them all. */
void keeper_stop_all(void);

#endif
