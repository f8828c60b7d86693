/*
 * upload: UPLOAD_MANIFEST, on which an incremental base backup builds. The manifest passes on as it is: the server
 * looks at WAL ranges and names in it. It must be of a backup under the session's own relation key, for
 * pg_combinebackup puts old and new blocks together as they are.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/session_intern.h"
#include "replication/manifest_key.h"

struct upload {
	struct manifest_key key;
	bool ended;
	bool refused; /* why is what the client is told, whatever the server says */
	struct err why;
};

void
upload_free(struct upload *u)
{
	free(u);
}

bool
upload_waits(const struct session *s)
{
	return !s->upload->ended;
}

/* May what is uploaded be the beginning of this session's backups? */
static int
check(const struct session *s, struct err *err)
{
	const struct manifest_key *key = &s->upload->key;
	const char *want = site_keys(s->node) != NULL ? site_keys(s->node)->info.relation_id : "";

	if (!key->several && strcmp(key->id, want) == 0)
		return 0;
	if (key->id[0] == '\0')
		err_set(err, ERR_REFUSED, "the manifest is of a backup without walcrypt's keys, but \"%s\" has relation key %s",
		        s->card.node, want);
	else if (*want == '\0')
		err_set(err, ERR_REFUSED, "the manifest is of a backup under relation key %s, but \"%s\" is clear", key->id,
		        s->card.node);
	else
		err_set(err, ERR_REFUSED, "the manifest is of a backup under relation key %s%s, but \"%s\" has %s", key->id,
		        key->several ? " and others" : "", s->card.node, want);
	err_sqlstate(err, "55000");
	return err_hint(err, "Old and new blocks would not fit together: take a full backup as \"%s\" first.",
	                s->card.node);
}

static void
upload_result(struct session *s, PGresult *res)
{
	struct upload *u = s->upload;
	struct err err = {0};

	if (res == NULL && u->refused)
		session_refuse(s, &u->why);
	else if (res == NULL)
		session_ready(s);
	else if (PQresultStatus(res) == PGRES_COPY_IN && s->state == SESSION_COMMAND) {
		message_reader_phase(&s->in, MESSAGE_UPLOAD);
		session_move(s, SESSION_UPLOAD);
		session_pass(s, res);
	} else if (PQresultStatus(res) == PGRES_COPY_IN || PQresultStatus(res) == PGRES_COPY_OUT ||
	           PQresultStatus(res) == PGRES_COPY_BOTH) {
		PQclear(res);
		err_set(&err, ERR_FAILED, "upstream \"%s\" answers UPLOAD_MANIFEST with another COPY", upstream_name(s->up));
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
	} else if (u->refused)
		PQclear(res); /* it says that we have failed the copy */
	else
		session_pass(s, res);
}

static const struct session_mode upload_mode = {.result = upload_result};

void
upload_message(struct session *s, const struct message *m)
{
	struct upload *u = s->upload;
	struct err err = {0};
	char said[200];
	int rc = 0;

	if (u->ended || m->type == 'H' || m->type == 'S')
		return; /* the server has not answered yet; or nothing that a COPY needs */
	if (m->type == 'd') {
		manifest_key_push(&u->key, m->data, m->len);
		rc = upstream_copy_put(s->up, m->data, m->len, &err);
	} else {
		u->ended = true;
		if (m->type == 'f') {
			snprintf(said, sizeof(said), "%.*s", (int)strnlen((const char *)m->data, m->len), (const char *)m->data);
			rc = upstream_copy_fail(s->up, said, &err);
		} else if (check(s, &u->why) != 0) {
			u->refused = true;
			rc = upstream_copy_fail(s->up, "the manifest is of a backup under another key", &err);
		} else
			rc = upstream_copy_done(s->up, &err);
	}
	if (rc != 0)
		session_drop(s, &err);
}

void
upload_begin(struct session *s)
{
	struct err err = {0};

	if (upstream_facts(s->up)->version / 10000 < 17) {
		err_set(&err, ERR_REFUSED, "upstream \"%s\" is PostgreSQL %d: incremental base backups begin with 17",
		        upstream_name(s->up), upstream_facts(s->up)->version / 10000);
		err_sqlstate(&err, "0A000");
		err_hint(&err, "Take a full backup: use pg_basebackup without --incremental.");
		session_refuse(s, &err);
	} else if ((s->upload = calloc(1, sizeof(*s->upload))) == NULL) {
		err_nomem(&err);
		session_drop(s, &err);
	} else
		session_query(s, "UPLOAD_MANIFEST", &upload_mode);
}
