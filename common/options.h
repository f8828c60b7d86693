/*
 * options: command lines from tables. One table per command drives parsing, --help and the check of the documentation.
 *
 * Long options take their argument as --name=VALUE or --name VALUE, short ones as -DVALUE or -D VALUE. "--" ends
 * options.
 */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/err.h"

enum option_kind {
	OPTION_FLAG,   /* bool: set to true */
	OPTION_TEXT,   /* const char *: the argument */
	OPTION_NUMBER, /* int between min and max */
	OPTION_HELP    /* bool: set to true, and parsing ends there */
};

struct option_def {
	const char *name; /* long name, without dashes */
	char letter;      /* 0: none */
	enum option_kind kind;
	size_t offset;        /* of the field in the command's struct of options */
	const char *argument; /* as help shows it: DIR, URI; NULL for flags */
	const char *help;
	int min, max; /* of numbers */
};

enum options_style {
	OPTIONS_ALL,         /* options and arguments in any order; unknown options are errors */
	OPTIONS_UNTIL_FIRST, /* the first argument that is no option ends the options (`exec`) */
	OPTIONS_PASS         /* unknown options are handed on among the arguments (`build`) */
};

/*
 * Parse argv[1..argc); defs ends with an entry without name. object's fields are only touched for options that are
 * given. args: room for argc pointers; gets what is no option of ours, NULL-terminated; *nargs their number. An option
 * given twice is an error. Returns 0, or -1 with ERR_USAGE.
 */
int options_parse(const struct option_def *defs, enum options_style style, int argc, char *const *argv, void *object,
                  const char **args, size_t *nargs, struct err *err);
/* One line per option: "  -D, --pgdata=DIR   help". */
void options_help(FILE *to, const struct option_def *defs);

#endif
