#include "common/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/username.h"

int
conf_error(struct err *err, const struct conf *c, unsigned line, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(err, ERR_USAGE, "%s:%u: %s", c->file, line, text);
}

static bool
is_blank(char ch)
{
	return ch == ' ' || ch == '\t';
}

/* Cut blanks at both ends of [*text, *end). */
static void
trim(const char **text, const char **end)
{
	while (*text < *end && is_blank(**text))
		(*text)++;
	while (*end > *text && is_blank((*end)[-1]))
		(*end)--;
}

static bool
same(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

unsigned
conf_line(const struct conf *c, const char *kind, const char *name, const char *entry)
{
	for (size_t i = 0; i < c->nsections; i++) {
		const struct conf_section *s = &c->sections[i];

		if (!same(s->kind, kind) || !same(s->name, name))
			continue;
		for (size_t j = 0; j < s->nentries; j++)
			if (strcmp(s->entries[j].name, entry) == 0)
				return s->entries[j].line;
		return s->line;
	}
	return 0;
}

static int
section_add(struct conf *c, unsigned line, const char *text, const char *end, struct err *err)
{
	struct conf_section *s, *grown;
	const char *kind_end;

	if (end[-1] != ']')
		return conf_error(err, c, line, "section does not end with \"]\"");
	text++;
	end--;
	trim(&text, &end);
	for (kind_end = text; kind_end < end && !is_blank(*kind_end);)
		kind_end++;
	if (kind_end == text)
		return conf_error(err, c, line, "section without a name");
	if ((grown = reallocarray(c->sections, c->nsections + 1, sizeof(*grown))) == NULL)
		return err_nomem(err);
	c->sections = grown;
	s = &c->sections[c->nsections];
	memset(s, 0, sizeof(*s));
	s->line = line;
	c->nsections++; /* from here on conf_free sees it */
	if ((s->kind = strndup(text, (size_t)(kind_end - text))) == NULL)
		return err_nomem(err);
	text = kind_end;
	trim(&text, &end);
	if (text < end && (s->name = strndup(text, (size_t)(end - text))) == NULL)
		return err_nomem(err);
	for (size_t i = 0; i + 1 < c->nsections; i++)
		if (same(c->sections[i].kind, s->kind) && same(c->sections[i].name, s->name))
			return conf_error(err, c, line, "section [%s%s%s] stands already in line %u", s->kind,
			                  s->name != NULL ? " " : "", s->name != NULL ? s->name : "", c->sections[i].line);
	return 0;
}

static int
entry_add(struct conf *c, unsigned line, const char *text, const char *end, struct err *err)
{
	const char *equals = memchr(text, '=', (size_t)(end - text)), *name_end = equals, *value = equals;
	struct conf_section *s;
	struct conf_entry *e, *grown;

	if (equals == NULL)
		return conf_error(err, c, line, "line is neither a [section], a comment nor name = value");
	trim(&text, &name_end);
	if (text == name_end)
		return conf_error(err, c, line, "no name before \"=\"");
	if (c->nsections == 0)
		return conf_error(err, c, line, "\"%.*s\" stands before the first [section]", (int)(name_end - text), text);
	value++;
	trim(&value, &end);

	s = &c->sections[c->nsections - 1];
	if ((grown = reallocarray(s->entries, s->nentries + 1, sizeof(*grown))) == NULL)
		return err_nomem(err);
	s->entries = grown;
	e = &s->entries[s->nentries];
	memset(e, 0, sizeof(*e));
	e->line = line;
	s->nentries++;
	if ((e->name = strndup(text, (size_t)(name_end - text))) == NULL ||
	    (e->value = strndup(value, (size_t)(end - value))) == NULL)
		return err_nomem(err);
	for (size_t i = 0; i + 1 < s->nentries; i++)
		if (strcmp(s->entries[i].name, e->name) == 0)
			return conf_error(err, c, line, "\"%s\" is set already in line %u", e->name, s->entries[i].line);
	return 0;
}

static int
line_parse(struct conf *c, unsigned line, const char *text, const char *end, struct err *err)
{
	if (end > text && end[-1] == '\r')
		end--;
	if (end - text > CONF_LINE_MAX)
		return conf_error(err, c, line, "line is longer than %d bytes", CONF_LINE_MAX);
	for (const char *p = text; p < end; p++)
		if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f)
			return conf_error(err, c, line, "control character in the line");
	trim(&text, &end);
	if (text == end || *text == '#' || *text == ';')
		return 0;
	return *text == '[' ? section_add(c, line, text, end, err) : entry_add(c, line, text, end, err);
}

struct conf *
conf_parse(const char *file, const char *text, size_t len, struct err *err)
{
	const char *end = text + len;
	struct conf *c;
	unsigned line = 0;

	if ((c = calloc(1, sizeof(*c))) == NULL || (c->file = strdup(file)) == NULL) {
		err_nomem(err);
		goto fail;
	}
	while (text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		const char *line_end = newline != NULL ? newline : end;

		if (line_parse(c, ++line, text, line_end, err) != 0)
			goto fail;
		text = newline != NULL ? newline + 1 : end;
	}
	return c;
fail:
	conf_free(c);
	return NULL;
}

/* Whoever may write the file could have any command run: only root and the present user may. */
static int
check_owner(const char *path, const struct stat *st, struct err *err)
{
	if (!S_ISREG(st->st_mode))
		return err_set(err, ERR_REFUSED, "configuration file \"%s\" is not a regular file", path);
	if (st->st_uid != 0 && st->st_uid != geteuid()) {
		char owner[USERNAME_LEN];

		username(st->st_uid, owner);
		err_set(err, ERR_REFUSED, "configuration file \"%s\" belongs to another user", path);
		return owner[0] != '\0' ? err_hint(err, "Run this as \"%s\", or give the file to root.", owner)
		                        : err_hint(err, "It must be owned by root or by the user that runs this program.");
	}
	if ((st->st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		err_set(err, ERR_REFUSED, "configuration file \"%s\" may be written by others", path);
		return err_hint(err, "Take the permission away: chmod go-w %s", path);
	}
	return 0;
}

struct conf *
conf_load(const char *path, struct err *err)
{
	struct conf *c = NULL;
	char *text = NULL;
	struct stat st;
	size_t len = 0;
	ssize_t n;
	int fd;

	if ((fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0) {
		err_os(err, errno, "could not open configuration file \"%s\"", path);
		return NULL;
	}
	if (fstat(fd, &st) != 0) {
		err_os(err, errno, "could not stat configuration file \"%s\"", path);
		goto done;
	}
	if (check_owner(path, &st, err) != 0)
		goto done;
	if ((text = malloc(CONF_FILE_MAX + 1)) == NULL) {
		err_nomem(err);
		goto done;
	}
	while (len <= CONF_FILE_MAX && (n = read(fd, text + len, CONF_FILE_MAX + 1 - len)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			err_os(err, errno, "could not read configuration file \"%s\"", path);
			goto done;
		}
		len += (size_t)n;
	}
	if (len > CONF_FILE_MAX)
		err_set(err, ERR_USAGE, "configuration file \"%s\" is larger than %d bytes", path, CONF_FILE_MAX);
	else
		c = conf_parse(path, text, len, err);
done:
	free(text);
	close(fd);
	return c;
}

void
conf_free(struct conf *c)
{
	if (c == NULL)
		return;
	for (size_t i = 0; i < c->nsections; i++) {
		struct conf_section *s = &c->sections[i];

		for (size_t j = 0; j < s->nentries; j++) {
			free(s->entries[j].name);
			free(s->entries[j].value);
		}
		free(s->entries);
		free(s->kind);
		free(s->name);
	}
	free(c->sections);
	free(c->file);
	free(c);
}
