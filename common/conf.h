/*
 * conf: the syntax of walcrypt.ini: sections of name = value lines. What the names mean is common/settings.h's.
 *
 *   [walcrypt]            a section: kind alone, or kind and name: [node blue]
 *   name = value          blanks around both are cut; the value is the rest of the line as it stands ("#", ";" and
 * quotes included) # text   ; text       a comment, only on a line of its own
 *
 * A line has at most 8192 bytes. Strict: a name outside a section, a repeated section or name, an empty name, a control
 * character or an overlong line is ERR_USAGE naming file and line.
 */
#ifndef COMMON_CONF_H
#define COMMON_CONF_H

#include <stddef.h>

#include "common/err.h"

#define CONF_LINE_MAX 8192
#define CONF_FILE_MAX (1 << 20)

struct conf_entry {
	char *name, *value;
	unsigned line;
};

struct conf_section {
	char *kind, *name; /* name: NULL when the section has none */
	unsigned line;
	struct conf_entry *entries;
	size_t nentries;
};

struct conf {
	char *file; /* as given; for messages */
	struct conf_section *sections;
	size_t nsections;
};

/* Parse len bytes of text; file is only named in errors. NULL with err set on failure; free with conf_free. */
struct conf *conf_parse(const char *file, const char *text, size_t len, struct err *err);
/* Read and parse a file. It decides what programs run: ERR_REFUSED when others than root or the present user may write
 * it. */
struct conf *conf_load(const char *path, struct err *err);
void conf_free(struct conf *c); /* NULL allowed */

/* The line where an entry of a section stands, else the section's, else 0. name: NULL for a section without one. */
unsigned conf_line(const struct conf *c, const char *kind, const char *name, const char *entry);

/* ERR_USAGE with "file:line: " before the text. Returns -1. */
int conf_error(struct err *err, const struct conf *c, unsigned line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
