/*
 * old: what becomes of the old primary when the new one has taken over.
 *
 * Re-encrypted, it keeps the name of its keyset, so that nobody edits the configuration: the new keys are made in the
 * keystore as NAME-next, the directory is put under them, then NAME becomes NAME-before-TIMELINE and NAME-next NAME,
 * and the proxy reads the keystore again. Cut off anywhere, what is there says what is left to do.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/layer.h"
#include "ctl/proxy_address.h"
#include "ctl/reencrypt_record.h"
#include "ctl/switchover/self.h"
#include "ctl/switchover/switchover.h"
#include "keymgr/keydir.h"

#define AUTO_CONF_MAX (1 << 20)

/* Where a standby of this name finds the proxy, unless its directory says so already. */
static int
conninfo_put(const struct switchover *s, struct err *err)
{
	const struct settings_node *n = s->from_set;
	struct proxy_address p = {0};
	char path[PATH_MAX], *whole = NULL;
	uint8_t *text;
	size_t len;
	int result = -1;

	if (path_format(path, err, "%s/postgresql.auto.conf", n->datadir) != 0 ||
	    (text = durable_read(path, AUTO_CONF_MAX, &len, err)) == NULL)
		return -1;
	if (strncmp((char *)text, "primary_conninfo", 16) == 0 || strstr((char *)text, "\nprimary_conninfo") != NULL)
		result = 0;
	else if (proxy_address_find(s->settings, &p, err) != 0)
		;
	else if (strpbrk(p.host, "'\\ ") != NULL)
		err_set(err, ERR_REFUSED, "the proxy's address \"%.100s\" cannot be put into primary_conninfo", p.host);
	else if (asprintf(&whole, "%s%sprimary_conninfo = 'host=%s port=%s user=%s application_name=%s'\n", (char *)text,
	                  len > 0 && text[len - 1] != '\n' ? "\n" : "", p.host, p.port, n->name, n->name) < 0) {
		whole = NULL;
		err_nomem(err);
	} else
		result = durable_write(path, whole, strlen(whole), 0600, err);
	free(whole);
	free(text);
	return result;
}

static int
old_streams(struct switchover *s, struct err *err)
{
	struct stream_facts f;
	int there = switchover_stream(s, s->log.from, &f, err);

	return there < 0 ? -1 : there == 1 && f.runs && strcmp(f.upstream, s->log.to) == 0;
}

/* Start it as a standby of the new primary, through the proxy. */
static int
follow(struct switchover *s, struct err *err)
{
	return control_fence(&s->from_control, true, err) != 0 || conninfo_put(s, err) != 0 ||
	               control_start(&s->from_control, err) != 0
	           ? -1
	           : switchover_wait(s, "streaming of the old primary, as a standby,", old_streams, err);
}

struct renewal {
	char now[PATH_MAX], next[PATH_MAX], before[PATH_MAX], directory[PATH_MAX];
	char next_name[SETTINGS_NAME_MAX + 1];
};

static int
relation_id(const char *path, char id[static KEY_ID_HEX_LEN], struct err *err)
{
	struct keydir_info info;

	if (keydir_read_info(path, &info, err) != 0)
		return -1;
	memcpy(id, info.relation_id, sizeof(info.relation_id));
	return 0;
}

static int
keys_make(const struct switchover *s, const struct renewal *r, struct err *err)
{
	char identifier[24];
	const char *const args[] = {"key",
	                            "init",
	                            r->next_name,
	                            "--kek",
	                            s->from_set->kek,
	                            "--wal-key-of",
	                            s->to_set->keyset != NULL ? s->to_set->keyset : s->from_set->keyset,
	                            "--system-identifier",
	                            identifier,
	                            NULL};

	if (keydir_exists(r->next))
		return 0;
	snprintf(identifier, sizeof(identifier), "%" PRIu64, s->log.system_identifier);
	return self_run(s->settings, args, NULL, err);
}

static int
reencrypt(const struct switchover *s, const struct renewal *r, struct err *err)
{
	const char *const begin[] = {"reencrypt",      "-D",       s->from_set->datadir, "--to", r->next_name, "--kek",
	                             s->from_set->kek, "--to-kek", s->from_set->kek,     NULL};
	const char *const resume[] = {"reencrypt",      "-D",       s->from_set->datadir, "--resume", "--kek",
	                              s->from_set->kek, "--to-kek", s->from_set->kek,     NULL};
	char record[PATH_MAX], is[KEY_ID_HEX_LEN], shall[KEY_ID_HEX_LEN];
	struct err ignored;

	if (path_format(record, err, "%s/" REENCRYPT_DIR "/record", s->from_set->datadir) != 0)
		return -1;
	if (access(record, F_OK) == 0)
		return self_run(s->settings, resume, NULL, err);
	if (relation_id(r->next, shall, err) != 0)
		return -1;
	return relation_id(r->directory, is, &ignored) == 0 && strcmp(is, shall) == 0
	           ? 0
	           : self_run(s->settings, begin, NULL, err);
}

static int
keystore_settle(const struct renewal *r, struct err *err)
{
	if (keydir_exists(r->next) && keydir_exists(r->now) && durable_rename(r->now, r->before, err) != 0)
		return -1;
	return keydir_exists(r->next) ? durable_rename(r->next, r->now, err) : 0;
}

/* Does the proxy know the new relation key? It says so when it has read the keystore again. */
static int
proxy_knows(struct switchover *s, struct err *err)
{
	char path[PATH_MAX], id[KEY_ID_HEX_LEN];
	PGresult *r;
	int knows = 0;

	if (path_format(path, err, "%s/%s", s->settings->keystore, s->from_set->keyset) != 0 ||
	    relation_id(path, id, err) != 0 || (r = switchover_console(s, "SHOW NODES", err)) == NULL)
		return -1;
	for (int i = 0; i < PQntuples(r); i++) {
		const char *name = row_value(r, i, "name"), *key = row_value(r, i, "relation_key");

		knows = knows || (name != NULL && key != NULL && strcmp(name, s->from_set->name) == 0 && strcmp(key, id) == 0);
	}
	PQclear(r);
	return knows;
}

static int
renew(struct switchover *s, struct err *err)
{
	const struct settings_node *n = s->from_set;
	struct renewal r;
	PGresult *reload;

	if (snprintf(r.next_name, sizeof(r.next_name), "%s-next", n->keyset) >= (int)sizeof(r.next_name))
		return err_set(err, ERR_REFUSED, "the name of keyset \"%s\" is too long to renew it", n->keyset);
	if (path_format(r.now, err, "%s/%s", s->settings->keystore, n->keyset) != 0 ||
	    path_format(r.next, err, "%s/%s", s->settings->keystore, r.next_name) != 0 ||
	    path_format(r.before, err, "%s/%s-before-%" PRIu32, s->settings->keystore, n->keyset, s->log.new_tli) != 0 ||
	    path_format(r.directory, err, "%s/pg_cryptokeys", n->datadir) != 0)
		return -1;
	/* once it is under the new keys only names are left */
	if (!keydir_exists(r.before) && (keys_make(s, &r, err) != 0 || reencrypt(s, &r, err) != 0))
		return -1;
	if (keystore_settle(&r, err) != 0 || (reload = switchover_console(s, "RELOAD", err)) == NULL)
		return -1;
	PQclear(reload);
	return switchover_wait(s, "the proxy's reading of the new keys", proxy_knows, err);
}

int
old_settle(struct switchover *s, struct err *err)
{
	if (s->log.old_fate == SWITCH_OLD_STOP)
		return 0;
	/* cut off when it ran already */
	if (control_running(&s->from_control) == 1)
		return switchover_wait(s, "streaming of the old primary, as a standby,", old_streams, err);
	if (s->log.old_fate == SWITCH_OLD_REENCRYPT && renew(s, err) != 0)
		return -1;
	return follow(s, err);
}
