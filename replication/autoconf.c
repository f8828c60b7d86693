#include "replication/autoconf.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define COMMENT "# walcrypt: "
#define SETTING "shared_preload_libraries"

static bool
holds(const char *text, size_t len, const char *part)
{
	return memmem(text, len, part, strlen(part)) != NULL;
}

/* Is the line the guard's? */
static bool
is_guard(const char *line, size_t len)
{
	if (len >= strlen(COMMENT) && memcmp(line, COMMENT, strlen(COMMENT)) == 0)
		return true;
	while (len > 0 && (*line == ' ' || *line == '\t')) {
		line++;
		len--;
	}
	return len > strlen(SETTING) && strncasecmp(line, SETTING, strlen(SETTING)) == 0 &&
	       holds(line, len, AUTOCONF_LAYER);
}

void
autoconf_put(struct buffer *out, const char *text, size_t len, const char *lines)
{
	const char *end = text + len;

	while (text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		size_t n = newline != NULL ? (size_t)(newline - text) + 1 : (size_t)(end - text);

		if (!is_guard(text, n)) {
			buffer_put(out, text, n);
			/* the file's last line may lack its newline */
			if (newline == NULL && *lines != '\0')
				buffer_put_text(out, "\n");
		}
		text += n;
	}
	buffer_put_text(out, lines);
}

/* One entry of a list of libraries, quoted where it is in the list; its length. */
static size_t
entry_len(const char *list)
{
	bool quoted = false;
	size_t n = 0;

	for (; list[n] != '\0' && (quoted || list[n] != ','); n++)
		if (list[n] == '"')
			quoted = !quoted;
	return n;
}

static void
put_quoted(struct buffer *out, const char *text, size_t len)
{
	for (; len > 0; text++, len--) {
		if (*text == '\'' || *text == '\\')
			buffer_put_u8(out, (uint8_t)*text);
		buffer_put_u8(out, (uint8_t)*text);
	}
}

static void
put_list(struct buffer *out, const char *libraries, const char *guard)
{
	bool first = true, odd;

	while (*libraries != '\0') {
		size_t skip = strspn(libraries, " \t,"), n = entry_len(libraries + skip);

		libraries += skip;
		if (n > 0 && !holds(libraries, n, AUTOCONF_LAYER)) {
			buffer_put_text(out, first ? "" : ", ");
			put_quoted(out, libraries, n);
			first = false;
		}
		libraries += n;
	}
	if (guard == NULL)
		return;
	odd = strpbrk(guard, " ,") != NULL;
	buffer_put_text(out, first ? "" : ", ");
	buffer_put_text(out, odd ? "\"" : "");
	put_quoted(out, guard, strlen(guard));
	buffer_put_text(out, odd ? "\"" : "");
}

char *
autoconf_guard(const char *libraries, const char *guard, struct err *err)
{
	struct buffer out;
	char *lines = NULL;

	buffer_init(&out, AUTOCONF_MAX);
	if (guard != NULL)
		buffer_put_text(&out,
		                COMMENT "this directory is encrypted; without its storage layer the server must not start\n");
	if (guard != NULL || strstr(libraries, AUTOCONF_LAYER) != NULL) {
		buffer_put_text(&out, SETTING " = '");
		put_list(&out, libraries, guard);
		buffer_put_text(&out, "'\n");
	}
	buffer_put_u8(&out, 0);
	if (buffer_check(&out, err) == 0 && (lines = strdup((const char *)buffer_data(&out))) == NULL)
		err_nomem(err);
	buffer_free(&out);
	return lines;
}
