/*
 * command_scan: the words of a replication command, as src/backend/replication/repl_scanner.l cuts them.
 *
 * Keywords are upper case only (so a slot may be called wait); bare identifiers become lower case; a quoted identifier
 * cannot hold a double quote; in a string two single quotes are one. No comments, no escapes.
 */
#ifndef REPLICATION_COMMAND_SCAN_H
#define REPLICATION_COMMAND_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum command_token { TOKEN_END, TOKEN_KEYWORD, TOKEN_NAME, TOKEN_STRING, TOKEN_NUMBER, TOKEN_LSN, TOKEN_SIGN };

struct command_scan {
	const char *at, *end;     /* what has not been read */
	enum command_token token; /* the present word */
	const char *raw;          /* where it begins, for error messages */
	size_t raw_len;
	char *text; /* KEYWORD (as written), NAME, STRING; owned, of the text's length at most */
	uint32_t number;
	uint64_t lsn;
	char sign;
};

/* Reads the first word too. */
int command_scan_init(struct command_scan *s, const char *text, size_t len, struct err *err);
void command_scan_free(struct command_scan *s);
int command_scan_next(struct command_scan *s, struct err *err);
bool command_scan_is(const struct command_scan *s, const char *keyword);
/* -1 with 42601: syntax error at or near "...". */
int command_scan_error(const struct command_scan *s, struct err *err);

#endif
