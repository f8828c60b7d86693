/*
 * backup: BASE_BACKUP. The upstream's one COPY stream goes through the chain
 *   tar reader -> backup stage (encrypts, key directory, guard) -> tar writer -> manifest -> writer into out
 * A clear node's backup is passed on as it comes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proxy/session_intern.h"
#include "proxy/spoolfile.h"
#include "replication/backupstage.h"
#include "replication/backupstream.h"
#include "replication/manifest.h"
#include "replication/tar.h"

#define GUARD_MAX 8192
#define LAYER_NAME "libwalcrypt-storage"

struct backup {
	struct command_backup wants;
	char guard[GUARD_MAX];
	struct spoolfile *spoolfile;
	struct spool *spool;
	struct backupstream *stream; /* with the chain */
	struct stage *stage;         /* in the chain: its counts */
};

void
backup_free(struct backup *b)
{
	if (b == NULL)
		return;
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

/* From the far end back. */
static int
chain_make(struct session *s, struct err *err)
{
	struct backup *b = s->backup;
	const struct keydir_files *files = &s->node->files;
	struct backupstage_file *keyfiles = calloc(files->n + 1, sizeof(*keyfiles));
	struct backupstage_conf conf = {.keyset = s->node->keyset,
	                                .keyfiles = keyfiles,
	                                .nkeyfiles = files->n,
	                                .guard = b->guard,
	                                .checksums = b->wants.checksums,
	                                .mtime = (uint64_t)time(NULL)};
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
	if ((next = backupwriter_new(&s->out, SESSION_OUT_HIGH, err)) == NULL)
		goto out;
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
	err_context(err, "base backup from upstream \"%s\"", upstream_name(s->up));
	session_drop(s, err);
}

static int
backup_copy(struct session *s, uint8_t *data, size_t len)
{
	struct err err = {0};
	int rc;

	if (s->backup->stream == NULL)
		rc = message_copy_data(&s->out, data, len, &err) != 0 ? -1 : buffer_len(&s->out) > SESSION_OUT_HIGH;
	else
		rc = backupstream_push(s->backup->stream, data, len, &err);
	if (rc < 0) {
		broken(s, &err);
		return 0;
	}
	session_put(s);
	return session_pause(s);
}

static void
backup_copy_end(struct session *s, bool waits, const PGresult *first)
{
	struct backup *b = s->backup;
	struct err err = {0};

	(void)waits;
	upstream_bulk(s->up, false);
	if (first != NULL && PQresultStatus(first) == PGRES_FATAL_ERROR)
		return; /* passed on as it comes */
	if ((b->stream != NULL && backupstream_finish(b->stream, &err) != 0) || message_copy_done(&s->out, &err) != 0) {
		broken(s, &err);
		return;
	}
	if (b->stage != NULL) {
		const struct backupstage_counts *n = backupstage_counted(b->stage);

		log_info("session %u (%s): base backup: %" PRIu64 " relation files (%" PRIu64 " MiB) and %" PRIu64
		         " WAL files encrypted, %" PRIu64 " other files",
		         s->card.id, s->card.node, n->relation_files, n->relation_bytes >> 20, n->wal_files, n->other_files);
	}
	session_put(s);
}

static void
backup_result(struct session *s, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);
	struct err err = {0};

	if (res == NULL)
		session_ready(s);
	else if (status == PGRES_COPY_OUT && s->state == SESSION_COMMAND) {
		session_move(s, SESSION_BACKUP);
		upstream_bulk(s->up, true);
		session_pass(s, res);
	} else if (status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) {
		PQclear(res);
		err_set(&err, ERR_FAILED, "upstream \"%s\" answers BASE_BACKUP with another COPY", upstream_name(s->up));
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
	} else
		session_pass(s, res);
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

/* Put text into a quoted value of postgresql.conf. */
static void
quote(char *out, size_t max, size_t *used, const char *text)
{
	for (; *text != '\0' && *used + 3 < max; text++) {
		if (*text == '\'' || *text == '\\')
			out[(*used)++] = *text;
		out[(*used)++] = *text;
	}
}

/* The lines that make the standby refuse to start without the storage layer. */
static int
guard_make(struct session *s, const char *libraries, struct err *err)
{
	static const char head[] =
	    "# walcrypt: this directory is encrypted; without its storage layer the server must not start\n"
	    "shared_preload_libraries = '";
	const char *library = s->site->settings->guard_library;
	char *out = s->backup->guard;
	size_t used = sizeof(head) - 1;
	bool odd = strpbrk(library, " ,") != NULL;

	if (2 * strlen(libraries) + 2 * strlen(library) + sizeof(head) + 16 > GUARD_MAX)
		return err_set(err, ERR_REFUSED, "shared_preload_libraries of upstream \"%s\" is too long",
		               upstream_name(s->up));
	memcpy(out, head, used);
	quote(out, GUARD_MAX, &used, libraries);
	quote(out, GUARD_MAX, &used, *libraries != '\0' ? ", " : "");
	quote(out, GUARD_MAX, &used, odd ? "\"" : "");
	quote(out, GUARD_MAX, &used, library);
	quote(out, GUARD_MAX, &used, odd ? "\"" : "");
	memcpy(out + used, "'\n", 3);
	return 0;
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
	if (strstr(libraries, LAYER_NAME) != NULL) {
		err_set(&err, ERR_REFUSED, "upstream \"%s\" is an encrypted server", upstream_name(s->up));
		err_sqlstate(&err, "0A000");
		err_hint(&err, "This version of walcrypt builds encrypted standbys from an unencrypted primary only.");
		session_refuse(s, &err);
		return;
	}
	if (guard_make(s, libraries, &err) != 0 || chain_make(s, &err) != 0)
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
	} else if (command_backup(&s->command, &s->backup->wants, &err) != 0)
		session_refuse(s, &err);
	else if (s->node->keyset == NULL)
		start(s);
	else if (!upstream_facts(s->up)->checksums && !s->site->settings->allow_no_checksums) {
		err_set(&err, ERR_REFUSED, "upstream \"%s\" has no data checksums", upstream_name(s->up));
		err_sqlstate(&err, "55000");
		err_detail(&err, "Without them damage to an encrypted page goes unnoticed.");
		err_hint(&err, "Stop the server and run pg_checksums --enable, or set allow_no_checksums = on.");
		session_refuse(s, &err);
	} else
		session_ask(s, "SHOW shared_preload_libraries", on_libraries);
}
