#include "replication/startup_options.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ALLOWED                                                                                                        \
	"wal_sender_timeout, statement_timeout, lock_timeout, datestyle, intervalstyle, timezone, extra_float_digits, "    \
	"client_min_messages, tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count, tcp_user_timeout"

static bool
is_allowed(const char *name)
{
	static const char allowed[] = ALLOWED;
	size_t len = strlen(name);

	for (const char *p = allowed; *p != '\0'; p += strcspn(p, ","), p += strspn(p, ", "))
		if (strcspn(p, ",") == len && memcmp(p, name, len) == 0)
			return true;
	return false;
}

static bool
is_blank(char ch)
{
	return isspace((unsigned char)ch) != 0;
}

/* The next word, a backslash taking the meaning of what follows it away; word has room for all of text. The rest, or
 * NULL at the end. */
static const char *
next_word(const char *text, char *word)
{
	while (is_blank(*text))
		text++;
	if (*text == '\0')
		return NULL;
	while (*text != '\0' && !is_blank(*text)) {
		if (*text == '\\' && *++text == '\0')
			break;
		*word++ = *text++;
	}
	*word = '\0';
	return text;
}

static int
malformed(struct err *err, const char *word)
{
	err_set(err, ERR_REFUSED, "startup options have \"%.64s\", which is no setting", word);
	err_sqlstate(err, "42601");
	return err_hint(err, "Write them as -c name=value.");
}

/* Append " -c name=value"; out has room. */
static char *
append(char *out, const char *name, const char *value)
{
	out = stpcpy(out, "-c ");
	out = stpcpy(out, name);
	*out++ = '=';
	for (; *value != '\0'; value++) {
		if (*value == '\\' || is_blank(*value))
			*out++ = '\\';
		*out++ = *value;
	}
	*out++ = ' ';
	*out = '\0';
	return out;
}

/* A setting in its own place: name=value, changed to two strings, the name as the server takes it. */
static int
take(char *setting, char **out, struct err *err)
{
	char *value = strchr(setting, '=');

	if (value == NULL || value == setting)
		return malformed(err, setting);
	*value++ = '\0';
	for (char *p = setting; *p != '\0'; p++)
		*p = *p == '-' ? '_' : (char)tolower((unsigned char)*p);
	if (!is_allowed(setting)) {
		err_set(err, ERR_REFUSED, "startup option \"%.64s\" is not passed on to the upstream", setting);
		err_sqlstate(err, "42501");
		err_detail(err, "It would hold on a connection of the proxy's own role there.");
		return err_hint(err, "Set it for that role (ALTER ROLE). Passed on are timeouts, formats and tcp_ settings: "
		                     "docs/proxy.md lists them.");
	}
	*out = append(*out, setting, value);
	return 0;
}

int
startup_options_filter(const char *options, char **out, struct err *err)
{
	size_t len = options == NULL ? 0 : strlen(options);
	char *word, *end;
	int rc = 0;

	*out = NULL;
	if (len == 0)
		return 0;
	/* a word of two bytes, "-c" without its blank, becomes four at most, and each of its bytes two */
	word = malloc(len + 1);
	end = *out = calloc(1, 4 * len + 8);
	if (word == NULL || *out == NULL)
		rc = err_nomem(err);
	while (rc == 0 && (options = next_word(options, word)) != NULL) {
		if (strncmp(word, "-c", 2) == 0 && word[2] != '\0')
			rc = take(word + 2, &end, err);
		else if (strcmp(word, "-c") == 0)
			rc = (options = next_word(options, word)) == NULL ? malformed(err, "-c") : take(word, &end, err);
		else
			rc = strncmp(word, "--", 2) == 0 ? take(word + 2, &end, err) : malformed(err, word);
	}
	free(word);
	if (rc == 0 && end > *out) {
		end[-1] = '\0';
		return 0;
	}
	free(*out);
	*out = NULL;
	return rc;
}
