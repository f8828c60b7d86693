#include "common/settings.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/conf.h"

#define GLOBAL(field) offsetof(struct settings, field)
#define KEK(field) offsetof(struct settings_kek, field)
#define NODE(field) offsetof(struct settings_node, field)

const struct settings_option settings_options[] = {
    {"walcrypt", "listen_addr", SETTING_TEXT, GLOBAL(listen_addr), "127.0.0.1", 0, 0,
     "address of the TCP listener; with auth_type = trust only a loopback address"},
    {"walcrypt", "listen_port", SETTING_NUMBER, GLOBAL(listen_port), "6434", 0, 65535,
     "port of the TCP listener and of the Unix socket's name; 0: no TCP listener"},
    {"walcrypt", "unix_socket_dir", SETTING_PATH, GLOBAL(unix_socket_dir), NULL, 0, 0,
     "folder of the Unix socket; none when not set"},
    {"walcrypt", "auth_type", SETTING_TEXT, GLOBAL(auth_type), NULL, 0, 0,
     "how clients prove who they are; must be set; trust: not at all, for loopback and Unix sockets only"},
    {"walcrypt", "keystore", SETTING_PATH, GLOBAL(keystore), NULL, 0, 0,
     "folder of the keysets, made by walcrypt-ctl key init; must be set"},
    {"walcrypt", "ledger", SETTING_PATH, GLOBAL(ledger), NULL, 0, 0,
     "file of the positions encrypted so far; default: ledger in the keystore; never shared by two proxies"},
    {"walcrypt", "admin_users", SETTING_LIST, GLOBAL(admin_users), NULL, 0, 0,
     "who may use the console, comma-separated"},
    {"walcrypt", "stats_users", SETTING_LIST, GLOBAL(stats_users), NULL, 0, 0,
     "who may look at the console, comma-separated"},
    {"walcrypt", "workers", SETTING_NUMBER, GLOBAL(workers), "2", 1, 256, "threads that carry sessions"},
    {"walcrypt", "guard_library", SETTING_PATH, GLOBAL(guard_library), NULL, 0, 0,
     "path of libwalcrypt-storage.so on the standbys, put into their shared_preload_libraries; default: the one "
     "installed with this program"},
    {"walcrypt", "connect_timeout", SETTING_MS, GLOBAL(connect_timeout_ms), "10s", 100, 3600000,
     "longest time to wait for an upstream's connection"},
    {"walcrypt", "tcp_keepalive", SETTING_SECONDS, GLOBAL(tcp_keepalive_s), "60s", 0, 86400,
     "idle time after which TCP probes a peer; 0: the system's"},
    {"walcrypt", "allow_no_checksums", SETTING_BOOL, GLOBAL(allow_no_checksums), "off", 0, 0,
     "serve base backups of clusters without data checksums"},
    {"walcrypt", "log_level", SETTING_LOG_LEVEL, GLOBAL(log_level), "info", 0, 0,
     "least level that is logged: debug, info, notice, warning, error, fatal"},
    {"kek", "uri", SETTING_TEXT, KEK(uri), NULL, 0, 0,
     "where the cluster key comes from: file:PATH or command:COMMAND"},
    {"kek", "timeout", SETTING_MS, KEK(timeout_ms), "30s", 100, 3600000, "longest time to wait for the cluster key"},
    {"node", "conninfo", SETTING_TEXT, NODE(conninfo), NULL, 0, 0,
     "libpq connection string of the server as an upstream; not set: it can't be one yet"},
    {"node", "keyset", SETTING_NAME, NODE(keyset), NULL, 0, 0,
     "keyset in the keystore under which its files are encrypted; none: the node is clear; must be set"},
    {"node", "kek", SETTING_NAME, NODE(kek), NULL, 0, 0, "[kek] section whose cluster key wraps the keyset"},
    {"node", "allow_clear", SETTING_BOOL, NODE(allow_clear), "off", 0, 0,
     "let a node without keyset take backups and WAL in clear"},
    {"node", "datadir", SETTING_PATH, NODE(datadir), NULL, 0, 0, "data directory, when it is on this machine"},
    {"profile", "keyset", SETTING_NAME, NODE(keyset), NULL, 0, 0,
     "keyset in the keystore under which what it takes is encrypted; none: clear; must be set"},
    {"profile", "kek", SETTING_NAME, NODE(kek), NULL, 0, 0, "[kek] section whose cluster key wraps the keyset"},
    {"profile", "allow_clear", SETTING_BOOL, NODE(allow_clear), "off", 0, 0,
     "let a profile without keyset take backups and WAL in clear"},
};
const size_t settings_noptions = sizeof(settings_options) / sizeof(settings_options[0]);

const char *
settings_kind_name(enum settings_kind kind)
{
	static const char *const names[] = {
	    [SETTING_TEXT] = "text",    [SETTING_PATH] = "path",      [SETTING_NAME] = "name",
	    [SETTING_LIST] = "list",    [SETTING_NUMBER] = "number",  [SETTING_MS] = "time",
	    [SETTING_SECONDS] = "time", [SETTING_BOOL] = "on or off", [SETTING_LOG_LEVEL] = "level"};

	return names[kind];
}

static bool
name_valid(const char *name)
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

static void
list_free(char **list)
{
	for (size_t i = 0; list != NULL && list[i] != NULL; i++)
		free(list[i]);
	free(list);
}

/* path as it stands if absolute, else below the folder of file. */
static char *
path_below(const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');
	char *made;

	if (*path == '/' || slash == NULL)
		return strdup(path);
	return asprintf(&made, "%.*s/%s", (int)(slash - file), file, path) < 0 ? NULL : made;
}

/* Put value into the option's field of object. line 0: a default of ours, which is always valid. */
static int
option_set(const struct settings_option *o, void *object, const struct conf *c, unsigned line, const char *value,
           struct err *err)
{
	void *field = (char *)object + o->offset;
	const char *why;
	bool empty;

	switch (o->kind) {
	case SETTING_NAME:
		if (!name_valid(value)) {
			conf_error(err, c, line, "\"%s\" in %s is not a name", value, o->name);
			return err_hint(err, "A name has at most %d of a-z, 0-9, _ and -, and begins with a letter or _.",
			                SETTINGS_NAME_MAX);
		}
		/* FALLTHROUGH */
	case SETTING_TEXT:
	case SETTING_PATH:
		if (*value == '\0')
			return conf_error(err, c, line, "%s has no value", o->name);
		*(char **)field = o->kind == SETTING_PATH ? path_below(c->file, value) : strdup(value);
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

static const struct settings_option *
option_find(const char *section, const char *name)
{
	for (size_t i = 0; i < settings_noptions; i++)
		if (strcmp(settings_options[i].section, section) == 0 && strcmp(settings_options[i].name, name) == 0)
			return &settings_options[i];
	return NULL;
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
		if (value != NULL && option_set(o, object, c, line, value, err) != 0)
			return -1;
	}
	for (size_t j = 0; section != NULL && j < section->nentries; j++)
		if (option_find(kind, section->entries[j].name) == NULL)
			return conf_error(err, c, section->entries[j].line, "unknown setting \"%s\" in [%s]",
			                  section->entries[j].name, kind);
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
		char *path = path_below(c->file, k->uri + 5), *uri = NULL;

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
	if (n->keyset == NULL && n->kek != NULL)
		return conf_error(err, c, section->line, "[%s %s] has a kek, but keyset = none", section->kind, n->name);
	if (n->keyset != NULL && n->kek == NULL)
		return conf_error(err, c, section->line, "[%s %s] has a keyset, but no kek", section->kind, n->name);
	return 0;
}

static int
section_load(struct settings *s, const struct conf *c, const struct conf_section *section, struct err *err)
{
	if (strcmp(section->kind, "walcrypt") == 0)
		return section->name == NULL ? 0 : conf_error(err, c, section->line, "[walcrypt] takes no name");
	if (strcmp(section->kind, "kek") != 0 && strcmp(section->kind, "node") != 0 &&
	    strcmp(section->kind, "profile") != 0)
		return conf_error(err, c, section->line, "unknown section [%s]", section->kind);
	if (section->name == NULL)
		return conf_error(err, c, section->line, "[%s] has no name", section->kind);
	if (!name_valid(section->name) || strcmp(section->name, "none") == 0) {
		conf_error(err, c, section->line, "\"%s\" is not a name for a %s", section->name, section->kind);
		return err_hint(err, "A name has at most %d of a-z, 0-9, _ and -, and begins with a letter or _.",
		                SETTINGS_NAME_MAX);
	}
	return strcmp(section->kind, "kek") == 0 ? kek_add(s, c, section, err) : node_add(s, c, section, err);
}

static bool
is_loopback(const char *addr)
{
	struct in_addr v4;

	if (inet_pton(AF_INET, addr, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return strcmp(addr, "::1") == 0 || strcmp(addr, "localhost") == 0;
}

/* What no single value shows. */
static int
check_whole(struct settings *s, const struct conf *c, const struct conf_section *main_section, struct err *err)
{
	for (size_t i = 0; i < s->nnodes; i++)
		if (s->nodes[i].kek != NULL && settings_kek(s, s->nodes[i].kek) == NULL)
			return err_set(err, ERR_USAGE, "%s: [%s %s] names kek \"%s\", but there is no [kek %s]", c->file,
			               s->nodes[i].profile ? "profile" : "node", s->nodes[i].name, s->nodes[i].kek,
			               s->nodes[i].kek);
	if (main_section == NULL)
		return 0;
	if (s->keystore == NULL)
		return conf_error(err, c, main_section->line, "keystore is not set");
	if (s->auth_type == NULL) {
		conf_error(err, c, main_section->line, "auth_type is not set");
		return err_hint(err, "For a proxy that listens on loopback or a Unix socket only: auth_type = trust");
	}
	if (strcmp(s->auth_type, "trust") != 0)
		return conf_error(err, c, main_section->line, "auth_type \"%s\" is not known; this version has trust",
		                  s->auth_type);
	if (s->listen_port != 0 && !is_loopback(s->listen_addr)) {
		conf_error(err, c, main_section->line, "listen_addr %s with auth_type = trust would let anybody in",
		           s->listen_addr);
		return err_hint(err, "Listen on 127.0.0.1, ::1 or localhost, or set listen_port = 0 and use unix_socket_dir.");
	}
	if (s->listen_port == 0 && s->unix_socket_dir == NULL)
		return conf_error(err, c, main_section->line,
		                  "listen_port is 0 and unix_socket_dir is not set: nothing to listen on");
	if (s->ledger == NULL && asprintf(&s->ledger, "%s/ledger", s->keystore) < 0) {
		s->ledger = NULL;
		return err_nomem(err);
	}
	return 0;
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

static struct settings *
settings_make(const struct conf *c, struct err *err)
{
	struct settings *s = calloc(1, sizeof(*s));
	const struct conf_section *main_section = NULL;

	if (s == NULL || (s->file = strdup(c->file)) == NULL) {
		err_nomem(err);
		goto fail;
	}
	for (size_t i = 0; i < c->nsections; i++) {
		if (section_load(s, c, &c->sections[i], err) != 0)
			goto fail;
		if (strcmp(c->sections[i].kind, "walcrypt") == 0)
			main_section = &c->sections[i];
	}
	if (section_apply("walcrypt", s, c, main_section, err) != 0 || check_whole(s, c, main_section, err) != 0)
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
	struct settings *s = c != NULL ? settings_make(c, err) : NULL;

	conf_free(c);
	return s;
}

struct settings *
settings_load(const char *path, struct err *err)
{
	char *absolute = realpath(path, NULL);
	struct settings *s = NULL;
	struct conf *c;

	if (absolute == NULL) {
		err_os(err, errno, "could not open configuration file \"%s\"", path);
		return NULL;
	}
	if ((c = conf_load(absolute, err)) != NULL)
		s = settings_make(c, err);
	conf_free(c);
	free(absolute);
	return s;
}

void
settings_free(struct settings *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->nkeks; i++) {
		free(s->keks[i].name);
		free(s->keks[i].uri);
	}
	for (size_t i = 0; i < s->nnodes; i++) {
		free(s->nodes[i].name);
		free(s->nodes[i].conninfo);
		free(s->nodes[i].keyset);
		free(s->nodes[i].kek);
		free(s->nodes[i].datadir);
	}
	free(s->keks);
	free(s->nodes);
	free(s->file);
	free(s->listen_addr);
	free(s->unix_socket_dir);
	free(s->auth_type);
	free(s->keystore);
	free(s->ledger);
	free(s->guard_library);
	list_free(s->admin_users);
	list_free(s->stats_users);
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
