#include "common/settings.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/settings_intern.h"

static const struct settings_option *
option_find(const char *section, const char *name)
{
	for (size_t i = 0; i < settings_noptions; i++)
		if (strcmp(settings_options[i].section, section) == 0 && strcmp(settings_options[i].name, name) == 0)
			return &settings_options[i];
	return NULL;
}

static int
unknown_setting(const struct conf *c, const struct conf_entry *e, const char *kind, struct err *err)
{
	conf_error(err, c, e->line, "unknown setting \"%s\" in [%s]", e->name, kind);
	for (size_t i = 0; i < settings_noptions; i++)
		if (strcmp(settings_options[i].name, e->name) == 0)
			return err_hint(err, "It belongs into [%s].", settings_options[i].section);
	return err_hint(err, "docs/configuration.md lists them all.");
}

/* Defaults first, then what the section says (section NULL: defaults alone). */
static int
section_apply(const char *kind, void *object, const struct conf *c, const struct conf_section *section, struct err *err)
{
	for (size_t i = 0; i < settings_noptions; i++) {
		const struct settings_option *o = &settings_options[i];
		const char *value = o->def;
		unsigned line = 0;

		if (strcmp(o->section, kind) != 0)
			continue;
		for (size_t j = 0; section != NULL && j < section->nentries; j++)
			if (strcmp(section->entries[j].name, o->name) == 0) {
				value = section->entries[j].value;
				line = section->entries[j].line;
			}
		if (value != NULL && settings_value_set(o, object, c, line, value, err) != 0)
			return -1;
	}
	for (size_t j = 0; section != NULL && j < section->nentries; j++)
		if (option_find(kind, section->entries[j].name) == NULL)
			return unknown_setting(c, &section->entries[j], kind, err);
	return 0;
}

static int
kek_add(struct settings *s, const struct conf *c, const struct conf_section *section, struct err *err)
{
	struct settings_kek *k = reallocarray(s->keks, s->nkeks + 1, sizeof(*k));

	if (k == NULL)
		return err_nomem(err);
	s->keks = k;
	k += s->nkeks;
	memset(k, 0, sizeof(*k));
	s->nkeks++;
	if ((k->name = strdup(section->name)) == NULL)
		return err_nomem(err);
	if (section_apply("kek", k, c, section, err) != 0)
		return -1;
	if (k->uri == NULL)
		return conf_error(err, c, section->line, "[kek %s] has no uri", k->name);
	/* like every path in the file */
	if (strncmp(k->uri, "file:", 5) == 0 && k->uri[5] != '\0' && k->uri[5] != '/') {
		char *path = settings_path(c->file, k->uri + 5), *uri = NULL;

		if (path == NULL || asprintf(&uri, "file:%s", path) < 0) {
			free(path);
			return err_nomem(err);
		}
		free(path);
		free(k->uri);
		k->uri = uri;
	}
	return 0;
}

static int
node_add(struct settings *s, const struct conf *c, const struct conf_section *section, struct err *err)
{
	struct settings_node *n = reallocarray(s->nodes, s->nnodes + 1, sizeof(*n));

	if (n == NULL)
		return err_nomem(err);
	s->nodes = n;
	n += s->nnodes;
	memset(n, 0, sizeof(*n));
	s->nnodes++;
	for (size_t i = 0; i + 1 < s->nnodes; i++)
		if (strcmp(s->nodes[i].name, section->name) == 0)
			return conf_error(err, c, section->line, "\"%s\" is the name of another node or profile", section->name);
	n->profile = strcmp(section->kind, "profile") == 0;
	if ((n->name = strdup(section->name)) == NULL)
		return err_nomem(err);
	if (section_apply(section->kind, n, c, section, err) != 0)
		return -1;
	if (n->keyset == NULL) {
		conf_error(err, c, section->line, "[%s %s] has no keyset", section->kind, n->name);
		return err_hint(err, "Name one, or set keyset = none for what stays clear.");
	}
	if (strcmp(n->keyset, "none") == 0) {
		free(n->keyset);
		n->keyset = NULL;
	}
	if (n->keyset != NULL && strcmp(n->keyset, "auto") == 0) {
		free(n->keyset);
		if ((n->keyset = strdup(n->name)) == NULL)
			return err_nomem(err);
		n->keyset_auto = true;
	}
	if (n->keyset == NULL && n->kek != NULL) {
		conf_error(err, c, conf_line(c, section->kind, n->name, "kek"), "[%s %s] has a kek, but keyset = none",
		           section->kind, n->name);
		return err_hint(err, "A clear node needs no cluster key: take the kek away, or name a keyset.");
	}
	if (n->keyset != NULL && n->kek == NULL) {
		conf_error(err, c, conf_line(c, section->kind, n->name, "keyset"), "[%s %s] has a keyset, but no kek",
		           section->kind, n->name);
		return err_hint(err, "kek names the [kek ...] section whose cluster key wraps the keyset.");
	}
	return 0;
}

static int
listen_add(struct settings *s, const struct conf *c, const struct conf_section *section, struct err *err)
{
	struct settings_listen *l = reallocarray(s->listens, s->nlistens + 1, sizeof(*l));

	if (l == NULL)
		return err_nomem(err);
	s->listens = l;
	l += s->nlistens;
	memset(l, 0, sizeof(*l));
	s->nlistens++;
	if ((l->name = strdup(section->name)) == NULL)
		return err_nomem(err);
	if (section_apply("listen", l, c, section, err) != 0)
		return -1;
	return l->port != 0 ? 0 : conf_error(err, c, section->line, "[listen %s] has no listen_port", l->name);
}

static int
section_load(struct settings *s, const struct conf *c, const struct conf_section *section, struct err *err)
{
	if (strcmp(section->kind, "walcrypt") == 0)
		return section->name == NULL ? 0 : conf_error(err, c, section->line, "[walcrypt] takes no name");
	if (strcmp(section->kind, "kek") != 0 && strcmp(section->kind, "node") != 0 &&
	    strcmp(section->kind, "profile") != 0 && strcmp(section->kind, "listen") != 0)
		return conf_error(err, c, section->line, "unknown section [%s]", section->kind);
	if (section->name == NULL)
		return conf_error(err, c, section->line, "[%s] has no name", section->kind);
	if (!settings_name_valid(section->name) || strcmp(section->name, "none") == 0 ||
	    strcmp(section->name, "auto") == 0) {
		conf_error(err, c, section->line, "\"%s\" is not a name for a %s", section->name, section->kind);
		return err_hint(err, "A name has at most %d of a-z, 0-9, _ and -, and begins with a letter or _.",
		                SETTINGS_NAME_MAX);
	}
	if (strcmp(section->kind, "kek") == 0)
		return kek_add(s, c, section, err);
	return strcmp(section->kind, "listen") == 0 ? listen_add(s, c, section, err) : node_add(s, c, section, err);
}

/* The library that is installed with the running program: <its folder>/../lib/walcrypt/. */
static char *
installed_library(void)
{
	char exe[PATH_MAX], *slash, *path;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (n <= 0)
		return NULL;
	exe[n] = '\0';
	for (int up = 0; up < 2; up++) {
		if ((slash = strrchr(exe, '/')) == NULL)
			return NULL;
		*slash = '\0';
	}
	return asprintf(&path, "%s/lib/walcrypt/libwalcrypt-storage.so", exe) < 0 ? NULL : path;
}

/* Takes c. */
static struct settings *
settings_make(struct conf *c, struct err *err)
{
	struct settings *s = calloc(1, sizeof(*s));
	const struct conf_section *main_section = NULL;

	if (s == NULL) {
		conf_free(c);
		err_nomem(err);
		return NULL;
	}
	s->conf = c;
	if ((s->file = strdup(c->file)) == NULL) {
		err_nomem(err);
		goto fail;
	}
	for (size_t i = 0; i < c->nsections; i++) {
		if (section_load(s, c, &c->sections[i], err) != 0)
			goto fail;
		if (strcmp(c->sections[i].kind, "walcrypt") == 0)
			main_section = &c->sections[i];
	}
	if (section_apply("walcrypt", s, c, main_section, err) != 0 || settings_check(s, err) != 0)
		goto fail;
	if (s->guard_library == NULL && (s->guard_library = installed_library()) == NULL) {
		err_nomem(err);
		goto fail;
	}
	return s;
fail:
	settings_free(s);
	return NULL;
}

struct settings *
settings_parse(const char *path, const char *text, size_t len, struct err *err)
{
	struct conf *c = conf_parse(path, text, len, err);

	return c == NULL ? NULL : settings_make(c, err);
}

struct settings *
settings_load(const char *path, struct err *err)
{
	char *absolute = realpath(path, NULL);
	struct conf *c;

	if (absolute == NULL) {
		err_os(err, errno, "could not open configuration file \"%s\"", path);
		return NULL;
	}
	c = conf_load(absolute, err);
	free(absolute);
	return c == NULL ? NULL : settings_make(c, err);
}

/* What option_set has put into an object. */
static void
section_free(const char *kind, void *object)
{
	for (size_t i = 0; i < settings_noptions; i++) {
		const struct settings_option *o = &settings_options[i];
		void *field = (char *)object + o->offset;

		if (strcmp(o->section, kind) != 0)
			continue;
		if (o->kind == SETTING_TEXT || o->kind == SETTING_PATH || o->kind == SETTING_NAME)
			free(*(char **)field);
		else if (o->kind == SETTING_LIST)
			settings_list_free(*(char ***)field);
	}
}

void
settings_free(struct settings *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->nkeks; i++) {
		section_free("kek", &s->keks[i]);
		free(s->keks[i].name);
	}
	for (size_t i = 0; i < s->nnodes; i++) {
		section_free(s->nodes[i].profile ? "profile" : "node", &s->nodes[i]);
		free(s->nodes[i].name);
		free(s->nodes[i].addr);
	}
	for (size_t i = 0; i < s->nlistens; i++) {
		section_free("listen", &s->listens[i]);
		free(s->listens[i].name);
	}
	section_free("walcrypt", s);
	free(s->http_addr);
	free(s->http_from);
	conf_free(s->conf);
	free(s->keks);
	free(s->nodes);
	free(s->listens);
	free(s->file);
	free(s);
}

const struct settings_node *
settings_node(const struct settings *s, const char *name)
{
	for (size_t i = 0; i < s->nnodes; i++)
		if (strcmp(s->nodes[i].name, name) == 0)
			return &s->nodes[i];
	return NULL;
}

const struct settings_kek *
settings_kek(const struct settings *s, const char *name)
{
	for (size_t i = 0; i < s->nkeks; i++)
		if (strcmp(s->keks[i].name, name) == 0)
			return &s->keks[i];
	return NULL;
}

bool
settings_kek_used(const struct settings *s, const struct settings_kek *k)
{
	for (size_t i = 0; i < s->nnodes; i++)
		if (s->nodes[i].kek != NULL && strcmp(s->nodes[i].kek, k->name) == 0)
			return true;
	return false;
}

int
settings_error(const struct settings *s, const char *kind, const char *name, const char *option, struct err *err,
               const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return conf_error(err, s->conf, conf_line(s->conf, kind, name, option), "%s", text);
}
