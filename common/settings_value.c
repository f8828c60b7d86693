/* settings_value: one value of walcrypt.ini, from its text to the option's field. */
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/settings_intern.h"

bool
settings_name_valid(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > SETTINGS_NAME_MAX || (*name != '_' && (*name < 'a' || *name > 'z')))
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == len;
}

/* 0, or -1 with the reason in why. */
static int
number_parse(const struct settings_option *o, const char *value, int *out, const char **why)
{
	bool time = o->kind == SETTING_MS || o->kind == SETTING_SECONDS;
	long long factor = time ? 1000 : 1, n;
	char *end;

	errno = 0;
	n = strtoll(value, &end, 10);
	*why = "is not a number";
	if (end == value || errno != 0 || *value < '0' || *value > '9')
		return -1;
	while (time && *end == ' ')
		end++;
	if (time && *end != '\0') {
		static const struct {
			const char *unit;
			int ms;
		} units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}};
		bool found = false;

		*why = "has no unit of time that is known (ms, s, min, h)";
		for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
			if (strcmp(end, units[i].unit) == 0) {
				factor = units[i].ms;
				found = true;
			}
		if (!found)
			return -1;
	} else if (*end != '\0')
		return -1;
	*why = "is out of range";
	if (n > INT_MAX || __builtin_mul_overflow(n, factor, &n))
		return -1;
	if (o->kind == SETTING_SECONDS)
		n /= 1000;
	if (n < o->min || n > o->max)
		return -1;
	*out = (int)n;
	return 0;
}

static int
bool_parse(const char *value, bool *out)
{
	static const char *const words[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcasecmp(value, words[i]) == 0) {
			*out = i % 2 != 0;
			return 0;
		}
	return -1;
}

/* "a, b" -> NULL-terminated array; NULL on a lack of memory, or with *empty set on an empty member. */
static char **
list_parse(const char *value, bool *empty)
{
	char **list = calloc(1, sizeof(*list));
	size_t n = 0;

	*empty = false;
	while (list != NULL && *value != '\0') {
		size_t skip = strspn(value, " \t"), len, whole;
		char **grown;

		value += skip;
		whole = len = strcspn(value, ",");
		while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
			len--;
		*empty = *empty || len == 0;
		if ((grown = reallocarray(list, n + 2, sizeof(*list))) == NULL)
			goto fail;
		list = grown;
		list[n + 1] = NULL;
		if ((list[n++] = strndup(value, len)) == NULL)
			goto fail;
		value += whole;
		if (*value == ',') {
			value++;
			*empty = *empty || *value == '\0';
		}
	}
	return list;
fail:
	for (size_t i = 0; list[i] != NULL; i++)
		free(list[i]);
	free(list);
	return NULL;
}

void
settings_list_free(char **list)
{
	for (size_t i = 0; list != NULL && list[i] != NULL; i++)
		free(list[i]);
	free(list);
}

char *
settings_path(const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');
	char *made;

	if (*path == '/' || slash == NULL)
		return strdup(path);
	return asprintf(&made, "%.*s/%s", (int)(slash - file), file, path) < 0 ? NULL : made;
}

int
settings_value_set(const struct settings_option *o, void *object, const struct conf *c, unsigned line,
                   const char *value, struct err *err)
{
	void *field = (char *)object + o->offset;
	const char *why;
	bool empty;

	if (*value == '"' || *value == '\'') {
		conf_error(err, c, line, "the value of %s stands in quotes", o->name);
		return err_hint(err, "A value is the rest of its line as it stands: take the quotes away.");
	}
	switch (o->kind) {
	case SETTING_NAME:
		if (!settings_name_valid(value)) {
			conf_error(err, c, line, "\"%s\" in %s is not a name", value, o->name);
			return err_hint(err, "A name has at most %d of a-z, 0-9, _ and -, and begins with a letter or _.",
			                SETTINGS_NAME_MAX);
		}
		/* FALLTHROUGH */
	case SETTING_TEXT:
	case SETTING_PATH:
		if (*value == '\0')
			return conf_error(err, c, line, "%s has no value", o->name);
		*(char **)field = o->kind == SETTING_PATH ? settings_path(c->file, value) : strdup(value);
		return *(char **)field == NULL ? err_nomem(err) : 0;
	case SETTING_LIST:
		if ((*(char ***)field = list_parse(value, &empty)) == NULL)
			return err_nomem(err);
		return empty ? conf_error(err, c, line, "%s has an empty member", o->name) : 0;
	case SETTING_NUMBER:
	case SETTING_MS:
	case SETTING_SECONDS:
		if (number_parse(o, value, field, &why) == 0)
			return 0;
		conf_error(err, c, line, "%s = \"%s\" %s", o->name, value, why);
		return err_hint(err, "It lies between %d and %d%s.", o->min, o->max,
		                o->kind == SETTING_MS        ? " ms"
		                : o->kind == SETTING_SECONDS ? " s"
		                                             : "");
	case SETTING_BOOL:
		return bool_parse(value, field) == 0
		           ? 0
		           : conf_error(err, c, line, "%s = \"%s\" is neither on nor off", o->name, value);
	case SETTING_LOG_LEVEL:
		return log_level_parse(value, field) == 0
		           ? 0
		           : conf_error(err, c, line,
		                        "log_level = \"%s\" is not one of debug, info, notice, warning, error, fatal", value);
	}
	return 0;
}
