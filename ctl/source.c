#include "ctl/source.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/path.h"
#include "keymgr/keydir.h"
#include "walcrypt/secmem.h"

#define DEFAULT_CONFIG "/etc/walcrypt/walcrypt.ini"

int
settings_find(const char *config, bool required, struct settings **settings, struct err *err)
{
	*settings = NULL;
	if (config == NULL && (config = getenv("WALCRYPT_CONFIG")) != NULL && *config == '\0')
		config = NULL;
	if (config == NULL && access(DEFAULT_CONFIG, F_OK) == 0)
		config = DEFAULT_CONFIG;
	if (config != NULL)
		return (*settings = settings_load(config, err)) != NULL ? 0 : -1;
	if (!required)
		return 0;
	err_set(err, ERR_USAGE, "no configuration file is named");
	return err_hint(err, "Give --config FILE, or set WALCRYPT_CONFIG.");
}

static bool
same_place(const char *a, const char *b)
{
	char *x = realpath(a, NULL), *y = realpath(b, NULL);
	bool same = strcmp(x != NULL ? x : a, y != NULL ? y : b) == 0;

	free(x);
	free(y);
	return same;
}

/* The [kek] section that the file has for this data directory or keyset; NULL: the file does not say. */
static const struct settings_kek *
section_for(const struct settings *settings, const char *datadir, const char *keyset)
{
	for (size_t i = 0; i < settings->nnodes; i++) {
		const struct settings_node *n = &settings->nodes[i];

		if (n->kek != NULL && ((keyset != NULL && strcmp(n->keyset, keyset) == 0) ||
		                       (datadir != NULL && n->datadir != NULL && same_place(n->datadir, datadir))))
			return settings_kek(settings, n->kek);
	}
	return settings->nkeks == 1 ? &settings->keks[0] : NULL;
}

/* A server's present directory is its data directory, so a relative path would be another file there. */
static int
uri_absolute(struct source *s, struct err *err)
{
	char path[PATH_MAX];

	if (strncmp(s->conf.uri, "file:", 5) != 0 || s->conf.uri[5] == '\0' || s->conf.uri[5] == '/')
		return 0;
	if (path_absolute(path, s->conf.uri + 5, err) != 0)
		return -1;
	if (asprintf(&s->uri, "file:%s", path) < 0) {
		s->uri = NULL;
		return err_nomem(err);
	}
	s->conf.uri = s->uri;
	return 0;
}

/* "--kek /etc/kek": a file is meant. */
static void
file_hint(struct err *err, const char *kek)
{
	if (kek != NULL && strchr(kek, '/') != NULL && strlen(kek) < 128)
		err_hint(err, "If a file is meant: --kek file:%s", kek);
}

/* The [kek] sections, so that a wrong name can be put right. */
static void
section_hint(struct err *err, const struct settings *settings)
{
	char names[200] = "";
	size_t at = 0;

	for (size_t i = 0; i < settings->nkeks && at < sizeof(names); i++)
		at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i > 0 ? ", " : "", settings->keks[i].name);
	if (at > 0)
		err_hint(err, "It has %s.", names);
}

int
source_find(struct source *s, const char *config, const char *kek, const char *datadir, const char *keyset,
            struct err *err)
{
	const struct settings_kek *section;
	const char *terminal = getenv("WALCRYPT_TTY");

	memset(s, 0, sizeof(*s));
	s->conf.terminal_fd = terminal != NULL && *terminal != '\0' ? (int)strtol(terminal, NULL, 10) : -1;
	if (kek == NULL && (kek = getenv("WALCRYPT_KEK")) != NULL && *kek == '\0')
		kek = NULL;
	if (kek != NULL && strchr(kek, ':') != NULL) {
		s->conf.uri = kek;
		if (kek_check(&s->conf, err) != 0 || uri_absolute(s, err) != 0)
			return -1;
		/* the file may still name the keystore and the nodes */
		if (settings_find(config, false, &s->settings, err) != 0)
			return -1;
		kek_reference(&s->conf, s->reference, sizeof(s->reference));
		return 0;
	}
	if (settings_find(config, false, &s->settings, err) != 0)
		return -1;
	if (s->settings == NULL) {
		err_set(err, ERR_USAGE, kek == NULL ? "no cluster key is named" : "\"%s\" is not a key provider", kek);
		err_hint(err, "Give --kek SCHEME:SOURCE, for example --kek file:/etc/walcrypt/kek, or --config FILE.");
		file_hint(err, kek);
		goto fail;
	}
	section = kek != NULL ? settings_kek(s->settings, kek) : section_for(s->settings, datadir, keyset);
	if (section == NULL && kek != NULL) {
		err_set(err, ERR_USAGE, "there is no [kek %s] in \"%s\"", kek, s->settings->file);
		section_hint(err, s->settings);
		file_hint(err, kek);
		goto fail;
	}
	if (section == NULL) {
		err_set(err, ERR_USAGE, "\"%s\" does not say which cluster key is meant", s->settings->file);
		err_hint(err, "Give --kek NAME, the name of one of its [kek] sections.");
		goto fail;
	}
	s->section = section->name;
	kek_conf_set(&s->conf, section);
	if (kek_check(&s->conf, err) != 0)
		goto fail;
	kek_reference(&s->conf, s->reference, sizeof(s->reference));
	return 0;
fail:
	source_free(s);
	return -1;
}

void
source_free(struct source *s)
{
	settings_free(s->settings);
	free(s->uri);
	memset(s, 0, sizeof(*s));
}

int
keys_protect(size_t len, struct err *err)
{
	/* neither a core dump nor another process of the same user gets at the keys */
	if (prctl(PR_SET_DUMPABLE, 0) != 0)
		return err_set(err, ERR_FAILED, "could not switch core dumps off");
	return secmem_init(len, err);
}

struct kek *
source_fetch(struct source *s, const char *key_dir, struct err *err)
{
	return keys_protect(KEYS_ROOM, err) == 0 ? keydir_kek(key_dir, &s->conf, err) : NULL;
}

struct kek *
source_prepare(struct source *s, const char *live, bool create, const struct kek *same, bool *made, struct err *err)
{
	struct kek_conf conf = s->conf;

	if (keys_protect(KEYS_ROOM, err) != 0)
		return NULL;
	conf.key_dir = live;
	return kek_prepare(&conf, create, same, made, err);
}

struct keyset *
source_open(struct source *s, const char *key_dir, struct err *err)
{
	/* what is not there needs no key */
	if (!keydir_exists(key_dir)) {
		struct keydir_info info;

		if (keydir_read_info(key_dir, &info, err) != 0)
			return NULL;
	}
	return keys_protect(KEYS_ROOM, err) == 0 ? keydir_unlock(key_dir, &s->conf, err) : NULL;
}

struct keyset *
source_open_with(struct source *s, const char *key_dir, const struct kek *kek, struct err *err)
{
	return kek_is_envelope(&s->conf) ? source_open(s, key_dir, err) : keydir_open(key_dir, kek, err);
}

int
source_stir(const struct source *s, struct err *err)
{
	return keys_protect(KEYS_ROOM, err) == 0 ? kek_stir(&s->conf, err) : -1;
}

int
source_export(const struct source *s, struct err *err)
{
	int failed;

	if (s->section != NULL)
		failed = setenv("WALCRYPT_CONFIG", s->settings->file, 1) | setenv("WALCRYPT_KEK", s->section, 1);
	else
		failed = setenv("WALCRYPT_KEK", s->conf.uri, 1);
	if (failed == 0 && s->conf.terminal_fd < 0 &&
	    ((strncmp(s->conf.uri, "command:", 8) == 0 && strstr(s->conf.uri, "%R") != NULL) ||
	     strcmp(s->conf.uri, "passphrase:ask") == 0)) {
		/* opened here because pg_ctl's setsid would leave the server without a terminal */
		int fd = open("/dev/tty", O_RDWR | O_NOCTTY);
		char number[16];

		if (fd >= 0) {
			snprintf(number, sizeof(number), "%d", fd);
			failed = setenv("WALCRYPT_TTY", number, 1);
		}
	}
	return failed != 0 ? err_nomem(err) : 0;
}
