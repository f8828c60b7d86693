/* Command lines from tables. */
#include "common/options.h"

#include <stdlib.h>

#include "tests/unit/tap.h"

struct target {
	bool help, flag;
	const char *text;
	int number;
};

static const struct option_def defs[] = {
    {"text", 't', OPTION_TEXT, offsetof(struct target, text), "TEXT", "a text", 0, 0},
    {"number", 'n', OPTION_NUMBER, offsetof(struct target, number), "N", "a number", 1, 9},
    {"flag", 0, OPTION_FLAG, offsetof(struct target, flag), NULL, "a flag", 0, 0},
    {"help", '?', OPTION_HELP, offsetof(struct target, help), NULL, "help", 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, 0, 0}};

/* line: words separated by blanks. Returns what options_parse does; rest: the arguments, joined by "|". */
static int
parse(enum options_style style, const char *line, struct target *t, char rest[static 256], struct err *err)
{
	static char copy[256];
	char *argv[32] = {(char[]){"program"}}, *save = NULL;
	const char *args[32];
	int argc = 1;
	size_t nargs, at = 0;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	memset(t, 0, sizeof(*t));
	memset(err, 0, sizeof(*err));
	rest[0] = '\0';
	if (options_parse(defs, style, argc, argv, t, args, &nargs, err) != 0)
		return -1;
	for (size_t i = 0; i < nargs; i++)
		at += (size_t)snprintf(rest + at, 256 - at, "%s%s", i > 0 ? "|" : "", args[i]);
	return args[nargs] == NULL ? 0 : -2;
}

int
main(void)
{
	static const struct {
		enum options_style style;
		const char *line, *text;
		int number;
		const char *rest;
	} good[] = {
	    {OPTIONS_ALL, "-t x -n 3 a b", "x", 3, "a|b"},
	    {OPTIONS_ALL, "a -tx b -n3", "x", 3, "a|b"},
	    {OPTIONS_ALL, "--text=x --number 9", "x", 9, ""},
	    {OPTIONS_ALL, "--text= a - b", "", 0, "a|-|b"},
	    {OPTIONS_ALL, "-t -n -- -n 3", "-n", 0, "-n|3"},
	    {OPTIONS_UNTIL_FIRST, "-t x prog -t y -- z", "x", 0, "prog|-t|y|--|z"},
	    {OPTIONS_UNTIL_FIRST, "-t x -- -prog", "x", 0, "-prog"},
	    {OPTIONS_PASS, "name -X fetch -t x --checkpoint=fast -v", "x", 0, "name|-X|fetch|--checkpoint=fast|-v"},
	};
	static const struct {
		const char *line, *said;
	} bad[] = {
	    {"-x", "unknown option -x"},
	    {"--texts=1", "unknown option --texts=1"},
	    {"-t", "an argument is missing after -t"},
	    {"-t a --text=b", "given twice: --text=b"},
	    {"--flag=1", "no argument belongs to --flag=1"},
	    {"-n 10", "takes a number from 1 to 9, not \"10\""},
	    {"-n x", "takes a number from 1 to 9, not \"x\""},
	    {"-n 1x", "takes a number from 1 to 9"},
	};
	char rest[256];
	struct target t;
	struct err err;
	char *text = NULL;
	size_t len;
	FILE *memory;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		is_int(parse(good[i].style, good[i].line, &t, rest, &err), 0, "%s", good[i].line);
		is_str(t.text, good[i].text, "... its text");
		is_int(t.number, good[i].number, "... its number");
		is_str(rest, good[i].rest, "... its arguments");
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		is_int(parse(OPTIONS_ALL, bad[i].line, &t, rest, &err), -1, "%s is refused", bad[i].line);
		is_err(&err, ERR_USAGE, bad[i].said, "... and said");
	}
	ok(parse(OPTIONS_ALL, "--flag -? -x", &t, rest, &err) == 0 && t.help && t.flag, "help ends parsing");
	memory = open_memstream(&text, &len);
	options_help(memory, defs);
	fclose(memory);
	ok(strstr(text, "  -t, --text=TEXT ") != NULL && strstr(text, "      --flag ") != NULL, "the help text");
	free(text);
	return tap_done();
}
