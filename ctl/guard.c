#include "ctl/guard.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/layer.h"

#define COMMENT "# walcrypt: encrypted data directory"
#define SETTING "shared_preload_libraries"
#define LAYER "libwalcrypt-storage"
#define FILE_MAX (1 << 20)

/* malloc'ed; NULL: out of memory. */
static char *
guard_lines(const char *existing, const char *library)
{
	size_t room = 2 * (strlen(existing) + strlen(library)) + 256, at;
	char *lines = malloc(room);
	bool quote = strpbrk(library, ", \"") != NULL;

	if (lines == NULL)
		return NULL;
	at = (size_t)snprintf(lines, room,
	                      COMMENT "; start it with walcrypt-ctl exec. Do not remove the next line.\n" SETTING " = '");
	/* a quote in the value is doubled; a library's name with a comma or blank stands in double quotes */
	for (int part = 0; part < 2; part++) {
		if (part == 1 && *existing != '\0')
			at += (size_t)snprintf(lines + at, room - at, ", ");
		if (part == 1 && quote)
			lines[at++] = '"';
		for (const char *p = part == 0 ? existing : library; *p != '\0'; p++) {
			if (*p == '\'' || (*p == '"' && part == 1))
				lines[at++] = *p;
			lines[at++] = *p;
		}
		if (part == 1 && quote)
			lines[at++] = '"';
	}
	snprintf(lines + at, room - at, "'\n");
	return lines;
}

/* postgresql.auto.conf: its path, text (malloc'ed, "" when it is not there) and mode. */
static int
auto_conf_read(const char *datadir, char path[static PATH_MAX], char **text, mode_t *mode, struct err *err)
{
	struct stat st;
	size_t len;

	*text = NULL;
	*mode = 0600;
	if (path_format(path, err, "%s/postgresql.auto.conf", datadir) != 0)
		return -1;
	if (stat(path, &st) == 0)
		*mode = st.st_mode & 0777;
	else if (errno == ENOENT)
		return (*text = strdup("")) != NULL ? 0 : err_nomem(err);
	return (*text = (char *)durable_read(path, FILE_MAX, &len, err)) != NULL ? 0 : -1;
}

int
guard_there(const char *datadir, struct err *err)
{
	char path[PATH_MAX], *text;
	mode_t mode;
	int there;

	if (auto_conf_read(datadir, path, &text, &mode, err) != 0)
		return -1;
	there = strstr(text, LAYER) != NULL;
	free(text);
	return there;
}

int
guard_add(const char *datadir, const char *existing, struct err *err)
{
	char path[PATH_MAX], library[PATH_MAX], *guard = NULL, *text = NULL, *whole = NULL;
	mode_t mode;
	int result = -1;

	if (auto_conf_read(datadir, path, &text, &mode, err) != 0)
		return -1;
	if (strstr(text, LAYER) != NULL)
		result = 0;
	else if (layer_library(library, err) != 0)
		;
	else if ((guard = guard_lines(existing, library)) == NULL ||
	         asprintf(&whole, "%s%s%s", text, *text != '\0' && text[strlen(text) - 1] != '\n' ? "\n" : "", guard) < 0) {
		whole = NULL;
		err_nomem(err);
	} else
		result = durable_write(path, whole, strlen(whole), mode, err);
	free(whole);
	free(guard);
	free(text);
	return result;
}

/* Where the list's elements begin and end: a comma outside double quotes parts them. */
static const char *
element_end(const char *p, const char *end)
{
	bool quoted = false;

	for (; p < end && (quoted || *p != ','); p++)
		if (*p == '"')
			quoted = !quoted;
	return p;
}

static bool
names_layer(const char *from, const char *to)
{
	for (; (size_t)(to - from) >= sizeof(LAYER) - 1; from++)
		if (memcmp(from, LAYER, sizeof(LAYER) - 1) == 0)
			return true;
	return false;
}

/* One line of the setting without the layer, appended at `to`; nothing when nothing else is in the list. */
static char *
line_without(char *to, const char *line, const char *line_end)
{
	const char *open = memchr(line, '\'', (size_t)(line_end - line)), *p = open, *end = line_end;
	char *begin = to;
	bool any = false;

	while (open != NULL && end > open + 1 && end[-1] != '\'')
		end--;
	if (open == NULL || --end <= open)
		return to;
	memcpy(to, line, (size_t)(open + 1 - line));
	to += open + 1 - line;
	for (p = open + 1; p < end; p++) {
		const char *stop;

		p += strspn(p, " ");
		stop = element_end(p, end);
		if (stop > p && !names_layer(p, stop)) {
			if (any)
				to = (char *)memcpy(to, ", ", 2) + 2;
			to = (char *)memcpy(to, p, (size_t)(stop - p)) + (stop - p);
			any = true;
		}
		p = stop;
	}
	*to++ = '\'';
	*to++ = '\n';
	return any ? to : begin;
}

int
guard_remove(const char *datadir, struct err *err)
{
	char path[PATH_MAX], *text, *out, *to;
	mode_t mode;
	int result;

	if (auto_conf_read(datadir, path, &text, &mode, err) != 0)
		return -1;
	if (strstr(text, LAYER) == NULL) {
		free(text);
		return 0;
	}
	/* a list that gets shorter leaves room for the separators that are written anew */
	if ((out = to = malloc(2 * strlen(text) + 16)) == NULL) {
		free(text);
		return err_nomem(err);
	}
	for (const char *line = text, *next; *line != '\0'; line = next) {
		size_t len = strcspn(line, "\n");

		next = line + len + (line[len] == '\n');
		if (strncmp(line, COMMENT, sizeof(COMMENT) - 1) == 0)
			continue;
		if (strncmp(line, SETTING, sizeof(SETTING) - 1) == 0 && names_layer(line, line + len))
			to = line_without(to, line, line + len);
		else
			to = (char *)memcpy(to, line, (size_t)(next - line)) + (next - line);
	}
	result = durable_write(path, out, (size_t)(to - out), mode, err);
	free(out);
	free(text);
	return result;
}
