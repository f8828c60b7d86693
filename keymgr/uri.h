/* uri: the parts of a provider's URI: text in which %XX stands for a byte, and options behind a question mark. */
#ifndef KEYMGR_URI_H
#define KEYMGR_URI_H

#include <stddef.h>

#include "common/err.h"

/* %XX in place; ERR_USAGE for another % and for a NUL. */
int uri_unescape(char *text, struct err *err);
/* All but letters, digits and -._~ as %XX; ERR_USAGE when it does not fit. */
int uri_escape(const char *text, char *out, size_t out_len, struct err *err);

/* An option of a URI and where its value goes; a table ends with a name that is NULL. */
struct uri_option {
	const char *name, **to;
};
/*
 * A server's URI behind its scheme and colon, //HOST[:PORT]/PATH?NAME=VALUE&...: text is cut up in place, and path and
 * values are unescaped; all results point into it. example is shown when it is not of that form (ERR_USAGE).
 */
int uri_server(char *text, const char *example, const char **host_port, const char **path,
               const struct uri_option *options, struct err *err);

#endif
