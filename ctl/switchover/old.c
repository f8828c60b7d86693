/*
 * old: what becomes of the old primary when the new one has taken over.
 *
 * Re-encrypted, it keeps the name of its keyset, so that nobody edits the configuration: the new keys are made in the
 * keystore as NAME-next, the directory is put under them, then NAME becomes NAME-before-TIMELINE and NAME-next NAME,
 * and the proxy reads the keystore again. Cut off anywhere, what is there says what is left to do. A directory that is
 * not there any more is built anew, under the new keys.
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
#include "ctl/server_setting.h"
#include "ctl/switchover/self.h"
#include "ctl/switchover/slots.h"
#include "ctl/switchover/switchover.h"
#include "keymgr/keydir.h"

#define AUTO_CONF_MAX (1 << 20)

/* Does its configuration, in whichever file, say where it streams from? auto_conf is what is in postgresql.auto.conf,
 * where the rest of it cannot be found. */
static bool
has_conninfo(const char *datadir, const char *auto_conf)
{
	char value[PATH_MAX];
	struct err ignored;

	if (server_setting(datadir, NULL, "primary_conninfo", value, &ignored) == 0)
		return value[0] != '\0';
	return strncmp(auto_conf, "primary_conninfo", 16) == 0 || strstr(auto_conf, "\nprimary_conninfo") != NULL;
}

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

	if (n->datadir == NULL) /* it has been asked beforehand */
		return 0;
	if (path_format(path, err, "%s/postgresql.auto.conf", n->datadir) != 0 ||
	    (text = durable_read(path, AUTO_CONF_MAX, &len, err)) == NULL)
		return -1;
	if (has_conninfo(n->datadir, (char *)text))
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
start(const struct switchover *s, struct err *err)
{
	return control_fence(&s->from_control, true, err) != 0 || conninfo_put(s, err) != 0 ||
	               control_start(&s->from_control, err) != 0
	           ? -1
	           : 0;
}

/* Its encrypted directory, on this machine, was removed: it is to be built anew. */
static bool
is_gone(const struct settings_node *n)
{
	return n->datadir != NULL && n->keyset != NULL && !node_is_built(n);
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

	if (s->from_set->keys != NULL)
		return control_keys(&s->from_control, "reencrypt", r->next, err);
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
	for (int i = 0; i < PQntuples(r); i++)
		knows = knows || (row_is(r, i, "name", s->from_set->name) && row_is(r, i, "relation_key", id));
	PQclear(r);
	return knows;
}

/* Has the keystore, under the node's name, other keys than the old primary had when it was stopped? */
static bool
is_renewed(const struct switchover *s)
{
	char path[PATH_MAX], id[KEY_ID_HEX_LEN];
	struct err ignored;

	return path_format(path, &ignored, "%s/%s", s->settings->keystore, s->from_set->keyset) == 0 &&
	       relation_id(path, id, &ignored) == 0 && strcmp(id, s->log.before.relation) != 0;
}

/* The name that the keys of before will have is free, unless another cluster's timelines had the same numbers. */
static int
check_before(const struct renewal *r, struct err *err)
{
	if (!keydir_exists(r->before))
		return 0;
	err_set(err, ERR_REFUSED, "keyset \"%.180s\" is there already", r->before);
	return err_hint(err, "It is of another time. Give that folder another name, then go on with --resume.");
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
	    (n->datadir != NULL && path_format(r.directory, err, "%s/pg_cryptokeys", n->datadir) != 0))
		return -1;
	/* once it is under the new keys only names are left */
	if (keydir_exists(r.now) && !is_renewed(s) &&
	    (check_before(&r, err) != 0 || keys_make(s, &r, err) != 0 ||
	     (!is_gone(s->from_set) && reencrypt(s, &r, err) != 0)))
		return -1;
	if (keystore_settle(&r, err) != 0 || (reload = switchover_console(s, "RELOAD", err)) == NULL)
		return -1;
	PQclear(reload);
	return switchover_wait(s, "the proxy's reading of the new keys", proxy_knows, err);
}

/* Can it follow? Only as what it was when it stopped; one that was a primary again since has WAL that nobody else has.
 */
static int
check_unchanged(const struct switchover *s, struct err *err)
{
	struct datadir_control data;
	struct err ignored;

	/* what is being re-encrypted has its pg_control elsewhere */
	if (is_gone(s->from_set) || control_read(&s->from_control, &data, &ignored) != 0 || data.tli > s->log.tli ||
	    data.checkpoint == s->log.checkpoint)
		return 0;
	err_set(err, ERR_REFUSED, "\"%s\" was a primary again since it was stopped, so it cannot follow", s->log.from);
	err_detail(err, "Its last checkpoint is not the one that was proven.");
	return s->from_set->datadir == NULL || s->from_set->keyset == NULL
	           ? err_hint(err, "Build it anew through the proxy and start it, then go on with --resume.")
	           : err_hint(err, "Remove its data directory \"%.150s\"; --resume builds it anew then.",
	                      s->from_set->datadir);
}

int
old_settle(struct switchover *s, struct err *err)
{
	const struct settings_node *n = s->from_set;

	if (s->log.old_fate == SWITCH_OLD_STOP)
		return 0;
	/* started by somebody while the switchover was cut off, it is a standby under its old keys */
	if (s->log.old_fate == SWITCH_OLD_REENCRYPT && !is_renewed(s) && !is_gone(n)) {
		node_close(&s->from);
		if (control_stop(&s->from_control, false, err) != 0)
			return -1;
	}
	/* cut off when it ran already */
	if (control_running(&s->from_control) != 1 &&
	    (check_unchanged(s, err) != 0 || (s->log.old_fate == SWITCH_OLD_REENCRYPT && renew(s, err) != 0) ||
	     (is_gone(n) && node_build(s, n, err) != 0) || start(s, err) != 0))
		return -1;
	if (switchover_wait(s, "streaming of the old primary, as a standby,", old_streams, err) != 0)
		return -1;
	slots_leave(s);
	return 0;
}
