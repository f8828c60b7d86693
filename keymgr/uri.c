#include "keymgr/uri.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/hex.h"

int
uri_unescape(char *text, struct err *err)
{
	char *to = text;

	for (char *from = text; *from != '\0'; from++) {
		int hi, lo;

		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		if ((hi = hex_digit(from[1])) < 0 || (lo = hex_digit(from[2])) < 0 || (hi == 0 && lo == 0))
			return err_set(err, ERR_USAGE, "key provider has a %% that is not followed by two hexadecimal digits");
		*to++ = (char)(hi << 4 | lo);
		from += 2;
	}
	*to = '\0';
	return 0;
}

int
uri_escape(const char *text, char *out, size_t out_len, struct err *err)
{
	size_t len = 0;

	for (; *text != '\0'; text++) {
		bool plain = isalnum((unsigned char)*text) || strchr("-._~", *text) != NULL;

		if (len + 4 > out_len)
			return err_set(err, ERR_USAGE, "the name is too long");
		len += (size_t)(plain ? snprintf(out + len, 2, "%c", *text)
		                      : snprintf(out + len, 4, "%%%02X", (unsigned)(unsigned char)*text));
	}
	out[len] = '\0';
	return 0;
}

static int
option_set(const struct uri_option *options, const char *name, const char *value, struct err *err)
{
	char known[200] = "";
	size_t len = 0;

	for (const struct uri_option *o = options; o->name != NULL; o++) {
		if (strcmp(o->name, name) == 0) {
			*o->to = value;
			return 0;
		}
		if (len < sizeof(known))
			len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s",
			                        o == options        ? ""
			                        : o[1].name != NULL ? ", "
			                                            : " and ",
			                        o->name);
	}
	err_set(err, ERR_USAGE, "key provider has an unknown option \"%.63s\"", name);
	return err_hint(err, "Known are %s.", known);
}

int
uri_server(char *text, const char *example, const char **host_port, const char **path, const struct uri_option *options,
           struct err *err)
{
	char *slash, *option, *next;

	if (strncmp(text, "//", 2) != 0 || (slash = strchr(text + 2, '/')) == NULL || slash == text + 2 || slash[1] == '\0')
		goto shape;
	*slash = '\0';
	*host_port = text + 2;
	if (strpbrk(*host_port, "@?#%") != NULL)
		goto shape;
	if ((option = strchr(slash + 1, '?')) != NULL)
		*option++ = '\0';
	if (slash[1] == '\0')
		goto shape;
	if (uri_unescape(slash + 1, err) != 0)
		return -1;
	*path = slash + 1;
	for (; option != NULL && *option != '\0'; option = next) {
		char *value;

		if ((next = strchr(option, '&')) != NULL)
			*next++ = '\0';
		if ((value = strchr(option, '=')) == NULL)
			goto shape;
		*value++ = '\0';
		if (uri_unescape(value, err) != 0 || option_set(options, option, value, err) != 0)
			return -1;
	}
	return 0;
shape:
	err_set(err, ERR_USAGE, "key provider is not of the form SCHEME://HOST[:PORT]/PATH");
	return err_hint(err, "For example: %s", example);
}
