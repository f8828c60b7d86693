#include "common/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OPTIONS_MAX 32

static int
usage(struct err *err, const char *what, const char *option)
{
	return err_set(err, ERR_USAGE, "%s %s", what, option);
}

static int
option_apply(const struct option_def *o, const char *shown, const char *value, void *object, struct err *err)
{
	void *field = (char *)object + o->offset;
	char *end;
	long n;

	switch (o->kind) {
	case OPTION_FLAG:
	case OPTION_HELP:
		*(bool *)field = true;
		break;
	case OPTION_TEXT:
		*(const char **)field = value;
		break;
	case OPTION_NUMBER:
		errno = 0;
		n = strtol(value, &end, 10);
		if (end == value || *end != '\0' || errno != 0 || n < o->min || n > o->max)
			return err_set(err, ERR_USAGE, "%s takes a number from %d to %d, not \"%s\"", shown, o->min, o->max, value);
		*(int *)field = (int)n;
		break;
	}
	return 0;
}

static const struct option_def *
find(const struct option_def *defs, const char *name, size_t len, char letter)
{
	for (const struct option_def *o = defs; o->name != NULL; o++)
		if (letter != 0 ? o->letter == letter : strlen(o->name) == len && strncmp(o->name, name, len) == 0)
			return o;
	return NULL;
}

static bool
takes_value(const struct option_def *o)
{
	return o->kind == OPTION_TEXT || o->kind == OPTION_NUMBER;
}

int
options_parse(const struct option_def *defs, enum options_style style, int argc, char *const *argv, void *object,
              const char **args, size_t *nargs, struct err *err)
{
	bool given[OPTIONS_MAX] = {false};
	bool ended = false;

	*nargs = 0;
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *value = NULL, *equals;
		const struct option_def *o;
		bool is_long = arg[0] == '-' && arg[1] == '-';

		if (ended || arg[0] != '-' || arg[1] == '\0') {
			ended = ended || style == OPTIONS_UNTIL_FIRST;
			args[(*nargs)++] = arg;
			continue;
		}
		if (strcmp(arg, "--") == 0) {
			ended = true;
			continue;
		}
		if (is_long) {
			equals = strchr(arg, '=');
			o = find(defs, arg + 2, equals != NULL ? (size_t)(equals - arg - 2) : strlen(arg + 2), 0);
			value = equals != NULL ? equals + 1 : NULL;
		} else {
			o = find(defs, NULL, 0, arg[1]);
			value = arg[2] != '\0' ? arg + 2 : NULL;
		}
		if (o == NULL) {
			if (style != OPTIONS_PASS)
				return usage(err, "unknown option", arg);
			args[(*nargs)++] = arg;
			continue;
		}
		if (!takes_value(o) && value != NULL)
			return usage(err, "no argument belongs to", arg);
		if (takes_value(o) && value == NULL && (value = ++i < argc ? argv[i] : NULL) == NULL)
			return usage(err, "an argument is missing after", arg);
		if (given[o - defs])
			return usage(err, "given twice:", arg);
		given[o - defs] = true;
		if (option_apply(o, arg, value, object, err) != 0)
			return -1;
		if (o->kind == OPTION_HELP)
			break;
	}
	args[*nargs] = NULL;
	return 0;
}

void
options_help(FILE *to, const struct option_def *defs)
{
	char left[64];

	for (const struct option_def *o = defs; o->name != NULL; o++) {
		char letter[8] = "    ";

		if (o->letter != 0)
			snprintf(letter, sizeof(letter), "-%c, ", o->letter);
		snprintf(left, sizeof(left), "  %s--%s%s%s", letter, o->name, o->argument != NULL ? "=" : "",
		         o->argument != NULL ? o->argument : "");
		fprintf(to, "%-32s %s\n", left, o->help);
	}
}
