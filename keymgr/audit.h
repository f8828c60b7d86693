/*
 * audit: who did what with keys, and what came of it: JSON lines, each with the SHA-256 of the one before, in a file
 * that is only appended to. No key and no passphrase is in it. docs/formats/audit.md.
 */
#ifndef KEYMGR_AUDIT_H
#define KEYMGR_AUDIT_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define AUDIT_HASH_LEN 65 /* hex, with the NUL */

struct audit {
	char path[PATH_MAX];
	char action[64];
	uint64_t number; /* of the record that says "begun" */
};

/*
 * Say that an action begins, before anything is changed: the record is durable when this returns, and there is room for
 * the one that says how it ended. arguments: words, shown as they are but for one that holds a key. ERR_REFUSED when
 * the log cannot be written: then nothing may be changed. One at a time per struct; several processes may share the
 * file.
 */
int audit_begin(struct audit *a, const char *path, const char *action, const char *const *arguments, size_t n,
                struct err *err);
/* How it ended: error NULL: done. */
int audit_end(struct audit *a, const struct err *error, struct err *err);
/* Begin and end at once. detail: more words. */
int audit_note(const char *path, const char *action, const char *const *arguments, size_t n, struct err *err);

struct audit_facts {
	uint64_t records;
	char last[AUDIT_HASH_LEN]; /* hash of the last record: to be remembered elsewhere */
	uint64_t open;             /* actions that began and of which no end is told */
	uint64_t expected;         /* records up to the one with the hash that was asked for; 0: not found */
};
/* Called for each record as it stands in the file. */
typedef void audit_reader(void *arg, const char *line, size_t len);
/*
 * Is every record there and as it was written? expected: a hash remembered from an earlier look, or NULL; each, arg:
 * may be NULL. ERR_DAMAGED names the first line that does not fit. What is cut off behind the end of the chain only a
 * remembered hash can tell.
 */
int audit_verify(const char *path, const char *expected, audit_reader *each, void *arg, struct audit_facts *facts,
                 struct err *err);

#endif
