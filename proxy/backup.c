/*
 * backup: BASE_BACKUP. The upstream's one COPY stream goes through the chain
 *   tar reader -> backup stage (keys, key directory, guard) -> tar writer -> manifest -> writer into out
 * From a clear upstream a clear node's backup is passed on as it comes.
 *
 * Page checksums are verified twice when the upstream is encrypted: by its storage layer, which can read a torn page
 * again and reports what is wrong as any server does, and by the stage, once it has opened the pages. What only the
 * stage finds, the upstream could not verify, or it happened on the way: that is told at the end, and fails the backup.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "keymgr/keydir_text.h"
#include "proxy/session_intern.h"
#include "proxy/spoolfile.h"
#include "replication/autoconf.h"
#include "replication/backupstage.h"
#include "replication/backupstream.h"
#include "replication/manifest.h"
#include "replication/tar.h"
#include "walcrypt/pgfile.h"

#define FAULTS_SHOWN 5

struct backup {
	struct command_backup wants;
	struct card *card;
	struct node_stats *stats;
	bool started; /* the first result, with the start, has come */
	bool sized;   /* the second one, with the tablespaces */
	bool whole;   /* it came to its good end */
	char *guard;
	uint64_t faults; /* pages with a wrong checksum; the first ones are kept */
	struct err fault[FAULTS_SHOWN];
	struct spoolfile *spoolfile;
	struct spool *spool;
	struct backupstream *stream; /* with the chain */
	struct stage *stage;         /* in the chain: its counts */
	struct stage *writer;        /* the last of the chain */
};

void
backup_free(struct backup *b)
{
	if (b == NULL)
		return;
	if (b->card->backup_since != 0 && !b->whole)
		b->stats->backups_failed++;
	b->card->backup_since = 0;
	free(b->guard);
	backupstream_free(b->stream);
	spool_free(b->spool);
	spoolfile_free(b->spoolfile);
	free(b);
}

/* Own *next: what was made takes it over; what was not leaves it to be freed. */
static int
chained(struct stage **next, struct stage *made)
{
	if (made == NULL)
		stage_free(*next);
	*next = made;
	return made == NULL ? -1 : 0;
}

/* The keyset in the keystore that has this relation key; NULL when there is none. */
static const struct site_node *
whose_key(const struct site *site, const char *relation_id)
{
	for (size_t i = 0; i < site->settings->nnodes; i++)
		if (site_keys(&site->nodes[i]) != NULL &&
		    strcmp(site_keys(&site->nodes[i])->info.relation_id, relation_id) == 0)
			return &site->nodes[i];
	return NULL;
}

/* What stands in the upstream's key directory must be what its node's keyset says. */
static int
on_keyset(void *arg, const uint8_t *text, size_t len, struct err *err)
{
	struct session *s = arg;
	const struct settings_node *node = s->up_node->settings;
	const struct site_node *other;
	char mac[KEYDIR_MAC_HEX_LEN];
	struct keydir_info info;

	if (text == NULL) {
		if (node->keyset == NULL)
			return 0;
		err_set(err, ERR_REFUSED, "it is not encrypted, but node \"%s\" has keyset \"%s\"", node->name, node->keyset);
		err_hint(err, "Set keyset = none for a clear server.");
		return err_sqlstate(err, "55000");
	}
	if (keydir_text_read("keyset.json", (const char *)text, len, &info, mac, err) != 0)
		return -1;
	if (node->keyset != NULL && strcmp(info.relation_id, site_keys(s->up_node)->info.relation_id) == 0)
		return 0;
	if (node->keyset == NULL)
		err_set(err, ERR_REFUSED, "it is encrypted under relation key %s, but node \"%s\" has no keyset",
		        info.relation_id, node->name);
	else
		err_set(err, ERR_WRONG_KEY, "it is encrypted under relation key %s, but keyset \"%s\" of node \"%s\" has %s",
		        info.relation_id, node->keyset, node->name, site_keys(s->up_node)->info.relation_id);
	if ((other = whose_key(s->site, info.relation_id)) != NULL)
		err_hint(err, "That is the key of keyset \"%s\": set it in [node %s].", other->settings->keyset, node->name);
	else
		err_hint(err, "No configured keyset has that key: put the server's keyset into the keystore.");
	return err_sqlstate(err, "55000");
}

static void
on_fault(void *arg, const char *path, uint32_t block, uint16_t stored, uint16_t calculated)
{
	struct session *s = arg;
	struct backup *b = s->backup;
	struct err *fault;

	if (b->faults++ >= FAULTS_SHOWN)
		return;
	fault = &b->fault[b->faults - 1];
	err_set(fault, ERR_DAMAGED,
	        "checksum verification failed in file \"%s\", block %" PRIu32 ": calculated %X but expected %X", path,
	        block, calculated, stored);
	session_log_err(s, LOG_WARNING, fault);
}

static uint8_t *
room(void *arg, size_t len)
{
	struct session *s = arg;

	return backupwriter_room(s->backup->writer, len);
}

/* From the far end back. */
static int
chain_make(struct session *s, struct err *err)
{
	struct backup *b = s->backup;
	static const struct site_keys clear;
	const struct site_keys *keys = site_keys(s->node) != NULL ? site_keys(s->node) : &clear;
	const struct keydir_files *files = &keys->files;
	struct backupstage_file *keyfiles = calloc(files->n + 1, sizeof(*keyfiles));
	struct backupstage_conf conf = {.upstream = site_keyset(s->up_node),
	                                .downstream = keys->keyset,
	                                .keyfiles = keyfiles,
	                                .nkeyfiles = files->n,
	                                .relation_id = keys->info.relation_id,
	                                .guard = b->guard,
	                                .verify = b->wants.verify_checksums && upstream_facts(s->up)->checksums,
	                                .checksums = b->wants.checksums,
	                                .mtime = (uint64_t)time(NULL),
	                                .hooks = {s, room, on_keyset, on_fault}};
	struct stage *next;
	int rc = -1;

	if (keyfiles == NULL)
		return err_nomem(err);
	for (size_t i = 0; i < files->n; i++)
		keyfiles[i] = (struct backupstage_file){files->file[i].name, files->file[i].data, files->file[i].len};
	if (b->wants.manifest) {
		if ((b->spoolfile = spoolfile_new(s->site->settings->keystore, err)) == NULL)
			goto out;
		if ((b->spool = spool_new(spoolfile_io(b->spoolfile), err)) == NULL)
			goto out;
		conf.spool = b->spool;
	}
	if ((next = backupwriter_new(&s->out, SESSION_BULK_HIGH, err)) == NULL)
		goto out;
	b->writer = next;
	if (b->wants.manifest && chained(&next, manifest_new(b->wants.checksums, b->spool, next, err)) != 0)
		goto out;
	if (chained(&next, tar_writer_new(next, err)) != 0 || chained(&next, backupstage_new(&conf, next, err)) != 0)
		goto out;
	b->stage = next;
	if (chained(&next, tar_reader_new(next, err)) != 0)
		goto out;
	if ((b->stream = backupstream_new(next, err)) == NULL) {
		stage_free(next);
		goto out;
	}
	rc = 0;
out:
	free(keyfiles);
	return rc;
}

static void
broken(struct session *s, struct err *err)
{
	if (err->class == ERR_WRONG_KEY && err->hint[0] == '\0' && site_keyset(s->up_node) != NULL)
		err_hint(err,
		         "Is the server under keyset \"%s\", as [node %s] says? walcrypt-ctl key show -D its data directory.",
		         s->up_node->settings->keyset, s->up_node->settings->name);
	err_context(err, "base backup from upstream \"%s\"", upstream_name(s->up));
	session_drop(s, err);
}

static int
backup_copy(struct session *s, uint8_t *data, size_t len)
{
	struct err err = {0};
	int rc;

	s->card.backup_done += len;
	if (s->backup->stream == NULL)
		rc = message_copy_data(&s->out, data, len, &err);
	else
		rc = backupstream_push(s->backup->stream, data, len, &err);
	if (rc < 0) {
		broken(s, &err);
		return 0;
	}
	session_put(s);
	session_io_ahead(s);
	return session_pause(s);
}

static void
backup_copy_end(struct session *s, bool waits, const PGresult *first)
{
	struct backup *b = s->backup;
	struct err err = {0};

	(void)waits;
	session_bulk(s, false);
	if (first != NULL && PQresultStatus(first) == PGRES_FATAL_ERROR)
		return; /* passed on as it comes */
	if ((b->stream != NULL && backupstream_finish(b->stream, &err) != 0) || message_copy_done(&s->out, &err) != 0) {
		broken(s, &err);
		return;
	}
	if (b->stage != NULL) {
		const struct backupstage_counts *n = backupstage_counted(b->stage);

		session_log(s, LOG_INFO,
		            "base backup: %" PRIu64 " relation files (%" PRIu64 " MiB) and %" PRIu64 " WAL files %s, %" PRIu64
		            " other files",
		            n->relation_files, n->relation_bytes >> 20, n->wal_files,
		            site_keyset(s->node) == NULL      ? "opened"
		            : site_keyset(s->up_node) == NULL ? "encrypted"
		                                              : "encrypted anew",
		            n->other_files);
	}
	session_put(s);
}

/* The backup came whole, but what is in it is not. */
static void
say_faults(struct session *s)
{
	const struct backup *b = s->backup;
	struct err err = {0}, why;

	err_set(&why, ERR_DAMAGED, "%" PRIu64 " total checksum verification failures", b->faults);
	for (uint64_t i = 0; i < b->faults && i < FAULTS_SHOWN; i++)
		if (message_notice(&s->out, "WARNING", &b->fault[i], &err) != 0)
			goto fail;
	if (b->faults > 1 && message_notice(&s->out, "WARNING", &why, &err) != 0)
		goto fail;
	err_set(&why, ERR_DAMAGED, "checksum verification failure during base backup");
	err_sqlstate(&why, "XX001");
	err_hint(&why, "walcrypt-ctl verify looks at each page of upstream \"%s\".", upstream_name(s->up));
	session_refuse(s, &why);
	return;
fail:
	session_drop(s, &err);
}

/* Before the COPY: the backup's start. */
static int
take_start(struct session *s, const PGresult *res, struct err *err)
{
	uint64_t lsn;

	if (s->backup->stage == NULL || s->state != SESSION_COMMAND)
		return 0;
	if (PQntuples(res) == 1 && PQnfields(res) >= 1 && lsn_parse(PQgetvalue(res, 0, 0), &lsn) == 0) {
		backupstage_start(s->backup->stage, lsn);
		return 0;
	}
	err_set(err, ERR_FAILED, "upstream \"%s\" does not say where the base backup begins", upstream_name(s->up));
	return err_sqlstate(err, "08P01");
}

static void
whole(struct session *s)
{
	s->backup->whole = true;
	s->stats->backups++;
	s->stats->last_backup = time(NULL);
}

/* The tablespaces, each with its size in KiB if the client has asked for the progress. */
static void
take_sizes(struct session *s, const PGresult *res)
{
	uint64_t kib = 0;

	s->backup->sized = true;
	if (PQnfields(res) < 3)
		return;
	for (int row = 0; row < PQntuples(res); row++)
		kib += strtoull(PQgetvalue(res, row, 2), NULL, 10);
	s->card.backup_size = kib << 10;
}

static void
backup_result(struct session *s, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);
	struct backup *b = s->backup;
	struct err err = {0};

	if (res == NULL && b->faults > 0)
		say_faults(s);
	else if (res == NULL)
		session_ready(s);
	else if (status == PGRES_TUPLES_OK && !b->started) {
		b->started = true;
		if (take_start(s, res, &err) == 0)
			session_pass(s, res);
		else {
			PQclear(res);
			session_drop(s, &err);
		}
	} else if (status == PGRES_TUPLES_OK && !b->sized) {
		take_sizes(s, res);
		session_pass(s, res);
	} else if (status == PGRES_COMMAND_OK && b->faults > 0)
		PQclear(res); /* say_faults has another word for it */
	else if (status == PGRES_COPY_OUT && s->state == SESSION_COMMAND) {
		session_move(s, SESSION_BACKUP);
		s->card.backup_since = time(NULL);
		session_bulk(s, true);
		session_pass(s, res);
	} else if (status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) {
		PQclear(res);
		err_set(&err, ERR_FAILED, "upstream \"%s\" answers BASE_BACKUP with another COPY", upstream_name(s->up));
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
	} else {
		if (status == PGRES_FATAL_ERROR)
			b->faults = 0; /* one error is enough */
		if (status == PGRES_COMMAND_OK && !b->whole)
			whole(s);
		session_pass(s, res);
	}
}

static const struct session_mode backup_mode = {backup_result, backup_copy, backup_copy_end};

static void
start(struct session *s)
{
	struct err err = {0};
	char *sql;

	if (command_write(&s->command, &sql, &err) != 0) {
		session_refuse(s, &err);
		return;
	}
	session_query(s, sql, &backup_mode);
	free(sql);
}

static void
on_libraries(struct session *s, const PGresult *res)
{
	struct err err = {0};
	const char *libraries;

	if (res == NULL || PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1) {
		const char *said = res == NULL ? NULL : PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

		err_set(&err, ERR_REFUSED, "upstream \"%s\" does not tell its shared_preload_libraries", upstream_name(s->up));
		err_sqlstate(&err, "42501");
		if (said != NULL)
			err_detail(&err, "%s", said);
		err_hint(
		    &err,
		    "Walcrypt puts its guard behind them. Run: GRANT pg_read_all_settings TO the role of the node's conninfo.");
		session_refuse(s, &err);
		return;
	}
	libraries = PQgetvalue(res, 0, 0);
	if (strstr(libraries, AUTOCONF_LAYER) != NULL && site_keyset(s->up_node) == NULL) {
		err_set(&err, ERR_REFUSED, "upstream \"%s\" is an encrypted server, but its node has no keyset",
		        upstream_name(s->up));
		err_sqlstate(&err, "55000");
		err_hint(&err, "Set keyset and kek in [node %s], so that what it sends can be read.", upstream_name(s->up));
		session_refuse(s, &err);
		return;
	}
	s->backup->guard =
	    autoconf_guard(libraries, site_keyset(s->node) != NULL ? s->site->settings->guard_library : NULL, &err);
	if (s->backup->guard == NULL || chain_make(s, &err) != 0)
		session_refuse(s, &err);
	else
		start(s);
}

void
backup_begin(struct session *s)
{
	struct err err = {0};

	if ((s->backup = calloc(1, sizeof(*s->backup))) == NULL) {
		err_nomem(&err);
		session_drop(s, &err);
		return;
	}
	s->backup->card = &s->card;
	s->backup->stats = s->stats;
	s->card.backup_done = s->card.backup_size = 0;
	if (command_backup(&s->command, &s->backup->wants, &err) != 0)
		session_refuse(s, &err);
	else if (site_keyset(s->node) == NULL && site_keyset(s->up_node) == NULL)
		start(s);
	else if (site_keyset(s->node) != NULL && !upstream_facts(s->up)->checksums &&
	         !s->site->settings->allow_no_checksums) {
		err_set(&err, ERR_REFUSED, "upstream \"%s\" has no data checksums", upstream_name(s->up));
		err_sqlstate(&err, "55000");
		err_detail(&err, "Without them damage to an encrypted page goes unnoticed.");
		err_hint(&err, "Stop the server and run pg_checksums --enable, or set allow_no_checksums = on.");
		session_refuse(s, &err);
	} else
		session_ask(s, "SHOW shared_preload_libraries", on_libraries);
}
